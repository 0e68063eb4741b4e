"""What the last layer of a trained arm takes and puts out over whole cases, one tile after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from torch import Tensor, nn

from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, GeometryError, LabelError, ModelError
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import BLOCK, ArmSettings
from backsplit.nnunet.averages import Box
from backsplit.nnunet.export import in_image, resampled
from backsplit.nnunet.inference import LoadedModel, example_for, load_model
from backsplit.nnunet.prediction import read_plans
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.preprocessing import ResizedBy
from backsplit.nnunet.reading import read_images
from backsplit.nnunet.tiles import pad
from backsplit.theory.last_layer import Voxels, find_last_layer, look
from backsplit.volume import Grid, Volume, check_complete, read_grid

TILES_AT_ONCE = 2
"""PyTorch has no fast 3D convolution for a batch of one on CPUs."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """The network of one fold of an arm, ready to be looked into."""

    arm: ArmSettings
    model: LoadedModel
    """Of one fold, its last layer in its place."""
    layer: nn.Module
    """The last one."""

    @property
    def network(self) -> nn.Module:
        """All of it."""
        return self.model.network.folds[0]

    @property
    def scheme(self) -> LabelScheme:
        """What the network tells apart."""
        names, num_targets = self.arm.class_names, self.arm.scheme.num_targets
        return LabelScheme(names[1 : num_targets + 1], names[num_targets + 1 :])


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
    settings = PredictionSettings(exact=True, checkpoint=checkpoint)  # exact: nothing is cut off
    loaded = load_model(model, [fold], settings, device)
    return TrainedNetwork(arm, loaded, find_last_layer(loaded.network.folds[0], example_for(loaded.nnunet)))


def read_labelled(trained: TrainedNetwork, case: Case, *, ignore: int | None) -> LabelledCase:
    """Preprocess a case as nnU-Net does, its labels too.

    Raises:
        CohortError: no label map, or another number of images than the model has channels.
        VolumeError: an image that `read_case` does not take, or labels that are missing or damaged.
        GeometryError: images or labels lie on different grids.
        LabelError: a label that is no class of the scheme.
    """
    predictor = trained.model.nnunet
    plans, configuration = predictor.plans_manager, ResizedBy(predictor.configuration_manager, "fast")
    if case.labels is None:
        raise CohortError(f"{case.name}: no label map, so nobody knows where its lesions end; take labelled cases")
    try:
        grid, images, properties = read_images(predictor, case.images)
        check_complete(case.labels)
        if difference := grid.difference(read_grid(case.labels)):
            raise GeometryError(f"image and labels lie on different grids: {difference}; compose the cohort again")
        labels, _ = plans.image_reader_writer_class().read_seg(str(case.labels))
        data, labels, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            images, labels, properties, plans, configuration, predictor.dataset_json
        )
        classes = _classes_of_arm(labels[0], trained.arm, ignore)
    except BackSplitError as error:
        raise type(error)(f"{case.name}: {error}") from error
    return LabelledCase(torch.from_numpy(data), classes, grid, properties)


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
    network = trained.model.network
    padded, inside = pad(volume, network.patch)
    waiting = places(network.patch, volume.shape[1:], step_size=step_size)
    for number in range(0, len(waiting), TILES_AT_ONCE):
        now = waiting[number : number + TILES_AT_ONCE]
        inputs = torch.stack([padded[:, *taken] for taken, _ in now]).to(network.device)
        seen = look(trained.network, trained.layer, inputs.reshape(*inputs.shape[:2], *network.patch_size))
        for index, (taken, owned) in enumerate(now):
            yield _tile(seen, index, len(now), taken, owned, inside)


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


def _tile(seen: Voxels, index: int, num: int, taken: Box, owned: Box, inside: Box) -> Tile:
    """Cut what a tile owns out of what was seen of a batch."""
    shape = (-1, num, *(each.stop - each.start for each in taken))
    cut = tuple(slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(owned, taken, strict=True))
    features, probabilities = (
        values.reshape(shape)[:, index, *cut].flatten(1) for values in (seen.features, seen.probabilities)
    )
    x, y, z = (slice(own.start - at.start, own.stop - at.start) for own, at in zip(owned, inside, strict=True))
    return Tile((x, y, z), Voxels(features, probabilities))


def on_image(trained: TrainedNetwork, values: Float[np.ndarray, "z y x"], case: LabelledCase) -> Volume:
    """Bring a map from the network's grid to that of the image, as nnU-Net brings probabilities; 0 where it cropped."""
    plans, configuration = trained.model.nnunet.plans_manager, trained.model.nnunet.configuration_manager
    (cropped,) = resampled(torch.from_numpy(values[None].astype(np.float32)), case.properties, plans, configuration)
    whole = in_image(cropped.astype(np.float32, copy=False), case.properties, plans)
    return Volume(np.ascontiguousarray(whole.transpose(2, 1, 0)), case.grid)
