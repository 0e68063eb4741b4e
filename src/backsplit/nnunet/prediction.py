"""Target-only masks from a trained arm, on the grid of each image."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from torch import Tensor

from backsplit.arrays import LabelMap
from backsplit.cases import Case
from backsplit.errors import CohortError, ConfigurationError, ModelError
from backsplit.files import write_json
from backsplit.labels import BACKGROUND, Coarsening, to_target
from backsplit.nnunet.arms import BLOCK, ArmSettings, Plans
from backsplit.nnunet.folders import output_to
from backsplit.nnunet.models import channel_names, initialize
from backsplit.nnunet.start import dataset_of
from backsplit.nnunet.training import FINAL
from backsplit.progress import track
from backsplit.volume import Volume, read_grid, read_labels, write_volume

logger = logging.getLogger(__name__)
MANIFEST_NAME = "predictions.json"


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How a prediction is made; the same for all arms of a comparison."""

    mirroring: bool = True
    """Average over mirrored inputs along the axes that the training mirrored; 8 times the work in 3D."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch, above 0 to 1; less is slower and smoother."""
    all_classes: bool = False
    """Write the arm's own classes instead of the targets alone."""
    rule: Literal["argmax", "pooled"] = "argmax"
    """Merge classes after argmax, as the paper and nnU-Net do, or add up the probabilities of all but the targets
    before it."""
    checkpoint: str = FINAL
    """File of each fold."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigurationError(f"--step-size is a share of the patch, above 0 to 1; got {self.step_size}")
        if self.all_classes and self.rule == "pooled":
            raise ConfigurationError("--all-classes shows what argmax chooses; --rule pooled merges before that")


def read_plans(model: Path) -> Plans:
    """Plans of a model folder.

    Raises:
        ModelError: the folder is no finished model of ours.
    """
    path = model / "plans.json"
    if not path.exists():
        raise ModelError(f"{model} holds no trained model (no plans.json); train one with `backsplit train`")
    plans = json.loads(path.read_text())
    if BLOCK not in plans:
        raise ModelError(f"{model} was not trained by BackSplit; predict with nnU-Net's own commands")
    return plans


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained arm, the folds of it to average, and how to use them."""

    model: Path
    """nnU-Net's model folder: plans.json, dataset.json and one folder per fold."""
    folds: tuple[int, ...]
    settings: PredictionSettings
    device: torch.device

    @property
    def arm(self) -> ArmSettings:
        """What the model was trained to tell apart."""
        return ArmSettings.from_block(read_plans(self.model)[BLOCK])

    def predict(self, cases: Sequence[Case], output: Path, *, cohort: str) -> list[Path]:
        """Write `output/<case>.nii.gz` for each case; cases that are done already are left alone.

        Label values are 0 for the rest and 1 to T for the targets. A manifest beside them names the model and how it
        was used; a folder that holds predictions made in another way is refused.

        Args:
            cases: images to segment; labels are not read.
            output: folder, made if need be.
            cohort: where the cases come from, for the manifest.

        Raises:
            ModelError: a fold is not trained, or the folder holds other predictions.
            CohortError: no cases, or an image that the model cannot take.
        """
        if not cases:
            raise CohortError(f"no cases to predict for {output}")
        arm = self.arm
        self._claim(output, cases, cohort=cohort)
        files = [output / f"{case.name}.nii.gz" for case in cases]
        waiting = [(case, file) for case, file in zip(cases, files, strict=True) if not file.exists()]
        if not waiting:
            logger.info("%s: all %d cases are already predicted", arm.name, len(cases))
            return files
        log = self.model / "prediction.log"
        with output_to(log):
            network = load_predictor(self.model, self.folds, self.settings, self.device)
        keep = to_target(num_targets=arm.scheme.num_targets, num_fine=arm.num_classes)
        if self.settings.rule == "pooled":
            _pool(network, keep)
        for case, file in track(waiting, f"{arm.name}: predicted"):
            with output_to(log):
                labels = predict_case(network, case)
            is_final = self.settings.all_classes or self.settings.rule == "pooled"
            chosen = labels if is_final else keep.of_labels(labels)
            write_volume(Volume(chosen, read_grid(case.images[0])), file)
        return files

    def _claim(self, output: Path, cases: Sequence[Case], *, cohort: str) -> None:
        """Write down how the predictions of a folder are made, or refuse if they are made otherwise."""
        trained = {str(fold): self._training_of(fold) for fold in self.folds}
        how: dict[str, Any] = {"version": 1, "arm": self.arm.name, "model": str(self.model.resolve()), "cohort": cohort}
        how |= asdict(self.settings)
        folds = "+".join(trained)
        path = output / MANIFEST_NAME
        old: dict[str, Any] = {**how, "trained": {}, "cases": {}}
        if path.exists():
            old = json.loads(path.read_text())
        changed = [key for key in how if old.get(key) != how[key]]
        changed += [
            f"training of fold {fold}" for fold in trained if old["trained"].get(fold, trained[fold]) != trained[fold]
        ]
        changed += [f"folds of {case.name}" for case in cases if old["cases"].get(case.name, folds) != folds]
        if changed:
            raise ModelError(
                f"{output} holds predictions that were made otherwise ({', '.join(changed[:5])}); "
                "choose another folder or remove this one"
            )
        made = {**old["cases"], **{case.name: folds for case in cases}}
        write_json({**how, "trained": {**old["trained"], **trained}, "cases": made}, path)

    def _training_of(self, fold: int) -> str:
        checkpoint = self.model / f"fold_{fold}" / self.settings.checkpoint
        if not checkpoint.exists():
            raise ModelError(
                f"fold {fold} of {self.model.name} has no {self.settings.checkpoint}; train it to the end first"
            )
        stat = checkpoint.stat()
        return f"{stat.st_size} bytes, {stat.st_mtime_ns}"


def channels_of(model: Path) -> tuple[str, ...]:
    """Names of the channels that a model takes."""
    read_plans(model)
    return channel_names(dataset_of(model))


def read_predictions(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of predictions.

    Raises:
        ModelError: there is none.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise ModelError(f"{folder} holds no predictions of BackSplit; run `backsplit predict` first")
    return json.loads(path.read_text())


def load_predictor(
    model: Path,
    folds: Sequence[int | str],
    settings: PredictionSettings,
    device: torch.device,
    *,
    allow_unsafe: bool = False,
) -> nnUNetPredictor:
    """Any trained nnU-Net v2 model of one class per voxel; see `backsplit.nnunet.models.initialize`.

    Raises:
        ModelError: as there.
    """
    predictor = nnUNetPredictor(
        tile_step_size=settings.step_size, use_mirroring=settings.mirroring, device=device, allow_tqdm=False
    )
    initialize(predictor, model, folds, checkpoint=settings.checkpoint, allow_unsafe=allow_unsafe)
    if device.type == "cpu":
        _run_tiles_in_pairs(predictor.network)
    return predictor


def _pool(predictor: nnUNetPredictor, coarsening: Coarsening) -> None:
    """Merge classes by the sum of their probabilities as soon as the network has put them out, in its own precision."""

    def pool(_: torch.nn.Module, __: Any, logits: Tensor) -> Tensor:  # noqa: ANN401  a hook's inputs
        return torch.stack([logits[:, list(block)].logsumexp(1) for block in coarsening.blocks], dim=1)

    predictor.network.register_forward_hook(pool)
    names = [BACKGROUND, *(str(index) for index in range(1, coarsening.num_coarse))]
    labels = {"labels": {name: index for index, name in enumerate(names)}}
    predictor.label_manager = predictor.plans_manager.get_label_manager({**predictor.dataset_json, **labels})


def _run_tiles_in_pairs(network: torch.nn.Module) -> None:
    """Compute each tile twice and keep the first result.

    PyTorch has no fast 3D convolution for a batch of one on CPUs: one tile of 32^3 takes 0.12 s, two take 0.04 s
    (U-Net 8-16-32-64, two AVX2 cores, torch 2.13).
    """
    network.register_forward_pre_hook(lambda _, inputs: (inputs[0].expand(2, *inputs[0].shape[1:]),))
    network.register_forward_hook(lambda _, __, output: output[:1])


def predict_case(predictor: nnUNetPredictor, case: Case) -> LabelMap:
    """What the network tells apart, on the grid of the image, `[x, y, z]`.

    Raises:
        CohortError: the case has another number of images than the model has channels.
    """
    num_channels = len(channel_names(predictor.dataset_json))
    if len(case.images) != num_channels:
        raise CohortError(f"{case.name}: {len(case.images)} images, the model takes {num_channels} channels")
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(image) for image in case.images],
        None,
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.dataset_json,
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties
    )
    return _as_in_file(predictor, labels, properties)


def _as_in_file(predictor: nnUNetPredictor, labels: np.ndarray, properties: dict[str, Any]) -> LabelMap:
    """Labels in the order of the image file, `[x, y, z]`; readers that turn images turn labels back as they write."""
    reader = predictor.plans_manager.image_reader_writer_class
    if reader is SimpleITKIO:
        return np.ascontiguousarray(labels.transpose(2, 1, 0))
    with tempfile.TemporaryDirectory(prefix="backsplit-") as folder:
        path = Path(folder) / "labels.nii"
        reader().write_seg(labels, str(path), properties)
        return read_labels(path).voxels
