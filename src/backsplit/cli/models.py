"""Training and prediction."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace


@dataclass(frozen=True)
class Train:
    """Train one arm on one fold; the same command goes on where it was stopped.

    Example: backsplit train --arm binary --fold 0

    Example: backsplit train --arm backsplit --fold 0 --budget short --device cuda
    """

    arm: str
    """binary (targets against the rest) or backsplit (all fine classes)."""
    fold: int = 0
    """Fold whose validation cases are left out."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    budget: Literal["paper", "short", "demo"] = "paper"
    """paper: 1000 epochs of 250 iterations; short: 100 of 250; demo: minutes on a CPU."""
    epochs: int | None = None
    """Epochs, instead of the budget's."""
    iterations: int | None = None
    """Iterations per epoch, instead of the budget's."""
    loss: Literal["target-first", "paper"] = "target-first"
    """paper: nnU-Net's Dice and cross-entropy on the fine classes; target-first: auxiliaries weigh 0.3."""
    sampling: Literal["target", "any"] = "target"
    """What forced-foreground patches are centred on: a target, or any class of the arm as in stock nnU-Net."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """sgd: nnU-Net's and the paper's; adamw: gets somewhere in hundreds of iterations, the default of --budget demo."""
    seed: int = 0
    """Of initial weights, patches and augmentation."""
    device: Device = "auto"
    """Where to train."""
    workers: int | None = None
    """Augmentation processes; results do not depend on it."""

    def run(self) -> None:
        """Train."""
        from backsplit.experiments.study import prepared_dataset
        from backsplit.nnunet.arms import BUDGETS, ArmSettings
        from backsplit.nnunet.training import default_num_workers, open_prepared, train

        dataset, _ = prepared_dataset(Workspace(self.workspace))
        folders = folders_of(self.workspace)
        prepared = open_prepared(folders, dataset)
        settings = ArmSettings(
            arm=self.arm,
            scheme=prepared.scheme,
            budget=BUDGETS[self.budget].with_changes(epochs=self.epochs, iterations=self.iterations),
            loss=self.loss,
            sampling=self.sampling,
            optimizer=self.optimizer or ("adamw" if self.budget == "demo" else "sgd"),
            seed=self.seed,
        )
        device = device_of(self.device)
        num_workers = default_num_workers(device) if self.workers is None else self.workers
        say(f"{train(prepared, settings, folders, fold=self.fold, device=device, num_workers=num_workers)}")


@dataclass(frozen=True)
class Predict:
    """Write target-only masks; cases that are done are not done again.

    Without INPUT, each fold's model predicts the cases that its training left out: what a comparison needs.

    Example: backsplit predict backsplit

    Example: backsplit predict backsplit new-patients/ masks/ --folds 0 1 2 3 4
    """

    model: Positional[str]
    """Arm of the workspace, or a model folder with plans.json and fold_0."""
    input: Annotated[Path | None, tyro.conf.Positional] = None
    """Cohort, or a folder of images named <case>_0000.nii.gz; by default the cases that the folds left out."""
    output: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder for the masks; by default that of the arm in the workspace."""
    folds: tuple[int, ...] = (0,)
    """Folds to use; with INPUT, their logits are averaged."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    all_classes: bool = False
    """Write all classes of the arm instead of the targets alone."""
    mirroring: bool = True
    """Average over mirrored images; 8 times the work of --no-mirroring."""
    device: Device = "auto"
    """Where to predict."""

    def run(self) -> None:
        """Predict."""
        from backsplit.experiments.study import held_out_cases, input_cases, model_of
        from backsplit.nnunet.prediction import PredictionSettings, Predictor, channels_of

        workspace, folders = Workspace(self.workspace), folders_of(self.workspace)
        model = model_of(folders, workspace, self.model)
        settings = PredictionSettings(mirroring=self.mirroring, all_classes=self.all_classes)
        predictor = Predictor(model, self.folds, settings, device_of(self.device))
        output = self.output or workspace.predictions_of(predictor.arm.arm)
        if self.input is not None:
            cases = input_cases(self.input, channels_of(model))
            predictor.predict(cases, output, cohort=str(self.input.resolve()))
        for fold in self.folds if self.input is None else ():
            cases, manifest = held_out_cases(folders, workspace, fold)
            replace(predictor, folds=(fold,)).predict(cases, output, cohort=str(manifest.resolve()))
        say(f"{output}")
