"""What the last layer of a trained arm takes and puts out over whole cases, one tile after another."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from jaxtyping import Float, Integer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, GeometryError, LabelError, ModelError
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import BLOCK, ArmSettings
from backsplit.nnunet.folders import output_to
from backsplit.nnunet.models import channel_names, initialize
from backsplit.nnunet.prediction import read_plans
from backsplit.nnunet.preprocessing import ResizedBy
from backsplit.theory.last_layer import Voxels, find_last_layer, look
from backsplit.volume import Grid, Volume, check_complete, read_grid

TILES_AT_ONCE = 2
"""PyTorch has no fast 3D convolution for a batch of one on CPUs."""
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """The network of one fold of an arm, ready to be looked into."""

    arm: ArmSettings
    network: nn.Module
    layer: nn.Module
    """The last one."""
    plans: PlansManager
    configuration: ConfigurationManager
    dataset: dict[str, Any]
    device: torch.device

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        names, num_targets = self.arm.class_names, self.arm.scheme.num_targets
        return LabelScheme(names[1 : num_targets + 1], names[num_targets + 1 :])

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Edges of a tile in the volume; a network of slices has tiles of one."""
        edges = tuple(self.configuration.patch_size)
        depth, height, width = (1,) * (3 - len(edges)) + edges
        return depth, height, width


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCase:
    """A case as the network takes it, and where its labels lie there."""

    volume: Float[Tensor, "channel z y x"]
    labels: Integer[np.ndarray, "z y x"]
    """Classes of the arm; -1 where nobody annotated."""
    grid: Grid
    """Of the image file."""
    properties: dict[str, Any]
    """What nnU-Net needs to undo its preprocessing."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """The part of a volume that is closer to the centre of this tile than to that of any other."""

    box: Box
    voxels: Voxels
    """In the order of the box."""


def load_network(model: Path, fold: int, *, checkpoint: str, device: torch.device) -> TrainedNetwork:
    """Load one fold of an arm that was trained with auxiliary classes.

    Raises:
        ModelError: no such model, one that is not ours, one that tells apart no labelled auxiliary, or whose last layer
            is not a 1x1 convolution.
    """
    arm = ArmSettings.from_block(read_plans(model)[BLOCK])
    if arm.arm.kind == "virtual" or arm.num_classes == arm.scheme.num_targets + 1:
        raise ModelError(
            f"{arm.name} was trained without auxiliary classes, so merging them loses nothing; give an arm such as "
            "backsplit"
        )
    with output_to(Path(os.devnull)):
        predictor: Any = nnUNetPredictor(device=device, allow_tqdm=False)
        initialize(predictor, model, [fold], checkpoint=checkpoint)
    network: nn.Module = predictor.network.to(device).eval()
    plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    example = torch.zeros((1, len(channel_names(dataset)), *configuration.patch_size), device=device)
    return TrainedNetwork(arm, network, find_last_layer(network, example), plans, configuration, dataset, device)


def read_labelled(trained: TrainedNetwork, case: Case, *, ignore: int | None) -> LabelledCase:
    """Preprocess a case as nnU-Net does, its labels too.

    Raises:
        CohortError: no label map, or another number of images than the model has channels.
        VolumeError: a file that is missing or damaged.
        GeometryError: image and labels lie on different grids.
        LabelError: a label that is no class of the scheme.
    """
    num_channels = len(channel_names(trained.dataset))
    if len(case.images) != num_channels:
        raise CohortError(f"{case.name}: {len(case.images)} images, the model takes {num_channels} channels")
    if case.labels is None:
        raise CohortError(f"{case.name}: no label map, so nobody knows where its lesions end; take labelled cases")
    try:
        for path in (*case.images, case.labels):
            check_complete(path)
        if difference := read_grid(case.images[0]).difference(read_grid(case.labels)):
            raise GeometryError(f"image and labels lie on different grids: {difference}; compose the cohort again")
        data, labels, properties = DefaultPreprocessor(verbose=False).run_case(
            [str(image) for image in case.images],
            str(case.labels),
            trained.plans,
            ResizedBy(trained.configuration, "fast"),
            trained.dataset,
        )
        classes = _classes_of_arm(labels[0], trained.arm, ignore)
    except BackSplitError as error:
        raise type(error)(f"{case.name}: {error}") from error
    return LabelledCase(torch.from_numpy(data), classes, read_grid(case.images[0]), properties)


def _classes_of_arm(
    labels: Integer[np.ndarray, "z y x"], arm: ArmSettings, ignore: int | None
) -> Integer[np.ndarray, "z y x"]:
    """Fine labels as classes of the arm; nnU-Net writes -1 outside of what it crops to."""
    is_ignored = labels == (-2 if ignore is None else ignore)
    fine = np.where(is_ignored | (labels < 0), 0, labels)
    extra = sorted({int(value) for value in np.unique(fine)} - set(range(arm.scheme.num_classes)))
    if extra:
        raise LabelError(
            f"labels {extra} are outside the scheme {', '.join(arm.scheme.names)} (0 to {arm.scheme.num_classes - 1}); "
            "compose the cohort again"
        )
    return np.where(is_ignored, -1, arm.coarsening.of_labels(fine).astype(np.int64))


def tiles(trained: TrainedNetwork, volume: Float[Tensor, "channel z y x"], *, step_size: float) -> Iterator[Tile]:
    """Run the network over a volume in nnU-Net's tiles; each voxel is taken once, from the tile centred closest to it.

    nnU-Net itself averages what overlapping tiles say.

    Args:
        trained: the network.
        volume: preprocessed; smaller ones are padded with zeros, as nnU-Net pads them.
        step_size: distance between tiles as a share of the patch.

    Raises:
        ModelError: the network puts out numbers that are not finite.
    """
    padded, before = _padded(volume, trained.patch_size)
    waiting = places(trained.patch_size, volume.shape[1:], step_size=step_size)
    for number in range(0, len(waiting), TILES_AT_ONCE):
        now = waiting[number : number + TILES_AT_ONCE]
        inputs = torch.stack([padded[:, *taken] for taken, _ in now]).to(trained.device)
        is_flat = len(trained.configuration.patch_size) == 2
        seen = look(trained.network, trained.layer, inputs[:, :, 0] if is_flat else inputs)
        for index, (taken, owned) in enumerate(now):
            yield _tile(seen, index, len(now), taken, owned, before)


def _padded(volume: Tensor, patch: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The volume, no edge of it shorter than the patch; and where it starts in there."""
    missing = [max(0, edge - old) for edge, old in zip(patch, volume.shape[1:], strict=True)]
    before = [lack // 2 for lack in missing]
    margins = [(first, lack - first) for first, lack in zip(before, missing, strict=True)]
    return nn.functional.pad(volume, [number for pair in reversed(margins) for number in pair]), before


def places(patch_size: Sequence[int], shape: Sequence[int], *, step_size: float) -> list[tuple[Box, Box]]:
    """What each tile covers, and the part of it that is closer to its centre than to that of any other tile.

    Args:
        patch_size: edges of a tile.
        shape: of the volume.
        step_size: as for `tiles`.

    Returns:
        Boxes in the padded volume; the second ones part the volume without its padding.
    """
    along = []
    for patch, length in zip(patch_size, shape, strict=True):
        (starts,) = compute_steps_for_sliding_window((max(patch, length),), (patch,), step_size)
        first = max(0, patch - length) // 2
        edges = [first, *((one + other + patch) // 2 for one, other in pairwise(starts)), first + length]
        owned = [slice(*ends) for ends in pairwise(edges)]
        along.append(
            [(slice(at, at + patch), own) for at, own in zip(starts, owned, strict=True) if own.start < own.stop]
        )
    return [((a, b, c), (d, e, f)) for (a, d), (b, e), (c, f) in product(*along)]


def _tile(seen: Voxels, index: int, num: int, taken: Box, owned: Box, before: Sequence[int]) -> Tile:
    """Cut what a tile owns out of what was seen of a batch."""
    shape = (-1, num, *(each.stop - each.start for each in taken))
    cut = tuple(slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(owned, taken, strict=True))
    features, probabilities = (
        values.reshape(shape)[:, index, *cut].flatten(1) for values in (seen.features, seen.probabilities)
    )
    x, y, z = (slice(own.start - low, own.stop - low) for own, low in zip(owned, before, strict=True))
    return Tile((x, y, z), Voxels(features, probabilities))


def on_image(trained: TrainedNetwork, values: Float[np.ndarray, "z y x"], case: LabelledCase) -> Volume:
    """Bring a map from the network's grid to that of the image, as nnU-Net brings probabilities; 0 where it cropped."""
    plans, own, seen = trained.plans, list(trained.configuration.spacing), case.properties
    spacing = [seen["spacing"][axis] for axis in plans.transpose_forward]
    cropped = trained.configuration.resampling_fn_probabilities(
        values[None].astype(np.float32),
        seen["shape_after_cropping_and_before_resampling"],
        own if len(own) == 3 else [spacing[0], *own],
        spacing,
    )
    whole = np.zeros(seen["shape_before_cropping"], np.float32)
    insert_crop_into_image(whole, np.asarray(cropped)[0], seen["bbox_used_for_cropping"])
    in_order = whole.transpose(plans.transpose_backward).transpose(2, 1, 0)
    return Volume(np.ascontiguousarray(in_order), case.grid)
