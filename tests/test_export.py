"""Label maps on the image's grid are those of nnU-Net's own export, voxel by voxel, whatever logits come."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.ndimage import uniform_filter

from backsplit.labels import Coarsening, identity, to_target
from backsplit.nnunet.export import axes_of, can_export, in_image, label_map, posteriors
from backsplit.nnunet.screening import Question, Screened, screen
from backsplit.nnunet.tiles import Slab, TiledNetwork
from tinymodels import plans_of

KINDS = ("smooth", "noise", "whole numbers", "large", "one class")
GRIDS = {
    "isotropic": ((3.0, 3.0, 3.0), (2.0, 1.7, 2.5)),
    "coarser": ((1.0, 1.0, 1.0), (1.7, 2.0, 1.3)),
    "slices": ((1.0, 1.0, 1.0), (5.0, 0.8, 0.8)),
    "slices of the plan": ((6.0, 1.0, 1.0), (4.0, 1.2, 0.9)),
    "equal": ((2.0, 2.0, 2.0), (2.0, 2.0, 2.0)),
    "one axis equal": ((2.0, 2.0, 2.0), (2.0, 1.0, 3.0)),
    "two dimensions": ((1.0, 1.0), (3.0, 0.7, 0.7)),
}


def network_of(num_classes: int) -> TiledNetwork:
    """One that has put out its logits already."""
    return TiledNetwork((), None, num_classes, (4, 4, 4), 0.5, (), 1, "float32", torch.device("cpu"))


def logits_of(kind: str, num_classes: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((num_classes, *shape), generator=generator)
    if kind == "smooth":
        noise = torch.from_numpy(uniform_filter(noise.numpy(), (1, 3, 3, 3)) * 20)
    elif kind == "whole numbers":
        noise = noise.round()
    elif kind == "large":
        noise = noise * 2000
    elif kind == "one class":
        noise[seed % num_classes] += 9
    return noise.half()


def slabs_of(logits: torch.Tensor, thickness: int) -> list[Slab]:
    starts = range(0, logits.shape[1], thickness)
    parts = [logits[:, start : start + thickness] for start in starts]
    covered = [torch.ones(part.shape[1:], dtype=torch.bool) for part in parts]
    return [Slab(*each) for each in zip(starts, parts, covered, strict=True)]


def geometry(grid: str, image_shape: tuple[int, int, int], transpose=(0, 1, 2)) -> tuple[SimpleNamespace, dict, tuple]:
    """Plans, an image cropped by a voxel here and two there, and the shape that preprocessing gives it."""
    network_mm, image_mm = GRIDS[grid]
    plans = plans_of(spacing=network_mm, transpose=transpose)
    manager = PlansManager(plans)
    of_network = (*image_mm[: 3 - len(network_mm)], *network_mm)
    shape = tuple(
        max(1, round(edge * here / there)) for edge, here, there in zip(image_shape, image_mm, of_network, strict=True)
    )
    spacing = [image_mm[axis] for axis in np.argsort(transpose)]
    properties = {
        "spacing": spacing,
        "shape_before_cropping": tuple(edge + 3 for edge in image_shape),
        "bbox_used_for_cropping": [[1, edge + 1] for edge in image_shape],
        "shape_after_cropping_and_before_resampling": image_shape,
    }
    return SimpleNamespace(plans=manager, configuration=manager.get_configuration("3d_fullres")), properties, shape


def exported(logits, model, properties, question: Question, thickness: int) -> tuple[np.ndarray, Screened]:
    network, shape = network_of(len(logits)), logits.shape[1:]
    axes = axes_of(shape, properties, model.plans, model.configuration)
    is_interpolated = [axis.is_interpolated for axis in axes]
    screened = screen(slabs_of(logits, thickness), network, question, shape=shape, is_interpolated=is_interpolated)
    return in_image(label_map(screened, axes, question.compared), properties, model.plans), screened


def stock(logits, model, properties) -> np.ndarray:
    labels = {"background": 0, **{str(index): index for index in range(1, len(logits))}}
    manager = model.plans.get_label_manager({"labels": labels, "file_ending": ".nii.gz"})
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.clone(), model.plans, model.configuration, manager, properties, num_threads_torch=1
    )


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    grid=st.sampled_from(sorted(GRIDS)),
    image_shape=st.tuples(*[st.integers(2, 13)] * 3),
    num_classes=st.integers(2, 12),
    num_targets=st.integers(1, 3),
    seed=st.integers(0, 2**20),
)
def test_target_masks_are_nnunets_own_voxel_by_voxel(kind, grid, image_shape, num_classes, num_targets, seed):
    model, properties, shape = geometry(grid, image_shape)
    logits = logits_of(kind, num_classes, shape, seed)
    keep = to_target(num_targets=min(num_targets, num_classes - 1), num_fine=num_classes)
    expected = stock(logits, model, properties)
    for coarsening in (keep, identity(num_classes)):
        labels, _ = exported(logits, model, properties, Question(coarsening), 1 + seed % 9)
        np.testing.assert_array_equal(labels, coarsening.of_labels(expected))


def test_axes_that_training_turned_are_turned_back():
    model, properties, shape = geometry("slices of the plan", (7, 9, 8), transpose=(1, 2, 0))
    logits = logits_of("smooth", 4, shape, seed=1)
    keep = to_target(num_targets=1, num_fine=4)
    labels, _ = exported(logits, model, properties, Question(keep), 3)
    np.testing.assert_array_equal(labels, keep.of_labels(stock(logits, model, properties)))


def test_more_classes_than_a_byte_counts():
    model, properties, shape = geometry("isotropic", (6, 6, 6))
    logits = logits_of("noise", 300, shape, seed=0)
    labels, _ = exported(logits, model, properties, Question(identity(300)), 2)
    np.testing.assert_array_equal(labels, stock(logits, model, properties))
    assert labels.max() > 255


def test_logits_are_kept_around_the_target_alone():
    model, properties, shape = geometry("isotropic", (40, 40, 40))
    logits = torch.full((11, *shape), -8.0)
    logits[0], logits[1, 8:14, 8:14, 8:14] = 0, 8
    for organ in range(2, 11):
        logits[organ, :, :, 2 * organ : 2 * organ + 2] = 4
    _, screened = exported(logits.half(), model, properties, Question(to_target(num_targets=1, num_fine=11)), 5)
    assert 0 < len(screened.places) < 8**3 - 4**3 + 1
    assert set(np.unique(screened.cells)) == {0, 1, screened.undecided}


def test_the_margin_alone_loses_voxels_where_rivals_meet():
    """Halfway between two rivals of 2 that are 0 for each other, each is 1, and a target of 1.5 wins."""
    logits = torch.tensor([[2.0, 0.0], [1.5, 1.5], [0.0, 2.0]]).half()[:, None, None, :]
    model, properties, _ = geometry("isotropic", (1, 1, 5))
    labels, _ = exported(logits, model, properties, Question(to_target(num_targets=1, num_fine=3)), 1)
    assert labels[1, 1, 3] == 1
    assert (logits[1] - logits[[0, 2]].amax(0)).max() < 0


@settings(max_examples=20)
@given(
    grid=st.sampled_from(sorted(GRIDS)),
    num_targets=st.integers(1, 2),
    num_classes=st.integers(3, 9),
    seed=st.integers(0, 2**20),
)
def test_pooled_masks_and_posteriors_are_those_of_the_pooled_logits(grid, num_targets, num_classes, seed):
    model, properties, shape = geometry(grid, (7, 8, 9))
    logits = logits_of("smooth", num_classes, shape, seed)
    keep = to_target(num_targets=num_targets, num_fine=num_classes)
    pooled = torch.stack([logits[list(block)].float().logsumexp(0) for block in keep.blocks])
    labels, screened = exported(logits, model, properties, Question(keep, "pooled", with_posterior=True), 4)
    np.testing.assert_array_equal(labels, stock(pooled.half(), model, properties))
    odds = (pooled[1:] - pooled[0]).half().float().numpy()
    resampled = model.configuration.resampling_fn_probabilities(
        odds,
        properties["shape_after_cropping_and_before_resampling"],
        [*properties["spacing"][: 3 - len(model.configuration.spacing)], *model.configuration.spacing],
        properties["spacing"],
    )
    expected = 255 * np.exp(resampled) / (1 + np.exp(resampled).sum(0))
    axes = axes_of(shape, properties, model.plans, model.configuration)
    np.testing.assert_allclose(posteriors(screened.odds, axes), expected, atol=0.51)


def test_posteriors_of_certain_targets_are_255():
    odds = np.full((2, 1, 1, 3), -60000, np.float16)
    odds[0, ..., 0] = odds[1, ..., 2] = 60000
    model, properties, shape = geometry("equal", (1, 1, 3))
    assert posteriors(odds, axes_of(shape, properties, model.plans, model.configuration)).tolist() == [
        [[[255, 0, 0]]],
        [[[0, 0, 255]]],
    ]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resample_data_or_seg_to_shape", {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}, True),
        ("resample_data_or_seg_to_shape", {"order": 1}, True),
        ("resample_data_or_seg_to_shape", {"order": 3, "order_z": 0}, False),
        ("resample_torch_fornnunet", {"is_seg": False}, False),
    ],
)
def test_resampling_of_another_kind_is_left_to_nnunet(name, options, expected):
    plans = plans_of(spacing=(1.0, 1.0, 1.0))
    plans["configurations"]["3d_fullres"] |= {
        "resampling_fn_probabilities": name,
        "resampling_fn_probabilities_kwargs": options,
    }
    assert can_export(PlansManager(plans).get_configuration("3d_fullres")) == expected


def test_merging_needs_classes_that_fit():
    assert Question(Coarsening((0, 1, 0)), "pooled").compared == identity(2)
    assert Question(Coarsening((0, 1, 0))).compared == Coarsening((0, 1, 0))
