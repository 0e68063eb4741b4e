"""A case as a network takes it, or one line that says why the network cannot take it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import torch
from jaxtyping import Float32, Num
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from backsplit.arrays import Voxels
from backsplit.cases import Case
from backsplit.errors import CohortError, ConfigurationError, GeometryError, VolumeError
from backsplit.nnunet.models import channel_names
from backsplit.nnunet.tiles import Box
from backsplit.volume import Grid, Volume, read_volume

FARTHEST = 2.0
"""Voxels of an image may be this many times as long, or short, as any that the model was trained on."""
BODY_ABOVE_HU = -190
BODY_STRIDE = 2
"""The body is looked for in every second voxel along each axis."""

Spacings = tuple[tuple[float, float], ...]
"""Shortest and longest edge in mm, of the shortest, the middle and the longest edge of voxels."""


@dataclass(frozen=True, slots=True)
class ReadCase:
    """A preprocessed case."""

    case: Case
    grid: Grid
    """Of the image file."""
    volume: Float32[torch.Tensor, "channel z y x"]
    properties: dict[str, Any]
    """What nnU-Net needs to undo its preprocessing."""
    body: Box | None
    """Part of the volume that the body reaches, if it was looked for."""


def read_case(
    predictor: nnUNetPredictor, case: Case, *, trained: Spacings | None = None, find_body: bool = False
) -> ReadCase:
    """Read and preprocess the images of a case as nnU-Net does.

    Args:
        predictor: a loaded model.
        case: whose images to read.
        trained: see `trained_spacings`; None takes all spacings.
        find_body: look for the body, in a CT.

    Raises:
        CohortError: another number of images than the model has channels.
        VolumeError: an image that is missing, damaged, not three-dimensional, constant, or holds NaN or infinity.
        GeometryError: images of a case on different grids, or voxels far from those of the training.
    """
    num_channels = len(channel_names(predictor.dataset_json))
    if len(case.images) != num_channels:
        raise CohortError(f"{case.name}: {len(case.images)} images, the model takes {num_channels} channels")
    try:
        grid, array, properties = _read(predictor, case.images)
        _check_spacing(grid, trained)
    except (VolumeError, GeometryError) as error:
        raise type(error)(f"{case.name}: {error}") from error
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        array,
        None,
        properties,
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.dataset_json,
    )
    body = _body(array[0], properties, predictor, data.shape[1:]) if find_body else None
    return ReadCase(case, grid, torch.from_numpy(data), properties, body)


def _read(
    predictor: nnUNetPredictor, images: Sequence[Path]
) -> tuple[Grid, Num[np.ndarray, "channel z y x"], dict[str, Any]]:
    """The images as nnU-Net's reader gives them."""
    channels = [_checked(read_volume(image), image) for image in images]
    grid = channels[0].grid
    for channel, image in zip(channels[1:], images[1:], strict=True):
        if difference := grid.difference(channel.grid):
            raise GeometryError(f"{image} and {images[0]} are not on one grid: {difference}; resample one to the other")
    reader = predictor.plans_manager.image_reader_writer_class
    if reader is not SimpleITKIO:
        return (grid, *reader().read_images([str(image) for image in images]))
    geometry = {"spacing": grid.spacing_mm, "origin": grid.origin_mm, "direction": grid.direction}
    array = np.stack([channel.voxels.transpose() for channel in channels]).astype(np.float32, copy=False)
    return grid, array, {"sitk_stuff": geometry, "spacing": list(grid.spacing_mm[::-1])}


def _checked(volume: Volume, path: Path) -> Volume:
    voxels: Voxels = volume.voxels
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise VolumeError(f"{path}: voxels are NaN or infinite; expected numbers; mend the image or convert it again")
    if low == high:
        raise VolumeError(f"{path}: empty, all voxels are {low:g}; expected an image; export it again")
    return volume


def _body(
    image: Float32[np.ndarray, "z y x"],
    properties: dict[str, Any],
    predictor: nnUNetPredictor,
    shape: Sequence[int],
) -> Box:
    """The box around the largest part above -190 HU, on the network's grid; all of it where there is no such part."""
    cut = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    cropped = image.transpose(predictor.plans_manager.transpose_forward)[cut]
    dense = np.asfortranarray(cropped[::BODY_STRIDE, ::BODY_STRIDE, ::BODY_STRIDE] > BODY_ABOVE_HU)
    part = cc3d.largest_k(dense, k=1, connectivity=6) > 0 if dense.any() else ~dense
    ranges = []
    for axis, (edge, old) in enumerate(zip(shape, cropped.shape, strict=True)):
        reached = np.flatnonzero(part.any(tuple({0, 1, 2} - {axis}))) * BODY_STRIDE
        low, high = max(0, reached[0] - BODY_STRIDE), min(old, reached[-1] + 2 * BODY_STRIDE)
        ranges.append(slice(math.floor(low * edge / old), math.ceil(high * edge / old)))
    first, second, third = ranges
    return first, second, third


def check_body_is_known(model: Path, channels: Sequence[str]) -> None:
    """The body is found by Hounsfield units alone.

    Raises:
        ConfigurationError: the first channel of the model is no CT.
    """
    if channels[0] != "CT":
        raise ConfigurationError(
            f"--skip-air finds the body in CT, by Hounsfield units; {model.name} takes {channels[0]}; leave it out"
        )


def trained_spacings(model: Path) -> Spacings | None:
    """The voxels of the images that a model was trained on; None if that is not recorded."""
    path = model / "dataset_fingerprint.json"
    if not path.exists():
        return None
    edges = np.sort(json.loads(path.read_text(encoding="utf-8"))["spacings"], axis=1)
    return tuple((float(low), float(high)) for low, high in zip(edges.min(0), edges.max(0), strict=True))


def _check_spacing(grid: Grid, trained: Spacings | None) -> None:
    """Refuse voxels of which an edge is less than half of the shortest trained on, or more than twice the longest."""
    edges = sorted(grid.spacing_mm)
    for edge, (low, high) in zip(edges, trained or (), strict=trained is not None):
        if not low / FARTHEST <= edge <= high * FARTHEST:
            told = " x ".join(f"{each:g}" for each in edges)
            seen = " x ".join(f"{low:g}-{high:g}" for low, high in trained or ())
            raise GeometryError(
                f"voxels of {told} mm, the model was trained on {seen} mm; check the unit in the header, resample the "
                "image, or accept it with --any-spacing"
            )
