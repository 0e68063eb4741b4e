"""What real output of TotalSegmentator and its neighbours holds: the traps that the data's README lists."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.errors import GeometryError, LabelError, SourceError
from backsplit.resampling import resample_labels
from backsplit.sources import annotate
from backsplit.sources.annotation import records_of
from backsplit.sources.check import check, summarise_check
from backsplit.sources.folder import FolderSource, open_folder
from backsplit.sources.quality import lesion_table, quality_table
from backsplit.sources.reference import reference_of
from backsplit.volume import Grid, Volume, read_grid, read_labels, write_volume
from maskfolders import cohort_of


def cohort_of_image(image: Path, *, labels: Path | None = None, label_names=()) -> Cohort:
    return cohort_of(Case("ct", (image,), labels, "ct"), label_names=label_names)


def masks_from(*files: Path, root: Path, case: str = "ct") -> Path:
    """A folder of masks of one case: the very files, by links."""
    (root / case).mkdir(parents=True)
    for file in files:
        (root / case / file.name).symlink_to(file)
    return root


def label_map_from(file: Path, root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, root / "ct.nii.gz")
    return root


def opened(root: Path, *, structures=None, table=None) -> FolderSource:
    return open_folder(root, case_names=("ct",), structures=structures, table=table, force=False)


def turned(volume: Volume) -> Volume:
    """The same voxel centres with the first two axes backwards: RAS becomes LPS and the other way round."""
    grid = volume.grid
    axes = np.reshape(grid.direction, (3, 3))
    last = np.array([grid.shape[0] - 1, grid.shape[1] - 1, 0])
    origin = grid.origin_mm + axes * grid.spacing_mm @ last
    direction = axes * [-1, -1, 1]
    flipped = Grid(grid.shape, grid.spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))
    return Volume(volume.voxels[::-1, ::-1], flipped)


@pytest.fixture(scope="module")
def both_ways(real_data, tmp_path_factory) -> tuple[Cohort, Path]:
    """One CT with the masks of 117 files, and with those of the label map, whose names its header tells."""
    data, folder = real_data / "totalsegmentator", tmp_path_factory.mktemp("both")
    cohort = cohort_of_image(data / "example_ct_sm.nii.gz")
    (folder / "single").mkdir()
    (folder / "single" / "ct").symlink_to(data / "example_seg_fast")
    label_map_from(data / "example_seg_fast.nii.gz", folder / "many")
    for name, root in {"single": folder / "single", "header": folder / "many"}.items():
        cohort = annotate(cohort, opened(root), name=name, folder=folder)
    return cohort, folder


def test_117_files_and_one_label_map_are_the_same_masks(both_ways, real_data):
    cohort, folder = both_ways
    single, header = cohort.masks
    table = opened(folder / "many", table=real_data / "totalsegmentator" / "labels_total.json")
    assert len(single.structures) == 115  # all but the two kidney cysts
    assert list(single.structures) == sorted(single.structures)
    assert single.structures == header.structures == table.structures
    (case,) = cohort.cases
    first, second = (read_labels(masks.path) for masks in case.masks)
    np.testing.assert_array_equal(first.voxels, second.voxels)
    np.testing.assert_array_equal(first.voxels, table.segment(case, folder).volume.voxels)
    assert [masks.annotated for masks in case.masks] == [None, None]
    names = json.loads((real_data / "totalsegmentator" / "labels_total.json").read_text())
    original = read_labels(real_data / "totalsegmentator" / "example_seg_fast.nii.gz").voxels
    for value, name in enumerate(single.structures, start=1):
        assert np.array_equal(first.voxels == value, original == names[name]), name
    assert cases.read(folder) == cohort


def test_empty_masks_are_annotated_and_flagged(both_ways):
    cohort, _ = both_ways
    table = quality_table(records_of(cohort, "single"))
    assert table["empty"].sum() == 75  # 77 of 117, less the two kidney cysts
    assert len(table) == 115
    assert not table.loc[table["empty"], ["fragments", "border", "volume"]].any(axis=None)
    assert table.equals(quality_table(records_of(cohort, "header")))


def test_masks_checked_against_each_other(both_ways):
    cohort, _ = both_ways
    table = check(cohort, "single", reference_of(cohort, "header"))
    assert table["undefined"].value_counts().to_dict() == {"both empty": 75, "": 40}
    assert (table["dice"].dropna() == 1).all()
    summary = summarise_check(table)
    assert summary["num_undefined"].sum() == 75


def test_ids_with_gaps_in_any_order(real_data, tmp_path):
    data = real_data / "totalsegmentator"
    root = label_map_from(data / "example_seg_fast.nii.gz", tmp_path / "masks")
    source = opened(root, structures=["costal_cartilages", "spleen", "heart"])
    (case,) = cohort_of_image(data / "example_ct_sm.nii.gz").cases
    found, original = source.segment(case, tmp_path), read_labels(root / "ct.nii.gz").voxels
    for value, number in enumerate((117, 1, 51), start=1):
        np.testing.assert_array_equal(found.volume.voxels == value, original == number)
    assert (found.volume.voxels == 1).any()
    report = label_map_from(data / "aorta_report" / "T710_renal.nii.gz", tmp_path / "renal")
    table = tmp_path / "renal.json"
    table.write_text(json.dumps({"celiac": 1, "superior_mesenteric": 2, "renal": 3, "aorta": 4}))
    found = opened(report, table=table).segment(case, tmp_path)
    assert found.annotated == ("aorta", "celiac", "renal", "superior_mesenteric")
    assert np.unique(found.volume.voxels).tolist() == [0, 1, 2, 4]  # renal, 3 in both, has no voxel


def test_the_same_number_is_another_organ_on_mr(real_data, tmp_path):
    data = real_data / "totalsegmentator"
    root = label_map_from(data / "example_seg_mr.nii.gz", tmp_path / "masks")
    (case,) = cohort_of_image(data / "example_mr_sm.nii.gz").cases
    by_header = opened(root, structures=["heart"]).segment(case, tmp_path).volume.voxels
    by_table = opened(root, structures=["heart"], table=data / "labels_total.json").segment(case, tmp_path)
    original = read_labels(root / "ct.nii.gz").voxels
    np.testing.assert_array_equal(by_header == 1, original == 22)
    assert not by_table.volume.voxels.any()  # 51 on CT: a wrong table cannot be told by the numbers alone


def test_a_heart_on_another_grid_is_named_with_both_grids(real_data, tmp_path):
    data = real_data / "totalsegmentator" / "pulmonary_report"
    files = [path for path in data.glob("*.nii.gz") if path.name != "ct_cropped.nii.gz"]
    root = masks_from(*files, root=tmp_path / "masks")
    (case,) = cohort_of_image(data / "ct_cropped.nii.gz").cases
    message = (
        r"ct: heart.nii.gz on another grid than pul_annulus.nii.gz and 5 more: shape 233x167x191 against 122x102x112"
    )
    with pytest.raises(GeometryError, match=message):
        opened(root).segment(case, tmp_path)
    names = sorted(path.name.removesuffix(".nii.gz") for path in files if path.name != "heart.nii.gz")
    assert opened(root, structures=names).segment(case, tmp_path).annotated == tuple(names)


@pytest.fixture(scope="module")
def misfits(real_data, tmp_path_factory) -> tuple[Cohort, FolderSource, Path, str]:
    """Masks that are on another grid than their image, each for a reason of its own, and what came of annotating."""
    data, folder = real_data / "totalsegmentator", tmp_path_factory.mktemp("misfits")
    liver, report = data / "example_seg_fast" / "liver.nii.gz", data / "pulmonary_report"
    for case, file in {"crop": liver, "heart": report / "heart.nii.gz", "own": liver}.items():
        masks_from(file, root=folder / "masks", case=case)
    write_volume(turned(read_labels(liver)), folder / "masks" / "turned" / "liver.nii.gz")
    images = {
        "crop": data / "example_ct.nii.gz",
        "heart": report / "ct_cropped.nii.gz",
        "own": data / "example_ct_sm.nii.gz",
        "turned": data / "example_ct_sm.nii.gz",
    }
    own = data / "example_seg_mr.nii.gz"
    cohort = cohort_of(*(Case(name, (path,), own if name == "own" else None, name) for name, path in images.items()))
    source = open_folder(folder / "masks", case_names=list(images), structures=None, table=None, force=False)
    with pytest.raises(SourceError, match=r"^4 of 4 cases failed") as refused:
        annotate(cohort, source, name="refused", folder=folder)
    return cohort, source, folder, str(refused.value)


@pytest.fixture(scope="module")
def resampled(misfits) -> Cohort:
    """The same with masks brought to the images."""
    cohort, source, folder, _ = misfits
    with pytest.raises(SourceError, match=r"^1 of 4 cases failed, the others are done: own: image and label map"):
        annotate(cohort, source, name="nearest", folder=folder, resample="nearest")
    return cases.read(folder)


@pytest.mark.parametrize(
    "told",
    [
        "heart: image and masks are on different grids: shape 122x102x112 against 233x167x191; they may be",
        "crop: image and masks are on different grids: shape 122x101x112 against 122x101x30; they may be",
        "turned: image and masks are on different grids: origin (",
        "own: image and label map are on different grids: shape 122x101x30 against 117x91x20",
    ],
)
def test_masks_on_another_grid_are_refused_with_both_grids(misfits, told):
    _, _, folder, message = misfits
    assert told in message
    assert "bring them together with --resample nearest or --resample linear" in message
    assert not list((folder / "masks" / "refused").glob("*.nii.gz"))


def test_a_heart_of_another_grid_is_brought_to_the_image(misfits, resampled, real_data):
    masks = read_labels(resampled.case("heart").masks[0].path)
    heart = read_labels(real_data / "totalsegmentator" / "pulmonary_report" / "heart.nii.gz")
    image = read_grid(resampled.case("heart").images[0])
    assert image.difference(masks.grid) is None
    linear = resample_labels(heart, image, interpolation="linear").voxels
    assert np.count_nonzero(masks.voxels) == pytest.approx(np.count_nonzero(linear), rel=0.01)
    assert np.count_nonzero(linear) * image.voxel_ml > 10
    assert resampled.case("own").masks == ()


def test_a_crop_with_the_origin_of_the_whole_is_not_the_whole(resampled, real_data):
    """The crop is slices 82 to 111 of the whole, but its header says slices 0 to 29: only its shape gives it away."""
    crop = read_grid(real_data / "totalsegmentator" / "example_ct_sm.nii.gz")
    assert crop.origin_mm == read_grid(resampled.case("crop").images[0]).origin_mm
    placed = read_labels(resampled.case("crop").masks[0].path).voxels
    assert placed[..., :30].any(), "resampling believes the header"
    assert not placed[..., 30:].any()


def test_masks_in_lps_over_an_image_in_ras(resampled, real_data):
    liver = read_labels(real_data / "totalsegmentator" / "example_seg_fast" / "liver.nii.gz")
    other = turned(liver)
    assert (liver.grid.direction[0], other.grid.direction[0]) == (-1, 1)  # RAS and LPS in ITK's coordinates
    number = resampled.masks[0].structures.index("liver") + 1
    found = read_labels(resampled.case("turned").masks[0].path).voxels
    np.testing.assert_array_equal(found, number * liver.voxels)
    np.testing.assert_array_equal(resample_labels(other, liver.grid, interpolation="linear").voxels, liver.voxels)


def test_an_abnormal_part_of_a_real_organ_and_its_organ(real_data, tmp_path):
    """7.5 % of the false lumen lie outside the aorta that another model drew; filled, hardly less."""
    data = real_data / "totalsegmentator" / "aorta_report"
    cohort = cohort_of_image(
        data / "ct_cropped.nii.gz", labels=data / "aorta_false_lumen.nii.gz", label_names=((1, "dissection"),)
    )
    files = [data / f"{name}.nii.gz" for name in ("aorta", "vertebrae_T12", "renal_arteries")]
    source = opened(masks_from(*files, root=tmp_path / "masks"))
    cohort = annotate(cohort, source, name="organs", folder=tmp_path)
    table = lesion_table(records_of(cohort, "organs")).set_index("structure")
    assert table["label_voxels"].tolist() == [36170] * len(table)
    assert 1 - table.loc["aorta", "overlap_voxels"] / 36170 == pytest.approx(0.075, abs=0.001)
    assert 0.05 < table.loc["aorta", "share_outside_filled"] <= 0.0751
    assert table.index[table["is_home"]].tolist() == ["aorta"]


def test_images_and_label_maps_beside_the_masks_are_refused_by_name(real_data, tmp_path):
    data = real_data / "totalsegmentator" / "aorta_report"
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "ct").symlink_to(data)
    (case,) = cohort_of_image(data / "ct_cropped.nii.gz").cases
    with pytest.raises(LabelError, match=r"T710_renal.nii.gz has values from 1 to 4 besides 0.*--structures"):
        opened(tmp_path / "masks").segment(case, tmp_path)
    found = opened(tmp_path / "masks", structures=["aorta_true_lumen", "aorta"]).segment(case, tmp_path)
    overlap = found.details["overlaps"]["aorta_true_lumen>aorta"]
    true_lumen = read_labels(data / "aorta_true_lumen.nii.gz").voxels != 0
    assert overlap == np.count_nonzero(true_lumen & (read_labels(data / "aorta.nii.gz").voxels != 0))
    assert np.count_nonzero(found.volume.voxels == 1) == np.count_nonzero(true_lumen)
