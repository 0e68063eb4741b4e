"""One case through a trained model: network, screening, export."""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Integer, UInt8
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from backsplit.arrays import LabelMap, Voxels
from backsplit.cases import Case
from backsplit.errors import ModelError
from backsplit.labels import identity
from backsplit.nnunet.export import axes_of, can_export, in_image, label_map, posteriors, resampled
from backsplit.nnunet.heads import take_heads
from backsplit.nnunet.models import channel_names, initialize
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.reading import ReadCase, read_case
from backsplit.nnunet.screening import Question, Screened, screen
from backsplit.nnunet.tiles import Precision, Slab, TiledNetwork
from backsplit.volume import Grid, read_labels


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model, ready to use."""

    nnunet: nnUNetPredictor
    """Plans, data set and reader; its network is in `network`."""
    network: TiledNetwork


def load_model(
    model: Path,
    folds: Sequence[int | str],
    settings: PredictionSettings,
    device: torch.device,
    *,
    allow_unsafe: bool = False,
) -> LoadedModel:
    """Any trained nnU-Net v2 model of one class per voxel; see `backsplit.nnunet.models.initialize`.

    Raises:
        ModelError: as there.
    """
    with redirect_stdout(StringIO()):  # it says that a CPU is no GPU
        predictor = nnUNetPredictor(
            tile_step_size=settings.step_size,
            use_mirroring=settings.mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
    initialize(predictor, model, folds, checkpoint=settings.checkpoint, allow_unsafe=allow_unsafe)
    network = tiled_network(
        predictor,
        tiles_at_once=settings.tiles_at_once,
        precision=settings.precision,
        is_exact=settings.exact,
    )
    return LoadedModel(predictor, network)


def tiled_network(
    predictor: nnUNetPredictor,
    *,
    tiles_at_once: int | None = None,
    precision: Precision = "float32",
    is_exact: bool = False,
) -> TiledNetwork:
    """The networks of a loaded model.

    Args:
        predictor: from `backsplit.nnunet.models.initialize`; its network becomes ours.
        tiles_at_once: in a batch; by default 1 on a CPU, where more take memory and save no time, and 2 elsewhere.
        precision: of the network on a CPU; on CUDA it is nnU-Net's.
        is_exact: average logits of one tile after the other, as nnU-Net itself does, whatever it costs.
    """
    predictor.network.to(predictor.device).eval()
    folds = [_fold(predictor, weights) for weights in predictor.list_of_parameters or ()]
    num_classes, patch_size = predictor.label_manager.num_segmentation_heads, predictor.configuration_manager.patch_size
    return TiledNetwork(
        folds=tuple(folds),
        head=None if is_exact else take_heads(folds, example_for(predictor), num_classes),
        num_classes=num_classes,
        patch_size=tuple(patch_size),
        step_size=predictor.tile_step_size,
        mirror_axes=tuple(predictor.allowed_mirroring_axes or ()) if predictor.use_mirroring else (),
        tiles_at_once=1 if is_exact else tiles_at_once or (1 if predictor.device.type == "cpu" else 2),
        precision=precision,
        device=predictor.device,
    )


def example_for(predictor: nnUNetPredictor) -> Float32[Tensor, "1 channel ..."]:
    """A patch that the network of a loaded model takes, of zeros."""
    num_inputs, patch_size = len(channel_names(predictor.dataset_json)), predictor.configuration_manager.patch_size
    return torch.zeros((1, num_inputs, *patch_size), device=predictor.device)


def _fold(predictor: nnUNetPredictor, weights: dict[str, Any]) -> nn.Module:
    network: Any = predictor.network if len(predictor.list_of_parameters) == 1 else deepcopy(predictor.network)
    network.load_state_dict(weights)
    return network


@dataclass(frozen=True, slots=True)
class Found:
    """What the network says about a case, before it is brought to the grid of the image."""

    case: Case
    grid: Grid
    properties: dict[str, Any]
    screened: Screened | Integer[np.ndarray, "z y x"]
    """Or label values on the grid of the cropped image, where plans ask for a resampling that is not ours."""


def find(model: LoadedModel, seen: ReadCase, question: Question) -> Found:
    """Run the network over a case.

    Raises:
        ModelError: the network puts out numbers that are not finite; or posteriors are asked for and the plans have
            another resampling than nnU-Net's own.
    """
    slabs, shape = model.network.slabs(seen.volume, wanted=seen.body), seen.volume.shape[1:]
    configuration = model.nnunet.configuration_manager
    if can_export(configuration):
        axes = axes_of(shape, seen.properties, model.nnunet.plans_manager, configuration)
        is_interpolated = [axis.is_interpolated for axis in axes]
        screened = screen(slabs, model.network, question, shape=shape, is_interpolated=is_interpolated)
    else:
        screened = _by_all_classes(model, slabs, question, seen)
    return Found(seen.case, seen.grid, seen.properties, screened)


def _by_all_classes(
    model: LoadedModel, slabs: Iterable[Slab], question: Question, seen: ReadCase
) -> Integer[np.ndarray, "z y x"]:
    """Resample the logits of all classes, as the plans say."""
    if question.with_posterior:
        raise ModelError("the plans of this model resample logits in a way of their own; leave out --probabilities")
    compared = question.compared
    logits = np.zeros((compared.num_fine, *seen.volume.shape[1:]), np.float16)
    for slab in slabs:
        of_slab = question.compare(model.network.logits(slab.values.flatten(1)))
        planes = slice(slab.start, slab.start + len(slab.is_covered))
        logits[:, planes] = of_slab.reshape(-1, *slab.is_covered.shape)
    plans, configuration = model.nnunet.plans_manager, model.nnunet.configuration_manager
    return compared.of_labels(resampled(torch.from_numpy(logits), seen.properties, plans, configuration).argmax(0))


def masks_of(model: LoadedModel, found: Found, question: Question) -> LabelMap:
    """Label values in the order of the image file, `[x, y, z]`."""
    if isinstance(found.screened, Screened):
        cropped = label_map(found.screened, _axes(model, found), question.compared)
    else:
        cropped = found.screened
    return _as_in_file(model, cropped, found)


def posteriors_of(model: LoadedModel, found: Found) -> list[Voxels]:
    """The posterior of each target in the order of the image file, 255 for certainty; what was cropped away is 0."""
    if not isinstance(found.screened, Screened) or found.screened.odds is None:
        return []
    of_targets: UInt8[np.ndarray, "targets z y x"] = posteriors(found.screened.odds, _axes(model, found))
    return [_as_in_file(model, posterior, found) for posterior in of_targets]


def predict_case(model: LoadedModel, case: Case) -> LabelMap:
    """What the network tells apart, on the grid of the image, `[x, y, z]`.

    Raises:
        CohortError: the case has another number of images than the model has channels.
        VolumeError: an image that no network can take.
        GeometryError: images on different grids.
        ModelError: the network puts out numbers that are not finite.
    """
    question = Question(identity(model.network.num_classes))
    return masks_of(model, find(model, read_case(model.nnunet, case), question), question)


def _axes(model: LoadedModel, found: Found) -> Sequence[Any]:
    screened = found.screened
    return axes_of(
        screened.cells.shape, found.properties, model.nnunet.plans_manager, model.nnunet.configuration_manager
    )


def _as_in_file(
    model: LoadedModel, cropped: Integer[np.ndarray, "cropped_z cropped_y cropped_x"], found: Found
) -> LabelMap:
    """Values of a crop in the order of the image file; readers that turn images turn labels back as they write."""
    plans = model.nnunet.plans_manager
    whole, reader = in_image(cropped, found.properties, plans), plans.image_reader_writer_class
    if reader is SimpleITKIO:
        return whole.transpose(2, 1, 0)
    with tempfile.TemporaryDirectory(prefix="backsplit-") as folder:
        path = Path(folder) / "labels.nii"
        reader().write_seg(whole, str(path), found.properties)
        return read_labels(path).voxels
