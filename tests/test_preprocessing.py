"""Resizing and preprocessing against nnU-Net's own functions."""

import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from backsplit.experiments.paths import Workspace
from backsplit.nnunet.preprocessing import ResizedBy, crop, normalise_and_resize
from studies import TINY_NETWORK, compose_phantom, prepare, run

TOLERANCE = 1e-5
"""Of an image's largest absolute value."""
KITS_CASES = ("case_00050", "case_00285")  # slices of 2.5 and 5 mm
DATASET_JSON = {
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "channel_names": {"0": "MR"},
    "file_ending": ".nii.gz",
}


def configuration(*, order=3, seg_order=1, spacing=(1.0, 1.0, 1.0), **changed) -> dict:
    of_images = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
    of_labels = {**of_images, "is_seg": True, "order": seg_order}
    name = "resample_data_or_seg_to_shape"
    return {
        "spacing": list(spacing),
        "patch_size": [32, 32, 32],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": name,
        "resampling_fn_seg": name,
        "resampling_fn_data_kwargs": of_images,
        "resampling_fn_seg_kwargs": of_labels,
        "architecture": {},
        **changed,
    }


def plans_of(settings: dict) -> PlansManager:
    return PlansManager(
        {
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [2, 0, 1],
            "transpose_backward": [1, 2, 0],
            "foreground_intensity_properties_per_channel": {"0": {}},
            "configurations": {"3d_fullres": settings},
            "label_manager": "LabelManager",
        }
    )


lengths = st.tuples(*[st.integers(1, 14)] * 3)
factors = st.tuples(*[st.sampled_from((0.3, 0.5, 0.77, 1.0, 1.4, 2.0, 3.0))] * 3)
spacings = st.sampled_from(((1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 5.0)))


def both(settings: dict, part: str, array: np.ndarray, shape, spacing) -> tuple[np.ndarray, np.ndarray]:
    """Stock nnU-Net's and our resampling of one array, called as nnU-Net calls them."""
    stock = ConfigurationManager(settings)
    name = f"resampling_fn_{part}"
    new_spacing = [old * length / new for old, length, new in zip(spacing, array.shape[1:], shape, strict=True)]
    theirs, ours = (
        getattr(each, name)(array.copy(), shape, spacing, new_spacing) for each in (stock, ResizedBy(stock, "fast"))
    )
    return theirs, ours


def resized(shape, factors):
    return np.array([max(1, round(length * factor)) for length, factor in zip(shape, factors, strict=True)])


@settings(max_examples=200)
@given(shape=lengths, factors=factors, spacing=spacings, num_labels=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_labels_are_nnunets_in_every_voxel_ties_included(shape, factors, spacing, num_labels, seed):
    labels = np.random.default_rng(seed).integers(-1, num_labels, (1, *shape)).astype(np.float32)
    theirs, ours = both(configuration(), "seg", labels, resized(shape, factors), spacing)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.int8


@settings(max_examples=150)
@given(
    shape=lengths,
    factors=factors,
    spacing=spacings,
    order=st.sampled_from((3, 3, 3, 0, 1, 2, 5)),
    num_channels=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_are_nnunets_within_tolerance(shape, factors, spacing, order, num_channels, seed):
    image = np.random.default_rng(seed).normal(0, 100, (num_channels, *shape)).astype(np.float32)
    theirs, ours = both(configuration(order=order), "data", image, resized(shape, factors), spacing)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(image).max())
    assert ours.dtype == theirs.dtype


def test_labels_of_the_nearest_voxel_and_of_many_classes():
    labels = np.random.default_rng(0).integers(0, 300, (1, 9, 10, 11)).astype(np.float32)
    for order in (0, 1):
        theirs, ours = both(configuration(seg_order=order), "seg", labels, np.array([7, 15, 22]), (1.0, 1.0, 1.0))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.int16


def test_three_labels_meet_by_hand():
    """Halfway between 2x2x2 voxels: 1 and 2 weigh 0.375 each, 3 weighs 0.25 and is nearest, so the lower wins."""
    labels = np.array([3, 1, 1, 1, 2, 2, 2, 3], np.float32).reshape(1, 2, 2, 2)
    _, ours = both(configuration(), "seg", labels, np.array([1, 1, 1]), (1.0, 1.0, 1.0))
    assert ours.item() == 1


@pytest.mark.parametrize("case", KITS_CASES)
@pytest.mark.parametrize("is_sliced", [False, True])
def test_kidneys_are_nnunets(real_data: Path, case, is_sliced):
    labels = sitk.GetArrayFromImage(sitk.ReadImage(real_data / "kits23_labels" / f"{case}.nii.gz")).transpose(2, 0, 1)
    planes, rows, columns = (np.flatnonzero(labels.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    crop = labels[planes[0] : planes[-1] + 1, rows[0] : rows[0] + 90, columns[0] : columns[0] + 90][None]
    spacing = (5.0 if is_sliced else 2.0, 0.8, 0.8)
    shape = resized(crop.shape[1:], (1.7, 0.9, 1.1))
    theirs, ours = both(configuration(), "seg", crop.astype(np.float32), shape, spacing)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 2


@pytest.mark.parametrize(
    "changed",
    [
        {"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": {"is_seg": False}},
        {"resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 1, "force_separate_z": None}},
        {"resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "another": 1}},
    ],
)
def test_what_ours_does_not_know_is_left_to_nnunet(changed):
    stock = ConfigurationManager(configuration(**changed))
    ours = ResizedBy(stock, "fast")
    assert ours.resampling_fn_data is stock.resampling_fn_data
    assert ours.resampling_fn_seg is not stock.resampling_fn_seg
    assert ResizedBy(stock, "stock").resampling_fn_seg is stock.resampling_fn_seg


def test_a_real_case_is_preprocessed_as_by_nnunet(real_data: Path, tmp_path):
    image = real_data / "hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz"
    labels = real_data / "hippocampus" / "labelsTr" / "hippocampus_001.nii.gz"
    plans = plans_of(configuration(spacing=(1.3, 0.7, 0.8)))
    stock = plans.get_configuration("3d_fullres")
    for name, chosen in {"stock": stock, "ours": ResizedBy(stock, "fast")}.items():
        DefaultPreprocessor(verbose=False).run_case_save(
            str(tmp_path / name), [str(image)], str(labels), plans, chosen, DATASET_JSON
        )
    theirs, ours = (blosc2.open(str(tmp_path / f"{name}.b2nd"))[:] for name in ("stock", "ours"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())
    segmentations = [blosc2.open(str(tmp_path / f"{name}_seg.b2nd"))[:] for name in ("stock", "ours")]
    np.testing.assert_array_equal(*segmentations)
    assert (tmp_path / "stock.pkl").read_bytes() == (tmp_path / "ours.pkl").read_bytes(), "sampling locations too"
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(image)], None, plans, ResizedBy(stock, "fast"), DATASET_JSON
    )
    np.testing.assert_array_equal(data, ours)
    kept = pickle.loads((tmp_path / "ours.pkl").read_bytes())
    assert properties == {key: value for key, value in kept.items() if key != "class_locations"}


def test_prepare_records_who_resampled_and_does_it_again_for_another(tmp_path):
    cohort = compose_phantom(tmp_path, num_cases=4)
    for file in tmp_path.rglob("phantom_000*.nii.gz"):
        thick = sitk.ReadImage(file)
        thick.SetSpacing((5.0, 5.0, 7.0))
        sitk.WriteImage(thick, file)
    prepare(cohort, tmp_path)
    files = sorted(Workspace(tmp_path).preprocessed.rglob("*.b2nd"))
    before, ours = [file.stat().st_mtime_ns for file in files], [blosc2.open(str(file))[:] for file in files]
    assert {array.shape for array in ours} == {(1, 45, 32, 32), (1, 32, 32, 32)}, "one case is resampled"
    prepare(cohort, tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == before, "finished work is left alone"
    run(
        "prepare",
        cohort,
        "--workspace",
        tmp_path,
        *TINY_NETWORK,
        "--folds",
        2,
        "--processes",
        1,
        "--resampling",
        "stock",
    )
    assert all(file.stat().st_mtime_ns > mtime for file, mtime in zip(files, before, strict=True)), "nothing is mixed"
    for file, array in zip(files, ours, strict=True):
        np.testing.assert_allclose(array, blosc2.open(str(file))[:], rtol=0, atol=TOLERANCE * np.abs(array).max())
    (plans,) = (path.read_text() for path in Workspace(tmp_path).preprocessed.rglob("nnUNetPlans.json"))
    assert '"resampling": "stock"' in plans
    assert '"resampling_fn_data": "resample_data_or_seg_to_shape"' in plans


@pytest.mark.parametrize("scheme", ["CTNormalization", "ZScoreNormalization", "NoNormalization"])
@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.4, 0.8), (0.7, 0.7)])
def test_images_without_labels_are_nnunets_own(scheme, use_mask, spacing):
    """Two channels, planes of zeros at three edges, and a hole inside."""
    images = np.random.default_rng(0).normal(40, 100, (2, 9, 12, 11)).astype(np.float32)
    images[:, :2], images[:, :, -3:], images[:, :, :, :1], images[:, 4:6, 4:6, 4:6] = 0, 0, 0, 0
    images[1, :, :2] = 0
    plans = plans_of(
        configuration(spacing=spacing, normalization_schemes=[scheme] * 2, use_mask_for_norm=[use_mask, False])
    )
    ct = {"mean": 30.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 200.0}
    plans.plans["foreground_intensity_properties_per_channel"] = {"0": ct, "1": ct}
    manager, (theirs, ours) = plans.get_configuration("3d_fullres"), ({"spacing": [2.0, 1.0, 1.0]} for _ in range(2))
    expected, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        images, None, theirs, plans, manager, {"labels": {}}
    )
    volume = normalise_and_resize(crop(images.copy(), ours, plans), ours, plans, manager)
    np.testing.assert_array_equal(volume, expected)
    assert {key: np.asarray(value).tolist() for key, value in ours.items()} == {
        key: np.asarray(value).tolist() for key, value in theirs.items()
    }
    fast = normalise_and_resize(crop(images.copy(), dict(ours), plans), ours, plans, ResizedBy(manager, "fast"))
    np.testing.assert_allclose(fast, expected, atol=TOLERANCE * np.abs(expected).max())
