"""PANTHER, AutoPET III, MSWAL, AbdomenAtlas and Decathlon folders: what becomes of each of their quirks."""

import csv
import json

import numpy as np
import pytest

import downloads
from backsplit.datasets import conversion
from backsplit.datasets.abdomenatlas import ORGANS, open_abdomenatlas
from backsplit.datasets.autopet3 import open_autopet3
from backsplit.datasets.msd import open_msd
from backsplit.datasets.mswal import TARGETS, open_mswal
from backsplit.datasets.panther import open_panther
from backsplit.errors import CohortError
from backsplit.volume import Volume, read_labels, read_volume, write_volume
from studies import run

LESION_FREE = downloads.AUTOPET_IDS[5]


def converted(download, folder, *, allow_drops=False):
    return conversion.convert(download, folder, allow_drops=allow_drops).cohort


@pytest.mark.parametrize(
    ("name", "targets", "auxiliaries"),
    [
        ("panther", ["tumor"], ["pancreas"]),
        ("autopet3", ["tumor"], []),
        ("mswal", list(TARGETS), []),
        ("abdomenatlas", list(ORGANS), []),
        ("msd", ["tumor"], ["liver"]),
    ],
)
def test_from_download_to_training_data(tmp_path, name, targets, auxiliaries):
    source = getattr(downloads, name)(tmp_path / "download")
    workspace = ("--workspace", tmp_path / "study")
    run("convert", name, source, tmp_path / "cohort", "--jobs", 1)
    chosen = ["--targets", *targets, *(["--auxiliaries", *auxiliaries] if auxiliaries else [])]
    run("compose", tmp_path / "cohort", *chosen, *workspace)
    sizes = ("--features", 4, 8, "--patch-size", 8, 8, 8, "--batch-size", 2)
    run("prepare", *workspace, *sizes, "--folds", 2, "--processes", 1)
    plans = json.loads(next((tmp_path / "study" / "preprocessed").rglob("nnUNetPlans.json")).read_text())
    schemes = plans["configurations"]["3d_fullres"]["normalization_schemes"]
    if name == "autopet3":
        assert schemes == ["CTNormalization", "ZScoreNormalization"]
        folds = json.loads(next((tmp_path / "study" / "preprocessed").rglob("splits_final.json")).read_text())
        assert folds[0]["val"] == list(downloads.AUTOPET_IDS[:2])


@pytest.mark.parametrize("top", [True, False])
def test_panther_at_either_depth(tmp_path, top):
    cohort = converted(open_panther(downloads.panther(tmp_path / "in", top=top)), tmp_path / "out")
    assert [(case.name, case.group) for case in cohort.cases] == [
        *(("10000_0001", "10000"), ("10000_0002", "10000"), ("10001_0001", "10001")),
    ]
    assert (cohort.channels, cohort.cases[0].images[0].suffix) == (("MR",), ".mha")
    assert cohort.label_names == ((0, "background"), (1, "tumor"), (2, "pancreas"))
    assert all(case.annotated is None for case in cohort.cases)


def test_panther_says_how_many_images_it_leaves_aside(tmp_path, caplog):
    with caplog.at_level("INFO"):
        open_panther(downloads.panther(tmp_path)).find()
    assert "panther: 1 images of ImagesTr_unlabeled are not used" in caplog.text


def test_panther_case_without_a_pancreas_is_annotated_for_the_tumor_alone(tmp_path):
    source = downloads.panther(tmp_path / "in")
    write_volume(downloads.labels(0, 1), source / "PANTHER_Task1" / "LabelsTr" / "10001_0001.mha")
    cohort = converted(open_panther(source), tmp_path / "out")
    assert [case.annotated for case in cohort.cases] == [None, None, ("tumor",)]


def test_panther_that_was_half_downloaded(tmp_path):
    source = downloads.panther(tmp_path / "in")
    (source / "PANTHER_Task1" / "LabelsTr" / "10000_0001.mha").unlink()
    (source / "PANTHER_Task1" / "ImagesTr" / "10001_0001_0000.mha").unlink()
    told = r"2 of 3 cases cannot be used.*10000_0001: no label map.*10001_0001: no image of channel MR"
    with pytest.raises(CohortError, match=told):
        converted(open_panther(source), tmp_path / "out")
    with pytest.raises(CohortError, match="no folder ImagesTr"):
        open_panther(tmp_path / "out")


@pytest.mark.parametrize("top", [True, False])
def test_autopet_keeps_ids_patients_and_folds(tmp_path, top):
    cohort = converted(open_autopet3(downloads.autopet3(tmp_path / "in", top=top)), tmp_path / "out")
    assert {case.name for case in cohort.cases} == set(downloads.AUTOPET_IDS)
    assert (
        cohort.case(downloads.AUTOPET_IDS[0]).group == cohort.case(downloads.AUTOPET_IDS[1]).group == "fdg_c02ebbf6ee"
    )
    assert cohort.case(downloads.AUTOPET_IDS[2]).group == "psma_95b833d65be26293"
    assert [path.name[-12:] for path in cohort.cases[0].images] == ["_0000.nii.gz", "_0001.nii.gz"]
    assert json.loads(cohort.splits.read_text())[1]["val"] == list(downloads.AUTOPET_IDS[2:4])


def test_autopet_marks_studies_without_lesion(tmp_path):
    converted(open_autopet3(downloads.autopet3(tmp_path / "in")), tmp_path / "out")
    with (tmp_path / "out" / "conversion.csv").open() as handle:
        absent = {row["case"]: row["absent"] for row in csv.DictReader(handle)}
    assert [name for name, classes in absent.items() if classes == "tumor"] == [LESION_FREE]


def test_autopet_folds_lose_studies_that_are_dropped(tmp_path):
    source = downloads.autopet3(tmp_path / "in", top=False)
    (source / "imagesTr" / f"{downloads.AUTOPET_IDS[1]}_0001.nii.gz").unlink()
    with pytest.raises(CohortError, match="63019: no image of channel PET"):
        converted(open_autopet3(source), tmp_path / "out")
    cohort = converted(open_autopet3(source), tmp_path / "out", allow_drops=True)
    assert json.loads(cohort.splits.read_text())[0]["val"] == [downloads.AUTOPET_IDS[0]]


def test_autopet_studies_that_were_not_downloaded_are_told(tmp_path):
    source = downloads.autopet3(tmp_path / "in", top=False)
    for path in [*source.glob("imagesTr/fdg_00000000aa*"), *source.glob("labelsTr/fdg_00000000aa*")]:
        path.unlink()
    with pytest.raises(CohortError, match=r"1 of 6 cases cannot be used.*00001: splits_final.json names it, but"):
        converted(open_autopet3(source), tmp_path / "out")
    cohort = converted(open_autopet3(source), tmp_path / "out", allow_drops=True)
    assert [case.name for case in cohort.dropped] == [downloads.AUTOPET_IDS[4]]
    assert json.loads(cohort.splits.read_text())[0]["train"] == [*downloads.AUTOPET_IDS[2:4], LESION_FREE]


def test_autopet_without_folds_or_with_broken_ones(tmp_path):
    source = downloads.autopet3(tmp_path / "in", top=False)
    (source / "splits_final.json").write_text("[1]")
    with pytest.raises(CohortError, match=r"splits_final.json: not a file of folds"):
        converted(open_autopet3(source), tmp_path / "out")
    assert not (tmp_path / "out" / "cohort.json").exists()
    (source / "splits_final.json").unlink()
    assert converted(open_autopet3(source), tmp_path / "out").splits is None


def test_mswal_needs_no_description(tmp_path):
    cohort = converted(open_mswal(downloads.mswal(tmp_path / "in")), tmp_path / "out")
    assert [name for _, name in cohort.label_names] == ["background", *TARGETS]
    assert [case.name for case in cohort.cases] == ["MSWAL_0001", "MSWAL_0002", "MSWAL_0003"]
    assert dict(cohort.provenance)["converted"] == "data set mswal; split training"


def test_mswal_with_a_description(tmp_path):
    source = downloads.mswal(tmp_path / "in")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "Kidney Stone": 2, "other": 1}}
    (source / "dataset.json").write_text(json.dumps(description))
    assert len(open_mswal(source).label_names) == 8
    description["labels"] = {"background": 0, "Kidney Stone": 1}
    (source / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(CohortError, match=r"dataset.json: 'Kidney Stone' has the value 1, expected 2"):
        open_mswal(source)


@pytest.mark.parametrize("inner", ["", "AbdomenAtlas1.0Mini", "AbdomenAtlas1.0Mini/part1"])
def test_atlas_at_any_depth(tmp_path, inner):
    cohort = converted(open_abdomenatlas(downloads.abdomenatlas(tmp_path / "in", inner=inner)), tmp_path / "out")
    assert cohort.channels == ("CT",)
    assert cohort.label_names == tuple(enumerate(("background", *ORGANS)))
    assert cohort.cases[0].labels.name == "combined_labels.nii.gz"


def test_atlas_masks_are_merged_in_the_order_of_their_values(tmp_path):
    source = downloads.abdomenatlas(tmp_path / "in", inner="", combined=False)
    folder = source / "BDMAP_00000002" / "segmentations"
    stomach = read_labels(folder / "stomach.nii.gz")
    write_volume(Volume(stomach.voxels * 0 + 1, stomach.grid), folder / "aorta.nii.gz")
    (source / "BDMAP_00000003" / "segmentations" / "spleen.nii.gz").unlink()
    cohort = converted(open_abdomenatlas(source), tmp_path / "out")
    expected = downloads.labels(*range(1, 10), shape=(28, 26, 24)).voxels
    np.testing.assert_array_equal(read_labels(cohort.cases[0].labels).voxels, expected)
    over = read_labels(cohort.cases[1].labels).voxels
    np.testing.assert_array_equal(over, np.where(expected == 0, 1, expected))
    record = json.loads((tmp_path / "out" / "records" / "BDMAP_00000002.json").read_text())
    assert record["notes"] == [f"{np.count_nonzero(expected > 1)} voxels of several organs"]
    assert cohort.cases[2].annotated == tuple(name for name in ORGANS if name != "spleen")


def test_atlas_cases_that_cannot_be_used(tmp_path):
    source = downloads.abdomenatlas(tmp_path / "in", inner="", num_cases=4, combined=False)
    (source / "BDMAP_00000001" / "ct.nii.gz").unlink()
    aorta = source / "BDMAP_00000002" / "segmentations" / "aorta.nii.gz"
    aorta.rename(aorta.with_name("adrenal_gland_left.nii.gz"))
    for path in (source / "BDMAP_00000003" / "segmentations").iterdir():
        path.unlink()
    told = (
        r"1: no ct.nii.gz.*2: segmentations of adrenal_gland_left: this is not version 1.0.*3: neither combined_labels"
    )
    with pytest.raises(CohortError, match=told):
        converted(open_abdomenatlas(source), tmp_path / "out")
    with pytest.raises(CohortError, match="no folder BDMAP_00000001"):
        converted(open_abdomenatlas(tmp_path / "out"), tmp_path / "else")


def test_decathlon_presets_name_classes_as_we_do(tmp_path):
    cohort = converted(open_msd(downloads.msd(tmp_path)), tmp_path / "out")
    assert cohort.label_names == ((0, "background"), (1, "liver"), (2, "tumor"))
    assert [case.name for case in cohort.cases] == ["liver_000", "liver_001", "liver_002"]
    assert cohort.name == "Task03_Liver"


def test_decathlon_images_of_several_channels_are_split(tmp_path):
    modality = {"0": "FLAIR", "1": "T1w"}
    names = {"0": "background", "1": "edema", "2": "tumor"}
    source = downloads.msd(tmp_path, "Task01_BrainTumour", modality=modality, names=names)
    cohort = converted(open_msd(source), tmp_path / "out")
    assert cohort.channels == ("FLAIR", "T1w")
    for channel, path in enumerate(cohort.cases[1].images):
        found, expected = read_volume(path), downloads.image(10 + channel)
        np.testing.assert_array_equal(found.voxels, expected.voxels)
        assert found.grid.difference(expected.grid) is None


def test_decathlon_images_that_do_not_fit_their_description(tmp_path):
    names = {"0": "background", "1": "edema"}
    source = downloads.msd(tmp_path, "Task01_BrainTumour", modality={"0": "FLAIR", "1": "T1w"}, names=names)
    description = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps({**description, "modality": {"0": "a", "1": "b", "2": "c"}}))
    image = source / "imagesTr" / "braintumour_001.nii.gz"
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(CohortError, match=r"000: .* has 2 channels, expected a, b, c; braintumour_001: .*cut short"):
        converted(open_msd(source), tmp_path / "out")


def test_decathlon_preset_with_other_labels(tmp_path):
    source = downloads.msd(tmp_path, "Task06_Lung")
    with pytest.raises(CohortError, match="expected values 0 to 1 in Task06_Lung"):
        open_msd(source)
