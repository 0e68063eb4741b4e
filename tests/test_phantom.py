"""Laws of the phantom: what is drawn where, on any grid, and that intensity alone does not find the target."""

import functools
import hashlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from backsplit import cases
from backsplit.datasets.phantom import (
    PHANTOM_SCHEME,
    PhantomSettings,
    best_threshold_dice,
    draw_case,
    draw_scene,
    write_cohort,
)
from backsplit.datasets.phantom.shapes import Frame, depth_mm, rotation, tube
from backsplit.errors import ConfigurationError
from backsplit.volume import read_labels, read_volume

SMALL = PhantomSettings(shape=(32, 32, 32), spacing_mm=(10.0, 10.0, 10.0))
FLAT = PhantomSettings(shape=(64, 64, 32), spacing_mm=(2.0, 2.0, 4.0))
TOUCHING = np.ones((3, 3, 3), dtype=bool)
seeds = st.integers(100, 102)  # few, so that the laws can share the scenes
shapes = st.sampled_from([(32, 32, 32), (48, 40, 36), (32, 33, 64)])


@functools.cache
def scene_of(shape, seed):
    return draw_scene(Frame(shape), seed=seed)


@functools.cache
def cohort_of_eight():
    drawn = [draw_case(PhantomSettings(), seed=seed) for seed in range(8)]
    return np.stack([image.voxels for image, _ in drawn]), np.stack([labels.voxels for _, labels in drawn])


def digest(image, labels):
    return hashlib.sha256(image.voxels.tobytes() + labels.voxels.tobytes()).hexdigest()


def fluid(scene):
    return (scene.hu >= 0) & (scene.hu <= 20) & scene.has("liver", "spleen", "stomach", "bowel", "gallbladder")


@settings(max_examples=12)
@given(shapes, seeds)
def test_every_cyst_touches_a_kidney(shape, seed):
    scene = scene_of(shape, seed)
    components, number = ndimage.label(scene.has("cyst"), TOUCHING)
    beside_kidney = ndimage.binary_dilation(scene.has("kidney"))
    assert 0 <= number <= 3
    assert all((beside_kidney & (components == index)).any() for index in range(1, number + 1))
    assert ((scene.hu >= 0) & (scene.hu <= 20))[components > 0].all()


@settings(max_examples=12)
@given(shapes, seeds)
def test_other_fluid_touches_neither_kidney_nor_cyst(shape, seed):
    scene = scene_of(shape, seed)
    renal = ndimage.binary_dilation(scene.has("kidney", "cyst"), TOUCHING)
    assert not (renal & fluid(scene)).any()
    assert not (renal & scene.has("stomach", "bowel", "gallbladder", "pancreas")).any()


@settings(max_examples=12)
@given(shapes, seeds)
def test_anatomy_is_complete_and_the_kidneys_are_inside(shape, seed):
    scene = scene_of(shape, seed)
    assert set(np.unique(scene.labels)) | {1} == set(range(PHANTOM_SCHEME.num_classes))
    air = scene.hu == -1000
    assert not (ndimage.binary_dilation(scene.has("kidney", "cyst"), TOUCHING) & air).any()
    right_to_left = np.flatnonzero(scene.has("kidney").any(axis=(1, 2)))
    assert right_to_left[0] < scene.labels.shape[0] / 2 < right_to_left[-1]
    assert fluid(scene).sum() > 4 * scene.has("cyst").sum()


@settings(max_examples=4)
@given(shapes, seeds)
def test_scan_keeps_the_labels_and_looks_like_ct(shape, seed):
    image, labels = draw_case(PhantomSettings(shape=shape), seed=seed)
    assert (labels.voxels == scene_of(shape, seed).labels).all()
    assert (image.voxels.dtype, labels.voxels.dtype) == (np.int16, np.uint8)
    assert image.voxels.min() >= -1024
    for name, low, high in [("kidney", 70, 150), ("liver", 40, 110), ("muscle", 0, 90), ("bone", 80, 350)]:
        assert low < np.median(image.voxels[labels.voxels == PHANTOM_SCHEME.index(name)]) < high


def test_same_seed_same_voxels_in_another_process():
    code = (
        "import hashlib; from backsplit.datasets.phantom import *;"
        "i, l = draw_case(PhantomSettings(shape=(32, 32, 32), spacing_mm=(10.0, 10.0, 10.0)), seed=7);"
        "print(hashlib.sha256(i.voxels.tobytes() + l.voxels.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digest(*draw_case(SMALL, seed=7)) == other != digest(*draw_case(SMALL, seed=8))


def test_grid_follows_the_settings():
    for volume in draw_case(FLAT, seed=1):
        assert volume.voxels.shape == volume.grid.shape == (64, 64, 32)
        assert volume.grid.spacing_mm == (2.0, 2.0, 4.0)
        assert volume.grid.origin_mm == (-63.0, -63.0, -62.0)


def test_most_cases_have_a_cyst_and_most_cysts_show_an_outer_side():
    _, labels = cohort_of_eight()
    assert sum(case.max() > 0 and (case == 1).any() for case in labels) >= 6
    outer = ndimage.binary_dilation(labels == 1, np.ones((1, 3, 3, 3))) & (labels == 0)
    assert sum(case.any() for case in outer) >= 5


def test_intensity_alone_does_not_find_the_cysts():
    images, labels = cohort_of_eight()
    assert best_threshold_dice(images, labels == 1) < 0.1
    smoothed = np.stack([ndimage.gaussian_filter(image.astype(np.float32), 1.0) for image in images])
    assert best_threshold_dice(smoothed, labels == 1) < 0.2


@given(st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=1, max_size=30))
def test_best_threshold_dice_equals_a_search_over_all_pairs(voxels):
    image, target = np.array([value for value, _ in voxels]), np.array([is_target for _, is_target in voxels])
    if not target.any():
        assert math.isnan(best_threshold_dice(image, target))
        return
    found = [(image >= low) & (image < high) for low, high in itertools.combinations(range(-9, 11), 2)]
    slow = max(2 * (mask & target).sum() / (mask.sum() + target.sum()) for mask in found)
    assert best_threshold_dice(image, target) == pytest.approx(slow)


def test_threshold_dice_of_a_bright_target_is_one():
    target = np.zeros((4, 4, 4), dtype=bool)
    target[1:3, 1:3, 1:3] = True
    assert best_threshold_dice(np.where(target, 99.6, 0.2), target) == 1


def test_cohort_is_whole_and_written_the_same_again(tmp_path):
    cohort = write_cohort(tmp_path, num_cases=2, settings=SMALL, seed=3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(str(path.relative_to(tmp_path)) for path in before) == [
        "cohort.json",
        "images/phantom_000_0000.nii.gz",
        "images/phantom_001_0000.nii.gz",
        "labels/phantom_000.nii.gz",
        "labels/phantom_001.nii.gz",
    ]
    (tmp_path / "cohort.json").unlink()
    cohort.cases[1].images[0].write_bytes(b"torn")
    assert write_cohort(tmp_path, num_cases=2, settings=SMALL, seed=3) == cohort == cases.read(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_a_cohort_begins_with_the_cases_of_a_smaller_one(tmp_path):
    for number in (1, 2):
        write_cohort(tmp_path / str(number), num_cases=number, settings=SMALL, seed=3)
    name = Path("images", "phantom_000_0000.nii.gz")
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_cohort_files_hold_image_and_labels(tmp_path):
    cohort = write_cohort(tmp_path, num_cases=1, settings=SMALL, seed=0)
    image, labels = (read(path) for read, path in zip((read_volume, read_labels), cohort.cases[0].files, strict=True))
    assert image.grid.difference(labels.grid) is None
    assert image.grid.spacing_mm == pytest.approx(SMALL.spacing_mm)
    assert [name for _, name in cohort.label_names] == list(PHANTOM_SCHEME.names)
    assert set(np.unique(labels.voxels)) <= {value for value, _ in cohort.label_names}


def test_killed_run_leaves_no_manifest(tmp_path, monkeypatch):
    write_cohort(tmp_path, num_cases=1, settings=SMALL, seed=0)

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("backsplit.datasets.phantom.cohort.write_volume", killed)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path, num_cases=1, settings=SMALL, seed=1)
    assert not (tmp_path / "cohort.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (64, 31, 64)}, r"32 voxels or more along each axis, got shape \(64, 31, 64\)"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive lengths in mm"),
        ({"spacing_mm": (1.0, math.inf, 1.0)}, "three positive lengths in mm"),
        ({"noise_hu": -1.0}, "noise must be 0 HU or more"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        PhantomSettings(**changes)


def test_counts_and_seeds_that_make_no_cohort_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="one case or more and a seed of 0 or more, got 0 and 1"):
        write_cohort(tmp_path, num_cases=0, settings=SMALL, seed=1)
    with pytest.raises(ConfigurationError, match="seed must be 0 or more, got -1"):
        draw_case(SMALL, seed=-1)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=15)
@given(st.lists(st.floats(-200, 200), min_size=6, max_size=6), st.floats(0, 60))
def test_tube_is_all_voxels_near_the_line(corners, radius_mm):
    frame = Frame((32, 33, 40))
    start, end = np.array(corners[:3]), np.array(corners[3:])
    window, mask = tube(frame, start, end, radius_mm)
    found = np.zeros(frame.shape, dtype=bool)
    found[window] = mask
    steps = [start + share * (end - start) for share in np.linspace(0, 1, 120)]
    near = np.min([frame.distances_mm(point) for point in steps], axis=0)
    assert not (found & (near > radius_mm + 3)).any()
    assert not (~found & (near < radius_mm - 1e-6)).any()


def test_depth_in_a_crop_equals_depth_in_the_whole():
    mask = draw_scene(Frame((32, 32, 40)), seed=0).has("liver", "spleen")
    slow = ndimage.distance_transform_edt(mask, sampling=(10.0, 10.0, 8.0))
    assert np.allclose(depth_mm(mask, Frame((32, 32, 40))), slow, atol=1e-3)


def test_rotation_is_right_handed():
    assert rotation(2, 90) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert rotation(0, 90) @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert rotation(1, 90) @ [0, 0, 1] == pytest.approx([1, 0, 0])
