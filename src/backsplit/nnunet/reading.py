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
from jaxtyping import Float32
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from backsplit.arrays import Voxels
from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, ConfigurationError, GeometryError, ModelError, VolumeError
from backsplit.nnunet.models import channel_names
from backsplit.nnunet.preprocessing import Resampling, ResizedBy, crop, normalise_and_resize
from backsplit.nnunet.tiles import Box
from backsplit.volume import Grid, Volume, read_grid, read_volume

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
    predictor: nnUNetPredictor,
    case: Case,
    *,
    resampling: Resampling = "fast",
    trained: Spacings | None = None,
    find_body: bool = False,
) -> ReadCase:
    """Read and preprocess the images of a case as nnU-Net does.

    Args:
        predictor: a loaded model.
        case: whose images to read.
        resampling: who resizes them.
        trained: see `trained_spacings`; None takes all spacings.
        find_body: look for the body, in a CT.

    Raises:
        CohortError: another number of images than the model has channels.
        VolumeError: an image that is missing, damaged, not three-dimensional, constant, or holds NaN or infinity.
        GeometryError: images of a case on different grids, or voxels far from those of the training.
    """
    try:
        grid, images, properties = read_images(predictor, case.images)
        _check_spacing(grid, trained)
    except BackSplitError as error:
        raise type(error)(f"{case.name}: {error}") from error
    plans, configuration = predictor.plans_manager, ResizedBy(predictor.configuration_manager, resampling)
    cropped = crop(images, properties, plans)
    body = _body(cropped[0]) if find_body else None
    volume = normalise_and_resize(cropped, properties, plans, configuration)
    body = body and _scaled(body, cropped.shape[1:], volume.shape[1:])
    return ReadCase(case, grid, torch.from_numpy(volume), properties, body)


def read_images(
    predictor: nnUNetPredictor, images: Sequence[Path]
) -> tuple[Grid, Float32[np.ndarray, "channel z y x"], dict[str, Any]]:
    """The images of a case as nnU-Net's reader gives them; its grid, and what nnU-Net notes about it.

    Raises:
        BackSplitError: as `read_case`, but for the spacing; without the name of the case.
    """
    num_channels = len(channel_names(predictor.dataset_json))
    if len(images) != num_channels:
        raise CohortError(f"{len(images)} images, the model takes {num_channels} channels")
    grid = read_grid(images[0])
    stacked = np.empty((len(images), *grid.shape[::-1]), np.float32)
    for channel, image in zip(stacked, images, strict=True):
        volume = _checked(read_volume(image), image)
        if difference := grid.difference(volume.grid):
            raise GeometryError(f"{image} and {images[0]} are not on one grid: {difference}; resample one to the other")
        channel[:] = volume.voxels.transpose()
    reader = predictor.plans_manager.image_reader_writer_class
    if reader is not SimpleITKIO:
        array, properties = reader().read_images([str(image) for image in images])
        return grid, array.astype(np.float32, copy=False), properties
    geometry = {"spacing": grid.spacing_mm, "origin": grid.origin_mm, "direction": grid.direction}
    return grid, stacked, {"sitk_stuff": geometry, "spacing": list(grid.spacing_mm[::-1])}


def _checked(volume: Volume, path: Path) -> Volume:
    voxels: Voxels = volume.voxels
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise VolumeError(f"{path}: voxels are NaN or infinite; expected numbers; mend the image or convert it again")
    if low == high:
        raise VolumeError(f"{path}: empty, all voxels are {low:g}; expected an image; export it again")
    return volume


def _body(cropped: Float32[np.ndarray, "z y x"]) -> Box:
    """The box around the largest part of a CT above -190 HU; all of it where there is no such part."""
    dense = np.asfortranarray(cropped[::BODY_STRIDE, ::BODY_STRIDE, ::BODY_STRIDE] > BODY_ABOVE_HU)
    part = cc3d.largest_k(dense, k=1, connectivity=6) > 0 if dense.any() else ~dense
    reached = [np.flatnonzero(part.any(tuple({0, 1, 2} - {axis}))) * BODY_STRIDE for axis in range(3)]
    first, second, third = (slice(each[0] - BODY_STRIDE, each[-1] + 2 * BODY_STRIDE) for each in reached)
    return first, second, third


def _scaled(box: Box, shape: Sequence[int], new_shape: Sequence[int]) -> Box:
    """A box of the cropped image on the network's grid, inside the volume."""
    first, second, third = (
        slice(math.floor(max(0, part.start) * new / old), math.ceil(min(old, part.stop) * new / old))
        for part, old, new in zip(box, shape, new_shape, strict=True)
    )
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
    """The voxels of the images that a model was trained on; None if that is not recorded.

    Raises:
        ModelError: the record is damaged.
    """
    path = model / "dataset_fingerprint.json"
    if not path.exists():
        return None
    try:
        edges = np.sort(np.array(json.loads(path.read_text(encoding="utf-8"))["spacings"], float), axis=1)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: expected `spacings`, three edges of each image ({error}); remove it") from error
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
