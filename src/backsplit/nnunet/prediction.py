"""Target-only masks from a trained arm, on the grid of each image."""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, ConfigurationError, ModelError
from backsplit.files import write_json
from backsplit.labels import Coarsening, identity
from backsplit.nnunet.arms import BLOCK, ArmSettings, Plans
from backsplit.nnunet.folders import output_to
from backsplit.nnunet.inference import Found, find, load_model, masks_of, posteriors_of
from backsplit.nnunet.models import channel_names
from backsplit.nnunet.pipeline import overlapped
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.preprocessing import Resampling
from backsplit.nnunet.reading import ReadCase, check_body_is_known, read_case, trained_spacings
from backsplit.nnunet.screening import Question
from backsplit.nnunet.start import classes_of, dataset_of, plans_of
from backsplit.progress import track_some
from backsplit.volume import Volume, write_volume

logger = logging.getLogger(__name__)
MANIFEST_NAME = "predictions.json"
POSTERIORS = "probabilities"
"""Folder of posteriors, inside that of the masks."""
MOST_NAMED = 5


def read_plans(model: Path) -> Plans:
    """Plans of a model folder.

    Raises:
        ModelError: the folder is no finished model of ours.
    """
    plans = plans_of(model)
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

        start = time.perf_counter()
        stages = overlapped(cases, read, lambda seen: find(model, seen, question), write)
        _raise_failed(track_some(stages, f"{self.name}: predicted", total=len(cases)), len(cases))
        self._note_time(output, len(cases), time.perf_counter() - start)

    def _note_time(self, output: Path, num_cases: int, seconds: float) -> None:
        """Add up in the manifest what prediction took, from reading to writing; without loading the model."""
        made = read_predictions(output)
        before = made.get("time", {"cases": 0, "seconds": 0.0})
        taken = {"cases": before["cases"] + num_cases, "seconds": round(before["seconds"] + seconds, 3)}
        write_json({**made, "time": taken}, output / MANIFEST_NAME)

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
        kept = {"time": old["time"]} if "time" in old else {}
        write_json({**how, "trained": {**old["trained"], **trained}, "cases": made, **kept}, path)

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
