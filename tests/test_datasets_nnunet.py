"""nnU-Net and Decathlon folders, whole and broken."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from backsplit.datasets import conversion
from backsplit.datasets.nnunet import images_in, open_raw
from backsplit.errors import CohortError
from backsplit.volume import Grid, Volume, write_volume

GRID = Grid((2, 3, 4), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 2, "cyst": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
MSD = {"modality": {"0": "MRI"}, "labels": {"0": "Background", "1": "cyst", "2": "liver"}, "numTraining": 1}


def convert(source, *, name=None, **options):
    checked = conversion.check(open_raw(source, **options), name=name)
    conversion.require_whole(checked)
    return checked.cohort


def put(path, grid=GRID):
    write_volume(Volume(np.zeros(grid.shape, np.uint8), grid), path)


@pytest.fixture
def make(tmp_path):
    """Write a data set of the given files and description; returns its folder."""

    def write(*files, description=NNUNET, **changes):
        (tmp_path / "imagesTr").mkdir()
        (tmp_path / "labelsTr").mkdir()
        content = {key: value for key, value in (description | changes).items() if value is not None}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        for file in files:
            put(tmp_path / file)
        return tmp_path

    return write


def test_real_data_set(real_data):
    cohort = convert(real_data / "hippocampus")
    assert (cohort.name, len(cohort.cases), cohort.channels) == ("hippocampus", 200, ("MRI",))
    assert cohort.label_names == ((0, "background"), (1, "Anterior"), (2, "Posterior"))
    case = cohort.case("hippocampus_003")
    assert case.images == (real_data.resolve() / "hippocampus" / "imagesTr" / "hippocampus_003_0000.nii.gz",)
    assert case.labels == real_data.resolve() / "hippocampus" / "labelsTr" / "hippocampus_003.nii.gz"
    assert case.group == "hippocampus_003"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("missing_label", "hippocampus_118: no label map"),
        ("missing_image", "hippocampus_010: no image of channel MRI"),
        ("shape_off_by_two", "hippocampus_010: .*shape 37x52x33 against 36x50x31"),
        ("foreign_label", "hippocampus_281: .*shape 37x52x33 against 512x512x94"),
    ],
)
def test_broken_data_sets(real_data, folder, message):
    with pytest.raises(CohortError, match=message) as raised:
        convert(real_data / "hippocampus_broken" / folder)
    assert "\n" not in str(raised.value)


def test_decathlon_folder_without_channel_numbers(make):
    source = make("imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz", description=MSD)
    (source / "imagesTr" / "._liver_1.nii.gz").write_bytes(b"a Mac was here")
    cohort = convert(source, name="liver")
    assert (cohort.name, cohort.channels) == ("liver", ("MRI",))
    assert cohort.label_names == ((0, "background"), (1, "cyst"), (2, "liver"))
    assert [case.name for case in cohort.cases] == ["liver_1"]
    assert cohort.cases[0].images == (source / "imagesTr" / "liver_1.nii.gz",)


def test_case_that_ends_like_a_channel(make):
    source = make("imagesTr/lung_0001.nii.gz", "labelsTr/lung_0001.nii.gz", description=MSD)
    assert [case.name for case in convert(source).cases] == ["lung_0001"]


def test_label_values_are_in_order(make):
    cohort = convert(make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"))
    assert cohort.label_names == ((0, "background"), (1, "cyst"), (2, "liver"))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_other_file_endings(make, ending):
    source = make(f"imagesTr/a_0000{ending}", f"labelsTr/a{ending}", file_ending=ending)
    assert convert(source).cases[0].labels == source / "labelsTr" / f"a{ending}"


def test_two_channels(make):
    files = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    cohort = convert(make(*files, channel_names={"1": "PET", "0": "CT"}))
    assert cohort.channels == ("CT", "PET")
    assert [path.name for path in cohort.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_missing_channel_is_named(make):
    source = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", channel_names={"0": "CT", "1": "PET"})
    with pytest.raises(CohortError, match=r"a: no image of channel PET, expected .*a_0001.nii.gz"):
        convert(source)


def test_channels_on_different_grids(make):
    source = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", channel_names={"0": "CT", "1": "PET"})
    put(source / "imagesTr" / "a_0001.nii.gz", Grid(GRID.shape, (1.0, 1.0, 3.0), GRID.origin_mm, GRID.direction))
    with pytest.raises(CohortError, match=r"a: .*a_0001.* spacing 1x1x2 mm against 1x1x3 mm"):
        convert(source)


def test_test_images_have_no_labels(make):
    source = make("imagesTs/b_0000.nii.gz", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    cohort = convert(source, split="test")
    assert [(case.name, case.labels) for case in cohort.cases] == [("b", None)]


def test_files_listed_in_the_description(make):
    listed = {"x": {"images": ["imagesTr/deep/a.nii.gz"], "label": "./labelsTr/../labelsTr/b.nii.gz"}}
    source = make("imagesTr/deep/a.nii.gz", "labelsTr/b.nii.gz", dataset=listed)
    case = convert(source).cases[0]
    assert (case.name, case.images) == ("x", (source / "imagesTr" / "deep" / "a.nii.gz",))
    assert case.labels == source / "labelsTr" / "b.nii.gz"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"images": ["a.nii.gz"]}, "x: 'dataset' should give images and a label"),
        ({"images": [], "label": "a.nii.gz"}, "x: 0 images, expected one for each of CT"),
        ({"images": ["a.nii.gz"], "label": "a.nii.gz"}, "x: no image of channel CT"),
    ],
)
def test_listed_files_that_are_incomplete(make, entry, message):
    with pytest.raises(CohortError, match=message):
        convert(make(dataset={"x": entry}))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, ["whole_only", "core_only", "enhancing"]),
        ({"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}, ["whole_only", "core_only", "enhancing"]),
        ({"organ": [1, 2], "lesion": [2]}, ["organ_only", "lesion"]),
        ({"organ": [1, 2]}, ["organ_only_1", "organ_only_2"]),
        ({"cyst": 1, "both": [1, 2]}, ["cyst", "both_only"]),
    ],
)
def test_regions_become_the_classes_that_they_are_unions_of(make, labels, names):
    files = ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    order = list(range(1, len(labels) + 1))
    cohort = convert(make(*files, labels={"background": 0, **labels}, regions_class_order=order))
    assert cohort.label_names == tuple(enumerate(["background", *names]))
    assert cohort.ignore is None


def test_a_label_to_ignore_is_no_class(make):
    source = make("imagesTr/a_0000.nii.gz", labels={"background": 0, "cyst": 1, "ignore": 2})
    write_volume(Volume(np.full(GRID.shape, 2, np.uint8), GRID), source / "labelsTr" / "a.nii.gz")
    cohort = convert(source)
    assert cohort.label_names == ((0, "background"), (1, "cyst"))
    assert cohort.ignore == 2


def test_another_number_of_cases_is_a_warning(make, caplog):
    with caplog.at_level(logging.WARNING):
        convert(make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", numTraining=2))
    assert "1 cases, dataset.json says 2" in caplog.text


def test_missing_folder_or_description(tmp_path):
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(CohortError, match=r"dataset.json: no such file; expected the folder of an nnU-Net"):
            convert(source)


def test_description_that_is_no_json(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(CohortError, match=r"dataset.json: not JSON"):
        convert(tmp_path)


def test_empty_data_set(make):
    with pytest.raises(CohortError, match=r"no training case; expected imagesTr/<case>_0000.nii.gz"):
        convert(make())


def test_missing_image_folder(make):
    with pytest.raises(CohortError, match="imagesTs: no such folder"):
        convert(make(), split="test")


def test_image_that_is_no_volume(make):
    source = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (source / "imagesTr" / "a_0000.nii.gz").write_bytes(b"hello")
    with pytest.raises(CohortError, match=r"a_0000.nii.gz: "):
        convert(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": None}, "'channel_names' should be such as {'0': 'CT'}"),
        ({"channel_names": {"1": "CT"}}, "numbered from 0 up"),
        ({"channel_names": {}}, "numbered from 0 up"),
        ({"labels": None}, "'labels' should be such as"),
        ({"labels": {"liver": 1}}, "no label has the value 0"),
        ({"labels": {"background": 0, "liver": "x"}}, "label 'liver' has the value 'x'"),
        ({"labels": {"background": 0, "liver": -1}}, "label 'liver' has the value -1"),
        ({"labels": {"0": "background", "1": "cyst", "2": "cyst"}}, "'labels' names a class twice"),
        ({"labels": {"background": 0, "organ": [0, 1]}}, r"label 'organ': \[0, 1\] holds the background"),
        ({"labels": {"background": 0, "liver": 1, "cyst": 1}}, "label 'cyst' has the value 1, expected .* of its own"),
        ({"labels": {"background": 0, "organ": [1, "x"]}}, "label 'organ' has the value 'x'"),
        (
            {"labels": {"background": 0, "ignore": 1, "liver": 2}},
            "label 'ignore' has the value .1., expected one above",
        ),
        ({"file_ending": ".png"}, "file_ending is '.png', expected one of .nii.gz"),
        ({"dataset": [1]}, "'dataset' should map case names"),
        ({"numTraining": "many"}, "'numTraining' should be a number"),
    ],
)
def test_description_that_cannot_be_used(make, changes, message):
    source = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", **changes)
    with pytest.raises(CohortError, match=message) as raised:
        convert(source)
    assert str(source / "dataset.json") in str(raised.value)


def test_description_of_another_kind(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(CohortError, match="expected a JSON object"):
        convert(Path(tmp_path))


def test_a_folder_of_images_becomes_cases(tmp_path, real_data):
    source = sorted((real_data / "hippocampus" / "imagesTr").iterdir())[0]
    for name in ("one two_0000.nii.gz", "three_0000.nii.gz", "three_0001.nii.gz", "._three_0000.nii.gz", "notes.txt"):
        (tmp_path / name).symlink_to(source)
    assert [(case.name, len(case.images)) for case in images_in(tmp_path)] == [("one two", 1), ("three", 2)]


@pytest.mark.parametrize(("folder", "told"), [("nowhere", "no such folder"), ("", "no image named <case>_0000")])
def test_a_folder_without_images_is_refused(tmp_path, folder, told):
    with pytest.raises(CohortError, match=told):
        images_in(tmp_path / folder)
