"""Tissues by intensity and position: laws, a phantom of known HU, and real CT and MR."""

import json
import pickle
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.cases import Case
from backsplit.errors import CohortError, ConfigurationError, SourceError, VolumeError
from backsplit.sources.body import ct_body, mr_body
from backsplit.sources.tissue import ct_tissues, mr_tissues, open_tissue
from backsplit.volume import Grid, Volume, read_labels, read_volume, write_volume

AIR, GAS, FAT, SOFT, BONE = -1000, -800, -100, 40, 500
SHAPE = (48, 40, 12)


def grid_of(shape, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), spacing_mm=(2.0, 2.0, 3.0)) -> Grid:
    return Grid(tuple(shape), spacing_mm, (0.0, 0.0, 0.0), tuple(map(float, direction)))


def ellipse(centre, radii) -> np.ndarray:
    x, y, _ = np.indices(SHAPE)
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def phantom() -> tuple[Volume, np.ndarray]:
    """A trunk: fat, in it soft tissue, in that two lungs and a spine; and the class of each voxel."""
    hu, truth = np.full(SHAPE, AIR, np.int16), np.zeros(SHAPE, np.uint8)
    parts = [((24, 18), (20, 14), FAT, 2), ((24, 18), (17, 11), SOFT, 3)]
    parts += [((16, 16), (5, 6), GAS, 1), ((32, 16), (5, 6), GAS, 1), ((24, 25), (3, 2), BONE, 4)]
    for centre, radii, value, tissue in parts:
        inside = ellipse(centre, radii)
        hu[inside], truth[inside] = value, tissue
    return Volume(hu, grid_of(SHAPE)), truth


def test_a_trunk_of_known_hu_is_found_but_for_its_roughest_skin():
    image, truth = phantom()
    labels, details = ct_tissues(image)
    np.testing.assert_array_equal(labels[labels > 0], truth[labels > 0])
    assert not (labels > 0)[truth == 0].any()
    lost = truth[labels == 0]
    assert np.count_nonzero(lost) < 0.02 * np.count_nonzero(truth)
    assert set(lost[lost > 0].tolist()) <= {2}, "only skin may be lost"
    assert details["body_ml"] == pytest.approx(np.count_nonzero(labels) * 0.012)


def test_a_table_and_a_blanket_change_nothing():
    image, _ = phantom()
    with_table = image.voxels.copy()
    with_table[:, 37] = 100
    with_table[:, 2] = 0
    np.testing.assert_array_equal(ct_tissues(Volume(with_table, image.grid))[0], ct_tissues(image)[0])


def test_a_table_that_touches_the_back_is_cut_off_beside_it():
    image, _ = phantom()
    with_table = image.voxels.copy()
    with_table[:, 33] = np.where(with_table[:, 33] == AIR, 100, with_table[:, 33])
    added = ct_body(Volume(with_table, image.grid)) & ~ct_body(image)
    x, y, _ = np.nonzero(added)
    assert not ((y != 33) | (abs(x - 24) > 14)).any()


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_inside_the_body_the_class_is_a_matter_of_hu(seed):
    image, _ = phantom()
    rng = np.random.default_rng(seed)
    noisy = Volume((image.voxels + rng.normal(0, 60, SHAPE)).astype(np.float32), image.grid)
    body, labels = ct_body(noisy), ct_tissues(noisy)[0]
    for value, is_inside, label in zip(noisy.voxels.flat, body.flat, labels.flat, strict=True):
        expected = 1 if value < -190 else 2 if value < -30 else 3 if value <= 150 else 4
        assert label == (expected if is_inside else 0)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flipped", range(3))
def test_the_order_and_direction_of_axes_do_not_matter(axes, flipped):
    image, _ = phantom()
    open_below = image.voxels.copy()
    open_below[20:24, 18:, :2] = AIR  # air that reaches the back in two slices alone
    image = Volume(open_below, image.grid)
    direction, spacing_mm = np.eye(3)[:, axes], tuple(image.grid.spacing_mm[axis] for axis in axes)
    direction[:, flipped] *= -1
    turned = np.ascontiguousarray(np.flip(image.voxels.transpose(axes), flipped))
    labels = ct_tissues(Volume(turned, grid_of(turned.shape, direction.ravel(), spacing_mm)))[0]
    np.testing.assert_array_equal(labels, np.flip(ct_tissues(image)[0].transpose(axes), flipped))


def test_air_that_reaches_a_side_of_the_image_is_outside():
    image, _ = phantom()
    cut = Volume(np.ascontiguousarray(image.voxels[16:]), grid_of((32, 40, 12)))
    labels = ct_tissues(cut)[0]
    assert not labels[:4, 16].any(), "the lung that the crop cuts open"
    assert (labels[12:20, 16] == 1).all(), "the other lung"


def test_of_a_real_ct_every_labelled_organ_is_inside_and_of_its_tissue(real_data):
    folder = real_data / "totalsegmentator"
    values = json.loads((folder / "labels_total.json").read_text())
    organs = read_labels(folder / "example_seg.nii.gz").voxels
    labels = ct_tissues(read_volume(folder / "example_ct_sm.nii.gz"))[0]

    def share(tissue: int, *organ: str) -> float:
        return float((labels[np.isin(organs, [values[name] for name in organ])] == tissue).mean())

    assert (labels[organs > 0] > 0).all()
    assert share(1, "lung_lower_lobe_right", "lung_lower_lobe_left") > 0.99
    assert share(3, "liver") > 0.99
    assert share(2, "liver") < 0.01
    assert share(3, "spleen", "kidney_left", "autochthon_left", "aorta") > 0.97
    assert share(4, *(name for name in values if name.startswith("rib_"))) > 0.7
    assert share(4, "vertebrae_L1", "vertebrae_T12") > 0.4
    assert share(4, "liver", "spleen", "colon") < 0.001


@given(st.integers(1, 50), st.integers(-2000, 2000), st.integers(2, 5), st.integers(0, 50))
@settings(max_examples=25)
def test_a_positive_affine_change_of_intensities_changes_no_mask(scale, offset, num_tissues, seed):
    mr = made_up_mr(seed)
    changed = Volume(mr.voxels * scale + offset, mr.grid)
    first, second = (mr_tissues(image, num_tissues=num_tissues, seed=seed)[0] for image in (mr, changed))
    np.testing.assert_array_equal(first, second)


@given(st.integers(2, 5), st.integers(0, 50))
@settings(max_examples=25)
def test_brighter_is_never_of_a_darker_class(num_tissues, seed):
    mr = made_up_mr(seed)
    labels, details = mr_tissues(mr, num_tissues=num_tissues, seed=seed)
    ranges = [mr.voxels[labels == value] for value in range(1, num_tissues + 1) if (labels == value).any()]
    assert all(darker.max() < brighter.min() for darker, brighter in pairwise(ranges))
    assert sorted(details["limits"]) == details["limits"]
    np.testing.assert_array_equal(labels > 0, mr_body(mr))


def made_up_mr(seed: int) -> Volume:
    """Three tissues and noise in whole numbers; air is noise, too, or exactly 0."""
    _, truth = phantom()
    rng = np.random.default_rng(seed)
    means = np.array([0, 900, 1600, 300, 2400])[truth]
    noise = np.abs(rng.normal(0, 40, SHAPE)) if seed % 2 else np.where(truth > 0, rng.normal(0, 40, SHAPE), 0)
    return Volume(np.rint(means + noise), grid_of(SHAPE))


@pytest.mark.parametrize("seed", [0, 1])
def test_tissues_of_a_made_up_mr_are_found(seed):
    mr = made_up_mr(seed)
    _, truth = phantom()
    np.testing.assert_array_equal(mr_body(mr), truth > 0)
    labels = mr_tissues(mr, num_tissues=4, seed=0)[0]
    by_brightness = np.array([0, 2, 3, 1, 4])[truth]
    assert (labels == by_brightness).mean() > 0.99


def test_of_a_real_brain_the_mask_is_what_was_extracted(real_data):
    folder = real_data / "ms_lesions" / "patient07"
    images = {name: read_volume(folder / f"{name}.nii.gz") for name in ("FLAIR", "T1", "T2")}
    lesions = read_labels(folder / "GOLD_STANDARD.nii.gz").voxels > 0
    brain = mr_body(images["FLAIR"])
    extracted = images["FLAIR"].voxels != 0
    assert np.count_nonzero(brain != extracted) < 0.005 * np.count_nonzero(extracted)
    assert brain[lesions].all()
    flair, t1, t2 = (mr_tissues(image, num_tissues=3, seed=0)[0] for image in images.values())
    assert (flair[lesions] == 3).mean() > 0.95, "lesions are bright on FLAIR"
    fluid = t2 == 3
    assert (t1[fluid] == 1).mean() > 0.5, "fluid is bright on T2 and dark on T1"
    assert (t1[t2 == 1] == 3).mean() > 0.5, "white matter is dark on T2 and bright on T1"


def test_of_a_real_abdomen_the_labelled_organs_are_inside_and_fat_is_bright(real_data):
    folder = real_data / "totalsegmentator"
    organs = read_labels(folder / "example_seg_mr.nii.gz").voxels
    labels = mr_tissues(read_volume(folder / "example_mr_sm.nii.gz"), num_tissues=3, seed=0)[0]
    assert (labels[organs > 0] > 0).all()
    assert (labels[organs == 5] == 1).mean() > 0.99, "the liver is dark"
    assert 0.1 < (labels == 3).mean() < 0.2, "fat under the skin"


def as_case(voxels: np.ndarray, folder: Path) -> Case:
    path = folder.resolve() / "image.nii.gz"
    write_volume(Volume(voxels, grid_of(voxels.shape)), path)
    return Case("case_1", (path,), None, "case_1")


def test_a_source_gives_the_structures_asked_for_in_their_order(tmp_path):
    image, _ = phantom()
    case = as_case(image.voxels, tmp_path)
    source = pickle.loads(pickle.dumps(open_tissue(modality="ct", structures=("bone", "fat"))))
    all_of_them = open_tissue(modality="ct").segment(case, tmp_path).volume.voxels
    masks = source.segment(case, tmp_path)
    np.testing.assert_array_equal(masks.volume.voxels == 1, all_of_them == 4)
    np.testing.assert_array_equal(masks.volume.voxels == 2, all_of_them == 2)
    assert masks.volume.voxels.max() == 2
    assert source.inputs(case) == case.images
    assert json.loads(json.dumps(dict(source.how)))["limits_hu"] == [-190, -30, 150]


def test_equal_seeds_give_equal_masks_and_the_seed_is_on_record(tmp_path):
    case = as_case(made_up_mr(1).voxels, tmp_path)
    sources = [open_tissue(modality="mr", num_tissues=3, seed=seed) for seed in (4, 4)]
    first, second = (source.segment(case, tmp_path).volume.voxels for source in sources)
    np.testing.assert_array_equal(first, second)
    assert sources[0].structures == ("tissue_1", "tissue_2", "tissue_3")
    assert sources[0].how["seed"] == 4
    assert "seed" not in open_tissue(modality="ct").how


@pytest.mark.parametrize(
    ("modality", "change", "error", "message"),
    [
        ("ct", lambda hu: np.full_like(hu, AIR), SourceError, "case_1: no body: nothing above -190 HU is thicker"),
        ("ct", lambda hu: hu + 1024, SourceError, "no voxel is below 0 HU"),
        ("ct", lambda hu: np.where(hu == BONE, np.nan, hu.astype(np.float32)), VolumeError, "NaN or infinite"),
        ("mr", lambda hu: np.full_like(hu, 7), SourceError, r"case_1: the image is constant \(7\)"),
        ("mr", lambda hu: (hu > AIR).astype(np.int16), SourceError, "1 intensities inside the body, too few for 3"),
    ],
)
def test_what_shows_no_body_is_one_line(tmp_path, modality, change, error, message):
    case = as_case(change(phantom()[0].voxels), tmp_path)
    with pytest.raises(error, match=message):
        open_tissue(modality=modality).segment(case, tmp_path)


def test_what_cannot_be_asked_for_is_one_line(tmp_path):
    case = as_case(phantom()[0].voxels, tmp_path)
    with pytest.raises(CohortError, match="case_1: no channel 1; it has 0 to 0"):
        open_tissue(modality="ct", channel=1).segment(case, tmp_path)
    with pytest.raises(ConfigurationError, match="--tissues 1: expected 2 to 9"):
        open_tissue(modality="mr", num_tissues=1)
    with pytest.raises(SourceError, match="structure 'liver' is not among 4"):
        open_tissue(modality="ct", structures=("liver",))
