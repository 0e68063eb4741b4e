"""KiTS23 as its repository lies on disk: labels alone, with images, with objects; and images made up around labels."""

import csv
import gzip
import json
import time

import numpy as np
import pytest

from backsplit.cli import main
from backsplit.datasets import conversion
from backsplit.datasets.kits23 import Synthesis, open_kits23
from backsplit.datasets.phantom.separability import best_threshold_dice
from backsplit.datasets.phantom.surroundings import draw_around_kidneys
from backsplit.errors import CohortError, ConfigurationError, LabelError
from backsplit.volume import Grid, Volume, read_grid, read_labels, read_volume, write_volume
from studies import TINY_BUDGET, TINY_NETWORK, run, start

IPL = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0)
"""Array axes run down, to the back and to the left."""


def grid(shape=(6, 12, 10), spacing_mm=(5.0, 0.8, 0.8)):
    return Grid(shape, spacing_mm, (0.0, 0.0, 0.0), IPL)


def kidney_with_lesions():
    """A kidney, a tumor that bulges out of it, and a cyst in it."""
    labels = np.zeros(grid().shape, np.uint8)
    labels[1:5, 2:10, 2:8] = 1
    labels[2:4, 8:11, 3:6] = 2
    labels[2:4, 3:5, 3:5] = 3
    return labels


def write_case(folder, *, image=True, labels=None):
    """One case as the repository and its download command leave it."""
    labels = kidney_with_lesions() if labels is None else labels
    write_volume(Volume(labels, grid()), folder / "segmentation.nii.gz")
    if image:
        noise = np.random.default_rng(0).normal(40, 20, grid().shape).astype(np.int16)
        write_volume(Volume(noise, grid()), folder / "imaging.nii.gz")


def write_object(folder, kind, instance, annotator, mask):
    name = f"{kind}_instance-{instance}_annotation-{annotator}.nii.gz"
    write_volume(Volume(mask.astype(np.uint8), grid()), folder / "instances" / name)


@pytest.fixture
def repository(tmp_path):
    """Two cases with images, in the repository's layout."""
    for number in (0, 400):
        write_case(tmp_path / "kits23" / "dataset" / f"case_{number:05}")
    (tmp_path / "kits23" / "dataset" / "kits23.json").write_text("[]")
    return tmp_path / "kits23"


def converted(source, folder, **options):
    allow = options.pop("allow_drops", False)
    return conversion.convert(open_kits23(source, **options), folder, allow_drops=allow).cohort


@pytest.mark.parametrize("inner", ["", "dataset"])
def test_files_stay_where_they_are(repository, tmp_path, inner):
    cohort = converted(repository / inner, tmp_path / "out")
    case = cohort.case("case_00400")
    assert case.images == (repository / "dataset" / "case_00400" / "imaging.nii.gz",)
    assert case.labels == repository / "dataset" / "case_00400" / "segmentation.nii.gz"
    assert (cohort.channels, case.group) == (("CT",), "case_00400")
    assert cohort.label_names == ((0, "background"), (1, "kidney"), (2, "tumor"), (3, "cyst"))
    assert not (tmp_path / "out" / "labels").exists()
    assert read_grid(case.labels).direction == IPL


def test_another_number_of_cases_is_a_warning(repository, tmp_path, caplog):
    converted(repository, tmp_path / "out")
    assert "2 cases, KiTS23 has 489" in caplog.text


def test_labels_without_images_say_what_to_do(repository, tmp_path):
    write_case(repository / "dataset" / "case_00001", image=False)
    with pytest.raises(CohortError, match=r"case_00001: no imaging.nii.gz.*kits23_download_data.*--synthetic-images"):
        converted(repository, tmp_path / "out")
    assert len(converted(repository, tmp_path / "out", allow_drops=True).cases) == 2


def test_half_a_download_is_found_without_unpacking_images(repository, tmp_path):
    image = repository / "dataset" / "case_00400" / "imaging.nii.gz"
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(CohortError, match=r"1 of 2 cases cannot be used.*case_00400: .*imaging.nii.gz: damaged or cut"):
        converted(repository, tmp_path / "out")


def test_an_image_of_several_gzip_members_is_whole(repository, tmp_path):
    image = repository / "dataset" / "case_00400" / "imaging.nii.gz"
    content = gzip.decompress(image.read_bytes())
    image.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    assert len(converted(repository, tmp_path / "out").cases) == 2


def test_no_case_at_all(tmp_path):
    with pytest.raises(CohortError, match=r"no KiTS23 case; expected dataset/case_00000/segmentation.nii.gz"):
        converted(tmp_path, tmp_path / "out")
    with pytest.raises(CohortError, match="no such folder"):
        converted(tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize(("target", "other"), [("cyst", 2), ("tumor", 3)])
def test_whole_kidney_takes_in_the_lesion_that_is_not_the_target(repository, tmp_path, target, other):
    cohort = converted(repository, tmp_path / "out", organ="whole", target=target)
    assert cohort.label_names == ((0, "background"), (1, "kidney"), (2, target))
    labels, parts = read_labels(cohort.cases[0].labels).voxels, kidney_with_lesions()
    np.testing.assert_array_equal(labels == 1, (parts == 1) | (parts == other))
    np.testing.assert_array_equal(labels == 2, parts == 5 - other)
    assert read_grid(cohort.cases[0].labels).direction == IPL


def box(*ranges):
    mask = np.zeros(grid().shape, bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


@pytest.fixture
def annotated(repository):
    """A kidney drawn by one, a tumor by three, a cyst by two; and a stray file."""
    folder = repository / "dataset" / "case_00000"
    write_object(folder, "kidney", 1, 1, box((1, 5), (2, 10), (2, 8)))
    for annotator, stop in ((1, 9), (2, 10), (3, 11)):
        write_object(folder, "tumor", 1, annotator, box((2, 4), (8, stop), (3, 6)))
    for annotator, stop in ((1, 5), (2, 9)):
        write_object(folder, "cyst", 2, annotator, box((2, 4), (3, stop), (3, 5)))
    write_object(folder, "kidney", 2, 1, box((0, 1), (0, 2), (0, 2)))
    stray = folder / "instances" / "tumor_instance-1_annotation-1.suppl.nii.gz"
    write_volume(Volume(np.zeros(grid().shape, np.uint8), grid()), stray)
    write_object(repository / "dataset" / "case_00400", "kidney", 1, 1, box((1, 5), (2, 10), (2, 8)))
    return repository


def test_majority_of_annotators(annotated, tmp_path):
    cohort = converted(annotated, tmp_path / "out", annotation="majority")
    expected = np.where(box((1, 5), (2, 10), (2, 8)) | box((0, 1), (0, 2), (0, 2)), 1, 0)
    expected[box((2, 4), (3, 5), (3, 5))] = 3  # two of two
    expected[box((2, 4), (8, 10), (3, 6))] = 2  # two of three
    np.testing.assert_array_equal(read_labels(cohort.case("case_00000").labels).voxels, expected)
    record = json.loads((tmp_path / "out" / "records" / "case_00000.json").read_text())
    assert record["notes"] == ["left out tumor_instance-1_annotation-1.suppl.nii.gz"]


def test_one_annotator_and_whoever_is_there_where_that_one_is_not(annotated, tmp_path):
    cohort = converted(annotated, tmp_path / "out", annotation="2")
    labels = read_labels(cohort.case("case_00000").labels).voxels
    expected = np.where(box((1, 5), (2, 10), (2, 8)) | box((0, 1), (0, 2), (0, 2)), 1, 0)
    expected[box((2, 4), (3, 9), (3, 5))] = 3
    expected[box((2, 4), (8, 10), (3, 6))] = 2  # a tumour covers a cyst
    np.testing.assert_array_equal(labels, expected)
    record = json.loads((tmp_path / "out" / "records" / "case_00000.json").read_text())
    assert "kidney 1 has no annotator 2" in record["notes"]


def test_annotations_that_are_not_there(repository, tmp_path):
    with pytest.raises(CohortError, match="case_00000: no instances/"):
        converted(repository, tmp_path / "out", annotation="majority")
    with pytest.raises(ConfigurationError, match="--annotation is `majority` or the number"):
        open_kits23(repository, annotation="best")


def test_all_labels_of_the_pack_have_the_volumes_of_its_table(real_data, tmp_path):
    for path in (real_data / "kits23_labels").glob("*.nii.gz"):
        folder = tmp_path / "dataset" / path.name.removesuffix(".nii.gz")
        folder.mkdir(parents=True)
        for name in ("segmentation", "imaging"):  # any volume on the grid will do for an image
            (folder / f"{name}.nii.gz").symlink_to(path)
    records = conversion.convert(open_kits23(tmp_path), tmp_path / "out").records
    with (real_data / "stats.csv").open() as handle:
        rows = {row["case"]: row for row in csv.DictReader(handle)}
    assert records.keys() == rows.keys()
    assert len(records) == 60
    for name, row in rows.items():
        for ours, theirs in (("kidney", "kidney"), ("tumor", "tumour"), ("cyst", "cyst")):
            assert records[name]["voxels"][ours] == int(row[f"{theirs}_vox"])
            assert 1000 * records[name]["ml"][ours] == pytest.approx(float(row[f"{theirs}_mm3"]), abs=0.06)


def test_made_up_images_go_through_training(real_data, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    for name in ("case_00050", "case_00129", "case_00147", "case_00470"):
        (source / f"{name}.nii.gz").unlink(missing_ok=True)
        (source / f"{name}.nii.gz").symlink_to(real_data / "kits23_labels" / f"{name}.nii.gz")
    made = ("--synthetic-images", "--spacing-mm", 5, "--jobs", 1)
    run("convert", "kits23", source, tmp_path / "cohort", *made)
    workspace = ("--workspace", tmp_path / "study")
    run("compose", tmp_path / "cohort", "--targets", "cyst", "--auxiliaries", "kidney", "tumor", *workspace)
    run("prepare", *workspace, *TINY_NETWORK, "--processes", 1, "--folds", 2)
    for arm in ("binary", "backsplit"):
        run("train", "--arm", arm, *TINY_BUDGET, *workspace)
    manifest = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    assert "synthetic, seed 0" in dict(manifest["provenance"])["converted"]
    record = json.loads((tmp_path / "cohort" / "records" / "case_00050.json").read_text())
    assert record["notes"] == ["image made up around the labels"]


@pytest.fixture(scope="module")
def real_labels(real_data):
    """A real label map, every fourth row and column of it."""
    volume = read_labels(real_data / "kits23_labels" / "case_00129.nii.gz")
    shape = tuple(-(-length // step) for length, step in zip(volume.grid.shape, (1, 4, 4), strict=True))
    spacing = tuple(edge * step for edge, step in zip(volume.grid.spacing_mm, (1, 4, 4), strict=True))
    small = Grid(shape, spacing, volume.grid.origin_mm, volume.grid.direction)
    return Volume(volume.voxels[:, ::4, ::4], small)


def test_made_up_images_are_the_same_for_the_same_seed(real_labels):
    first, again, other = (draw_around_kidneys(real_labels, seed=seed).voxels for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_made_up_images_do_not_depend_on_how_the_array_lies(real_labels):
    """The same labels stored along other axes give the same image, voxel for voxel."""
    image = draw_around_kidneys(real_labels, seed=0)
    cosines = np.reshape(real_labels.grid.direction, (3, 3))
    order, flip = [2, 0, 1], (slice(None), slice(None, None, -1), slice(None))
    turned = cosines[:, order] * [1, -1, 1]
    spacing = tuple(real_labels.grid.spacing_mm[axis] for axis in order)
    voxels = real_labels.voxels.transpose(order)[flip]
    moved = Grid(voxels.shape, spacing, (0.0, 0.0, 0.0), tuple(turned.ravel().tolist()))
    other = draw_around_kidneys(Volume(voxels, moved), seed=0)
    np.testing.assert_array_equal(other.voxels, image.voxels.transpose(order)[flip])


def test_made_up_intensities(real_labels):
    """Kidney bright, cysts fluid, fat around; and intensity alone finds no cyst."""
    image, labels = draw_around_kidneys(real_labels, seed=0).voxels, real_labels.voxels
    assert 80 < np.median(image[labels == 1]) < 180
    assert -15 < np.median(image[labels == 3]) < 40
    assert image.min() >= -1024
    assert image.dtype == np.int16
    assert best_threshold_dice(image, labels == 3) < 0.1


def test_labels_that_images_cannot_be_made_up_for(real_labels):
    for voxels in (real_labels.voxels * 0, real_labels.voxels + 3):
        with pytest.raises(LabelError, match="expected some voxel of kidney"):
            draw_around_kidneys(Volume(voxels, real_labels.grid), seed=0)
    with pytest.raises(ConfigurationError, match="spacing above 0 mm"):
        Synthesis(spacing_mm=-1.0)


def test_spacing_is_for_made_up_images(tmp_path, capsys):
    assert main(["convert", "kits23", str(tmp_path), str(tmp_path / "out"), "--spacing-mm", "3"]) == 1
    assert "--spacing-mm is for --synthetic-images" in capsys.readouterr().err


def test_voxels_of_another_size_hold_the_class_of_most(repository, tmp_path):
    done = conversion.convert(open_kits23(repository, synthesis=Synthesis(spacing_mm=1.6)), tmp_path / "out")
    case = done.cohort.cases[0]
    image, labels = read_volume(case.images[0]), read_labels(case.labels)
    assert labels.grid.spacing_mm == pytest.approx((1.6, 1.6, 1.6))
    assert image.grid.difference(labels.grid) is None
    ratio = (labels.voxels > 0).sum() * labels.grid.voxel_ml / ((kidney_with_lesions() > 0).sum() * grid().voxel_ml)
    assert 0.8 < ratio < 1.2


def test_a_conversion_that_was_killed_goes_on(real_data, tmp_path):
    source = tmp_path / "labels"
    source.mkdir()
    for name in ("case_00050", "case_00129", "case_00147"):
        (source / f"{name}.nii.gz").symlink_to(real_data / "kits23_labels" / f"{name}.nii.gz")
    made = ("--synthetic-images", "--spacing-mm", 6, "--jobs", 1)
    process = start("convert", "kits23", source, tmp_path / "killed", *made)
    records = tmp_path / "killed" / "records"
    while not (records / "case_00050.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "cohort.json").exists()
    for folder in ("killed", "undisturbed"):
        run("convert", "kits23", source, tmp_path / folder, *made)
    files = sorted(path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*.*"))
    assert files == sorted(p.relative_to(tmp_path / "killed") for p in (tmp_path / "killed").rglob("[!.]*.*"))
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()
