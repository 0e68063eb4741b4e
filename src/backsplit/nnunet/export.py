"""From what is known on the network's grid to label maps and posteriors on the grid of the image.

What nnU-Net does for each class of each voxel (order 1 in float64, in the order of SciPy's sums, rounded to half
precision, argmax, first of equals) is done here for the few voxels that screening left undecided.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Integer, Real, UInt8
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from backsplit.labels import Coarsening
from backsplit.nnunet.preprocessing import REPRODUCED, is_reproduced, sliced_axis_of, spacings
from backsplit.nnunet.resizing import Axis, axis_between
from backsplit.nnunet.screening import Screened

SLAB_VOXELS, CHUNK_VALUES = 2**21, 2**21
"""Image voxels, and float64 logits, at a time."""
FAINTEST = math.log(1 / 509)
"""Log odds that round to a posterior of 0 of 255."""

Places = tuple[Integer[np.ndarray, " voxels"], ...]


def axes_of(
    shape: Sequence[int], properties: dict[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> tuple[Axis, Axis, Axis]:
    """How nnU-Net brings a volume of logits to the grid of the cropped image.

    Args:
        shape: of the volume.
        properties: what preprocessing said about the image.
        plans: of the model.
        configuration: of the model, one that `is_reproduced`.
    """
    image_shape = properties["shape_after_cropping_and_before_resampling"]
    spacing, of_network = spacings(properties, plans, configuration)
    options = configuration.configuration["resampling_fn_probabilities_kwargs"]
    slicing = {key: value for key, value in options.items() if key not in {"is_seg", "order"}}
    sliced_axis = sliced_axis_of(of_network, spacing, **slicing)
    first, second, third = (
        axis_between(old, new, order=0 if axis == sliced_axis else 1)
        for axis, (old, new) in enumerate(zip(shape, image_shape, strict=True))
    )
    return first, second, third


def can_export(configuration: ConfigurationManager) -> bool:
    """Whether the plans ask for the resampling of logits that this module equals, as nnU-Net's planners do."""
    options = configuration.configuration["resampling_fn_probabilities_kwargs"]
    is_ours = configuration.configuration["resampling_fn_probabilities"] == REPRODUCED
    return is_ours and not options.get("is_seg") and is_reproduced(options, orders=(1,))


def label_map(
    screened: Screened, axes: Sequence[Axis], compared: Coarsening
) -> Integer[np.ndarray, "image_z image_y image_x"]:
    """Label values on the grid of the cropped image.

    Args:
        screened: what is known on the network's grid.
        axes: how the grids lie.
        compared: classes whose logits were kept, to label values.
    """
    labels = np.zeros([axis.corners.shape[1] for axis in axes], screened.cells.dtype)
    ranges = _image_ranges(screened.cells, axes)
    if ranges is None:
        return labels
    planes, rows, columns = ranges
    inner = screened.cells.take(axes[1].corners[0, rows], 1).take(axes[2].corners[0, columns], 2)
    step = max(1, SLAB_VOXELS // (inner.shape[1] * inner.shape[2]))
    for first in range(planes.start, planes.stop, step):
        some = slice(first, min(first + step, planes.stop))
        part = inner[axes[0].corners[0, some]]
        places = np.nonzero(part == screened.undecided)
        where = tuple(each + start.start for each, start in zip(places, (some, rows, columns), strict=True))
        part[places] = _decide(screened, axes, compared, where)
        labels[some, rows, columns] = part
    return labels


def _image_ranges(cells: Integer[np.ndarray, "z y x"], axes: Sequence[Axis]) -> tuple[slice, slice, slice] | None:
    """The box of the image that the cells with a target reach, or None."""
    is_there = cells != 0
    ranges = []
    for axis, along in enumerate(axes):
        reached = np.flatnonzero(is_there.any(tuple({0, 1, 2} - {axis}))[along.corners[0]])
        if not reached.size:
            return None
        ranges.append(slice(int(reached[0]), int(reached[-1]) + 1))
    first, second, third = ranges
    return first, second, third


def _decide(
    screened: Screened, axes: Sequence[Axis], compared: Coarsening, where: Places
) -> Integer[np.ndarray, " voxels"]:
    """Label values of single voxels of the image, by the logits of all classes."""
    winners = np.zeros(where[0].size, np.int64)
    step = max(1, CHUNK_VALUES // compared.num_fine)
    for first in range(0, winners.size, step):
        some = tuple(each[first : first + step] for each in where)
        logits = _interpolated(screened, axes, some).astype(np.float16)
        winners[first : first + step] = logits.astype(np.float32).argmax(1)
    return compared.of_labels(winners)


def _interpolated(screened: Screened, axes: Sequence[Axis], where: Places) -> Float64[np.ndarray, "voxels compared"]:
    """Logits of single voxels of the image; the last axis runs fastest, so that sums are SciPy's bit by bit."""
    shape = screened.cells.shape
    total = np.zeros((where[0].size, screened.logits.shape[1]))
    for corner in product(*(range(len(axis.corners)) for axis in axes)):
        along = list(zip(axes, corner, where, strict=True))
        flat = np.ravel_multi_index([axis.corners[side, at] for axis, side, at in along], shape)
        term = screened.logits[np.searchsorted(screened.places, flat)].astype(np.float64)
        for axis, side, at in along:
            if axis.is_interpolated:
                term *= axis.weights[side, at][:, None]
        total += term
    return total


def posteriors(
    odds: Float16[np.ndarray, "targets z y x"], axes: Sequence[Axis]
) -> UInt8[np.ndarray, "targets image_z image_y image_x"]:
    r"""Posterior of each target on the grid of the cropped image, 255 for certainty.

    The log odds $l_t = z_t - \log \sum_{k\ \mathrm{rest}} \exp z_k$ are interpolated, then
    $p_t = \exp l_t / (1 + \sum_s \exp l_s)$.
    """
    result = np.zeros((len(odds), *(axis.corners.shape[1] for axis in axes)), np.uint8)
    for index, plane in enumerate(_planes(odds, axes[0])):
        if plane.max() > FAINTEST:
            resized = _along(_along(plane, axes[1], 1), axes[2], 2)
            largest = np.maximum(resized.max(0), 0)
            likelihood = np.exp(resized - largest)
            result[:, index] = np.rint(255 * likelihood / (np.exp(-largest) + likelihood.sum(0)))
    return result


def _planes(odds: Float16[np.ndarray, "targets z y x"], axis: Axis) -> Iterator[Float32[np.ndarray, "targets y x"]]:
    for corners, weights in zip(axis.corners.T, axis.weights.T, strict=True):
        terms = (
            odds[:, corner].astype(np.float32) * np.float32(weight)
            for corner, weight in zip(corners, weights, strict=True)
        )
        yield np.add.reduce(list(terms))


def _along(plane: Float32[np.ndarray, "targets _ _"], axis: Axis, dimension: int) -> Float32[np.ndarray, "targets _ _"]:
    shape = [-1 if each == dimension else 1 for each in range(3)]
    weights = axis.weights.astype(np.float32).reshape(len(axis.weights), *shape)
    return np.add.reduce(
        [plane.take(corner, dimension) * weight for corner, weight in zip(axis.corners, weights, strict=True)]
    )


def resampled(
    values: Float[Tensor, "channel z y x"],
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
) -> Float[np.ndarray, "channel image_z image_y image_x"]:
    """Bring values from the network's grid to that of the cropped image, as the plans resample logits."""
    of_image, of_network = spacings(properties, plans, configuration)
    shape = properties["shape_after_cropping_and_before_resampling"]
    return np.asarray(configuration.resampling_fn_probabilities(values, shape, of_network, of_image))


def in_image(
    cropped: Real[np.ndarray, "cropped_z cropped_y cropped_x"], properties: dict[str, Any], plans: PlansManager
) -> Real[np.ndarray, "z y x"]:
    """Put a crop back where nnU-Net cut it out, and turn its axes back; 0 around it."""
    whole = np.zeros(properties["shape_before_cropping"], cropped.dtype)
    whole[tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])] = cropped
    return whole.transpose(plans.transpose_backward)
