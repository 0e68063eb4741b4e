"""Target-only masks from a trained arm, on the grid of each image."""

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, ConfigurationError, ModelError
from backsplit.files import write_json
from backsplit.labels import Coarsening, identity
from backsplit.nnunet.arms import BLOCK, ArmSettings, Plans
from backsplit.nnunet.folders import output_to
from backsplit.nnunet.inference import Found, LoadedModel, find, masks_of, posteriors_of, tiled_network
from backsplit.nnunet.models import channel_names, initialize
from backsplit.nnunet.pipeline import overlapped
from backsplit.nnunet.precision import has_fast_bfloat16
from backsplit.nnunet.preprocessing import Resampling
from backsplit.nnunet.reading import ReadCase, check_body_is_known, read_case, trained_spacings
from backsplit.nnunet.screening import Question, Rule
from backsplit.nnunet.start import classes_of, dataset_of, plans_of
from backsplit.nnunet.tiles import Precision
from backsplit.nnunet.training import FINAL
from backsplit.progress import track_some
from backsplit.volume import Volume, write_volume

logger = logging.getLogger(__name__)
MANIFEST_NAME = "predictions.json"
POSTERIORS = "probabilities"
"""Folder of posteriors, inside that of the masks."""
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How a prediction is made; the same for all arms of a comparison."""

    mirroring: bool = True
    """Average over mirrored inputs along the axes that the training mirrored; 8 times the work in 3D."""
    targets: tuple[str, ...] = ()
    """Names of the classes to write; by default the targets of the arm."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch, above 0 to 1; less is slower and smoother."""
    all_classes: bool = False
    """Write the arm's own classes instead of the targets alone."""
    rule: Rule = "argmax"
    """Merge classes after argmax, as the paper and nnU-Net do, or add up the probabilities of all but the targets
    before it."""
    exact: bool = False
    """Resize images with nnU-Net's own code, and average the logits of all classes, as it does: equal to it in every
    voxel, slower."""
    resampling: Resampling = "fast"
    """Who resizes images; with `exact`, nnU-Net."""
    probabilities: bool = False
    """Write the posterior of each target, too."""
    skip_air: bool = False
    """Leave out tiles that do not reach the box around the largest part of a CT above -190 HU."""
    any_spacing: bool = False
    """Take images whose voxels are far from those of the training."""
    tiles_at_once: int | None = None
    """Tiles in a batch; by default 1 on a CPU and 2 elsewhere."""
    precision: Precision = "float32"
    """Of the network on a CPU; on CUDA it is nnU-Net's, half."""
    checkpoint: str = FINAL
    """File of each fold."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigurationError(f"--step-size is a share of the patch, above 0 to 1; got {self.step_size}")
        if self.all_classes and self.rule == "pooled":
            raise ConfigurationError("--all-classes shows what argmax chooses; --rule pooled merges before that")
        if self.all_classes and self.targets:
            raise ConfigurationError("--targets names the classes to write; leave out --all-classes")
        if self.all_classes and self.probabilities:
            raise ConfigurationError("--probabilities are those of the targets; leave out --all-classes")
        if self.tiles_at_once is not None and self.tiles_at_once < 1:
            raise ConfigurationError(f"--tiles-at-once is 1 or more; got {self.tiles_at_once}")
        if self.precision == "bfloat16" and (self.exact or not has_fast_bfloat16()):
            raise ConfigurationError(
                "--precision bfloat16 is for CPUs that have it in hardware (see `backsplit doctor`), not for --exact"
            )


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
class TargetPredictor:
    """A trained arm, the folds of it to average, and how to use them."""

    model: Path
    """nnU-Net's model folder: plans.json, dataset.json and one folder per fold."""
    folds: tuple[int | str, ...]
    settings: PredictionSettings
    device: torch.device
    is_trusted: bool = False
    """Run code that the checkpoints hold."""

    @property
    def arm(self) -> ArmSettings | None:
        """What the model was trained to tell apart; None if stock nnU-Net trained it."""
        plans = plans_of(self.model)
        return ArmSettings.from_block(plans[BLOCK]) if BLOCK in plans else None

    @property
    def name(self) -> str:
        """What its predictions are filed under."""
        return self.arm.name if self.arm else self.model.resolve().name

    @property
    def question(self) -> Question:
        """What its masks tell apart.

        Raises:
            ModelError: the model does not say what its targets are, or has no class of a name that was given.
        """
        classes, settings = classes_of(self.model), self.settings
        if settings.all_classes:
            return Question(identity(len(classes)))
        targets = settings.targets or (self.arm.scheme.targets if self.arm else ())
        if not targets or not set(targets) <= set(classes[1:]):
            raise ModelError(
                f"--targets {' '.join(targets) or '(none)'}: {self.model.name} tells apart {', '.join(classes[1:])}; "
                "name those of them that are wanted"
            )
        keep = Coarsening(tuple(targets.index(name) + 1 if name in targets else 0 for name in classes))
        return Question(keep, settings.rule, with_posterior=settings.probabilities)

    def predict(self, cases: Sequence[Case], output: Path, *, cohort: str) -> list[Path]:
        """Write `output/<case>.nii.gz` for each case; cases that are done already are left alone.

        Label values are 0 for the rest and 1 to T for the targets. With `probabilities`,
        `output/probabilities/<case>_<label value>.nii.gz` hold the posteriors of the targets as numbers from 0 to 255,
        which stand for 0 to 1. A manifest beside them names the model and how it was used; a folder that holds
        predictions made in another way is refused. What is wrong with one case does not stop the others.

        Args:
            cases: images to segment; labels are not read.
            output: folder, made if need be.
            cohort: where the cases come from, for the manifest.

        Raises:
            ModelError: a fold is not trained, or the folder holds other predictions.
            ConfigurationError: the output is no folder, or the model cannot be used as asked.
            CohortError: no cases; or, once all others are written, some that the model cannot take.
        """
        if not cases:
            raise CohortError(f"no cases to predict for {output}")
        if output.exists() and not output.is_dir():
            raise ConfigurationError(f"{output} is a file; name a folder for the masks")
        if self.settings.skip_air:
            check_body_is_known(self.model, channel_names(dataset_of(self.model)))
        question = self.question
        self._claim(output, cases, cohort=cohort)
        files = {case.name: output / f"{case.name}.nii.gz" for case in cases}
        waiting = [case for case in cases if not files[case.name].exists()]
        if waiting:
            self._write(waiting, output, question)
        else:
            logger.info("%s: all %d cases are already predicted", self.name, len(cases))
        return list(files.values())

    def _write(self, cases: Sequence[Case], output: Path, question: Question) -> None:
        with output_to(self.model / "prediction.log"):
            model = load_model(self.model, self.folds, self.settings, self.device, allow_unsafe=self.is_trusted)
        trained = None if self.settings.any_spacing else trained_spacings(self.model)
        resampling: Resampling = "stock" if self.settings.exact else self.settings.resampling

        def read(case: Case) -> ReadCase:
            return read_case(
                model.nnunet, case, resampling=resampling, trained=trained, find_body=self.settings.skip_air
            )

        def write(found: Found) -> None:
            for value, posterior in enumerate(posteriors_of(model, found), start=1):
                file = output / POSTERIORS / f"{found.case.name}_{value:04}.nii.gz"
                write_volume(Volume(posterior, found.grid), file)
            mask = masks_of(model, found, question)
            write_volume(Volume(mask, found.grid), output / f"{found.case.name}.nii.gz")

        stages = overlapped(cases, read, lambda seen: find(model, seen, question), write)
        _raise_failed(track_some(stages, f"{self.name}: predicted", total=len(cases)), len(cases))

    def _claim(self, output: Path, cases: Sequence[Case], *, cohort: str) -> None:
        """Write down how the predictions of a folder are made, or refuse if they are made otherwise."""
        trained = {str(fold): self._training_of(fold) for fold in self.folds}
        how: dict[str, Any] = {"version": 2, "arm": self.name, "model": str(self.model.resolve()), "cohort": cohort}
        how |= {**asdict(self.settings), "targets": list(self.settings.targets)}
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

    def _training_of(self, fold: int | str) -> str:
        checkpoint = self.model / f"fold_{fold}" / self.settings.checkpoint
        if not checkpoint.exists():
            raise ModelError(
                f"fold {fold} of {self.model.name} has no {self.settings.checkpoint}; train it to the end first"
            )
        stat = checkpoint.stat()
        return f"{stat.st_size} bytes, {stat.st_mtime_ns}"


def read_predictions(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of predictions.

    Raises:
        ModelError: there is none.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise ModelError(f"{folder} holds no predictions of BackSplit; run `backsplit predict` first")
    return json.loads(path.read_text())


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


def _raise_failed(done: Iterable[tuple[Case, BackSplitError | None]], total: int) -> None:
    """Go through the cases; say at once what is wrong with one, and name those at the end.

    Raises:
        CohortError: a case failed.
    """
    failed = []
    for case, error in done:
        if error is not None:
            logger.error("%s", error)
            failed.append(case.name)
    if failed:
        more = "" if len(failed) <= MOST_NAMED else f" and {len(failed) - MOST_NAMED} more"
        raise CohortError(
            f"{len(failed)} of {total} cases failed ({', '.join(failed[:MOST_NAMED])}{more}; each has a line above); "
            "the others are written; mend these and run the same command again"
        )
