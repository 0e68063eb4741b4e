"""Masks from any trained nnU-Net v2 model, also one that `backsplit train` made."""

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backsplit.cases import Case
from backsplit.errors import CohortError, ModelError
from backsplit.nnunet.archive import PARTS, unpack
from backsplit.nnunet.inference import LoadedModel, load_model, predict_case
from backsplit.nnunet.models import folds_of, licence_of
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.start import classes_of
from backsplit.sources.protocol import Masks
from backsplit.sources.structures import choose_structures
from backsplit.volume import Volume, read_grid


@dataclass(frozen=True)
class NnunetSource:
    """A trained model and how to use it; made by `open_nnunet`."""

    model: Path
    """Folder or zip."""
    structures: tuple[str, ...]
    classes: tuple[str, ...]
    """Of the model, by output."""
    folds: tuple[str, ...]
    """Whose outputs are averaged."""
    settings: PredictionSettings
    device: str
    channel: int | None
    """The image of a case that the model sees; None shows it all of them."""
    is_trusted: bool
    record: Mapping[str, Any]
    """Hashes and licence."""

    @property
    def how(self) -> dict[str, Any]:
        """See `MaskSource`."""
        return {
            "tool": "nnunetv2",
            "version": importlib.metadata.version("nnunetv2"),
            **self.record,
            "folds": list(self.folds),
            "step_size": self.settings.step_size,
            "mirroring": self.settings.mirroring,
            "channel": self.channel,
        }

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The images that the model sees.

        Raises:
            CohortError: the case has no such channel.
        """
        if self.channel is None:
            return case.images
        if not 0 <= self.channel < len(case.images):
            raise CohortError(f"{case.name}: no channel {self.channel}; it has 0 to {len(case.images) - 1}")
        return (case.images[self.channel],)

    def segment(self, case: Case, scratch: Path) -> Masks:
        """See `MaskSource`.

        Raises:
            ModelError: the model is not there any more.
            CohortError: the case has another number of images than the model has channels.
        """
        del scratch
        seen = self.inputs(case)
        predicted = predict_case(self._loaded, replace(case, images=seen))
        values = [self.structures.index(name) + 1 if name in self.structures else 0 for name in self.classes]
        table = np.array(values, np.min_scalar_type(len(self.structures)))
        return Masks(Volume(table[predicted], read_grid(seen[0])))

    @cached_property
    def _loaded(self) -> LoadedModel:
        with _model_folder(self.model) as folder:
            return load_model(
                folder, self.folds, self.settings, torch.device(self.device), allow_unsafe=self.is_trusted
            )


def open_nnunet(  # noqa: PLR0913  one per option of the command
    *,
    model: Path,
    structures: Sequence[str] | None,
    folds: Sequence[int] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    step_size: float = 0.5,
    mirroring: bool = True,
    device: str = "cpu",
    channel: int | None = None,
    force: bool = False,
    trust: bool = False,
) -> NnunetSource:
    """A trained model as a source of masks; loaded once here, so that what cannot be used is told before any case.

    Args:
        model: nnU-Net's model folder (plans.json, dataset.json, fold_*), or a zip that holds one.
        structures: classes of the model; None takes all that are no lesions.
        folds: whose outputs to average; None takes all that are trained.
        checkpoint: file of each fold.
        step_size: distance between tiles as a share of the patch.
        mirroring: average over mirrored images where the training mirrored.
        device: of torch.
        channel: the one image of each case that the model sees; None shows it all of them.
        force: take lesions, too.
        trust: run code that the checkpoints hold.

    Raises:
        ModelError: no model, or one that cannot be used.
        ConfigurationError: a step size that is none.
        SourceError: a structure that the model does not have, or a lesion.
    """
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size, checkpoint=checkpoint)
    with _model_folder(model) as folder:
        classes = classes_of(folder)
        chosen = choose_structures(classes[1:], structures, force=force)
        used = folds_of(folder, checkpoint) if folds is None else tuple(map(str, folds))
        with redirect_stdout(StringIO()):
            load_model(folder, used, settings, torch.device("cpu"), allow_unsafe=trust)
        files = [*PARTS, *(f"fold_{fold}/{checkpoint}" for fold in used)]
        record = {
            "weights": {name: _sha256(folder / name) for name in files},
            "licence": licence_of(folder).splitlines()[0].strip(),
        }
    return NnunetSource(model.resolve(), chosen, classes, used, settings, device, channel, trust, record)


@contextmanager
def _model_folder(model: Path) -> Generator[Path]:
    """A model folder; that of a zip is unpacked and goes away with the block."""
    if model.is_dir():
        yield model
    elif model.is_file():
        with tempfile.TemporaryDirectory(prefix="backsplit-model-") as folder:
            yield unpack(model, Path(folder))
    else:
        raise ModelError(f"no model {model}; give nnU-Net's model folder (with plans.json and fold_*), or a zip of it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
