"""Training from scratch and from trained weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    from backsplit.nnunet.arms import Arm, ArmSettings, Budget, Start
    from backsplit.nnunet.trainer import RunSettings
    from backsplit.nnunet.training import Prepared


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all trainings can be told."""

    auxiliaries: tuple[str, ...] = ()
    """Auxiliary classes that `subset` keeps apart."""
    selection: Path | None = None
    """File of `backsplit select` to take them from instead."""
    fraction: float = 1.0
    """Share of the training cases that keep their auxiliary labels, for `partial`; drawn by --seed, and recorded."""
    missing: Literal["marginal", "naive"] = "marginal"
    """Where a case is not annotated for an auxiliary: exact marginal likelihood, or background (the paper's way)."""
    fold: int = 0
    """Fold whose validation cases are left out."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    epochs: int | None = None
    """Epochs, instead of the budget's."""
    iterations: int | None = None
    """Iterations per epoch, instead of the budget's."""
    loss: Literal["target-first", "paper", "annealed", "curriculum"] = "target-first"
    """paper: nnU-Net's Dice and cross-entropy on the fine classes; target-first: auxiliaries weigh 0.3; annealed: their
    weight goes from 1 to 0; curriculum: target-first, auxiliaries brought in one after another."""
    auxiliary_weight: float | None = None
    """Weight of the auxiliary parts of the loss, instead of the preset's."""
    sampling: Literal["target", "any"] = "target"
    """What forced-foreground patches are centred on: a target, or any class of the arm as in stock nnU-Net."""
    sides: Literal["merge", "keep"] = "merge"
    """Left and right auxiliaries: one class; or two, without mirroring from left to right in any arm."""
    source: str | None = None
    """Whose auxiliary masks, if `compose --sources` named several; by default the first."""
    network: str = "unet"
    """unet, unet-2d, resenc-m, segresnet or swin-unetr; all take the same files, each has the paper's optimiser."""
    patch_size: tuple[int, ...] | None = None
    """Voxels along nnU-Net's axes, instead of the plan's."""
    batch_size: int | None = None
    """Patches per step, instead of the plan's."""
    features: tuple[int, ...] | None = None
    """Channels per stage of a U-Net, or the one number of a MONAI network, instead of the plan's."""
    deep_supervision: Literal["auto", "on", "off"] = "auto"
    """Outputs at lower resolutions take part in the loss; auto: on for U-Nets, which alone have them."""
    optimizer: Literal["paper", "adamw"] | None = None
    """paper: the network's own; adamw: gets somewhere in hundreds of iterations, the default of --budget demo."""
    learning_rate: float | None = None
    """Instead of the optimiser's."""
    seed: int = 0
    """Of initial weights, patches and augmentation."""
    name: str | None = None
    """What the results are filed under; by default made from what the arm does."""
    device: Device = "auto"
    """Where to train."""
    gpus: int = 1
    """Devices that share the training (with --device cpu, processes); the batch size is a multiple of it."""
    workers: int | None = None
    """Augmentation processes per device; results do not depend on it."""
    precision: Literal["auto", "float32"] = "auto"
    """auto: autocast where the hardware has it."""
    keep_every: int | None = None
    """Also keep a checkpoint every so many epochs, to predict with --checkpoint."""

    def fit(self, prepared: "Prepared", settings: "ArmSettings") -> None:
        """Train what the settings say."""
        from backsplit.nnunet.training import train

        run = self.run_settings()
        say(f"{train(prepared, settings, folders_of(self.workspace), fold=self.fold, run=run)}")

    def run_settings(self) -> "RunSettings":
        """How to train here."""
        from backsplit.errors import ConfigurationError
        from backsplit.nnunet.trainer import RunSettings
        from backsplit.nnunet.training import default_num_workers

        if self.gpus < 1 or (self.keep_every is not None and self.keep_every < 1):
            raise ConfigurationError(f"--gpus {self.gpus} and --keep-every {self.keep_every} must be 1 or more")
        device = device_of(self.device)
        num_workers = default_num_workers(device) if self.workers is None else self.workers
        return RunSettings(device, self.gpus, num_workers, self.precision, self.keep_every)

    def settings(
        self, prepared: "Prepared", arm: "Arm", budget: "Budget", *, is_short: bool, start: "Start | None" = None
    ) -> "ArmSettings":
        """The arm's settings; `is_short` chooses the optimiser for budgets of some hundred iterations."""
        from backsplit.learning.networks import network_named
        from backsplit.learning.optimisation import optimisation_of
        from backsplit.nnunet.arms import ArmSettings
        from backsplit.nnunet.networks import NetworkSettings

        is_adamw = is_short if self.optimizer is None else self.optimizer == "adamw"
        network = network_named(self.network)
        optimisation = optimisation_of("short" if is_adamw else network)
        if self.learning_rate is not None:
            optimisation = replace(optimisation, learning_rate=self.learning_rate)
        return ArmSettings(
            arm=arm,
            scheme=prepared.scheme,
            budget=budget.with_changes(epochs=self.epochs, iterations=self.iterations),
            loss=self.loss,
            auxiliary_weight=self.auxiliary_weight,
            sampling=self.sampling,
            sides=self.sides,
            network=network,
            network_settings=NetworkSettings(
                self.patch_size,
                self.batch_size,
                self.features,
                {"auto": None, "on": True, "off": False}[self.deep_supervision],
            ),
            optimisation=optimisation,
            seed=self.seed,
            source=self.source,
            start=start,
            chosen_name=self.name,
        )

    def kept_auxiliaries(self) -> tuple[str, ...]:
        """The auxiliaries that were named, or those of the selection."""
        from backsplit.errors import ConfigurationError
        from backsplit.experiments.selecting import read_choice

        if self.selection is None:
            return self.auxiliaries
        if self.auxiliaries:
            raise ConfigurationError("--auxiliaries and --selection both name what subset keeps; give one of them")
        return read_choice(self.selection)

    def prepared(self) -> "Prepared":
        """The data set of the workspace."""
        from backsplit.experiments.study import prepared_dataset
        from backsplit.nnunet.training import open_prepared

        dataset, _ = prepared_dataset(Workspace(self.workspace))
        return open_prepared(folders_of(self.workspace), dataset)


@dataclass(frozen=True, kw_only=True)
class Train(Options):
    """Train one arm on one fold; the same command goes on where it was stopped.

    Example: backsplit train --arm binary --fold 0

    Example: backsplit train --arm backsplit --fold 0 --budget short --device cuda

    Example: backsplit train --arm subset --auxiliaries kidney liver --network resenc-m

    Example: backsplit train --arm partial --fraction 0.25 --loss paper --missing naive

    Example: backsplit train --arm backsplit --attribution
    """

    arm: str
    """binary (targets against the rest), backsplit (all fine classes), subset (some auxiliaries), virtual (one more
    output that is never labelled), or partial (some cases keep their auxiliary labels)."""
    budget: Literal["paper", "short", "demo"] = "paper"
    """paper: 1000 epochs of 250 iterations; short: 100 of 250; demo: minutes on a CPU."""
    attribution: bool = False
    """Train a ladder up to the arm and predict the cases that the fold left out with each rung: stock binary training,
    then shared intensity statistics, the same patches, the labels, the loss. Says which share of a gain is the arm's:
    `backsplit evaluate`, then `backsplit compare --attribution`."""
    mirroring: bool = True
    """With --attribution: average predictions over mirrored images; 8 times the work of --no-mirroring."""

    def run(self) -> None:
        """Train."""
        from backsplit.nnunet.arms import BUDGETS, Arm

        arm = Arm(self.arm, self.kept_auxiliaries(), self.fraction, self.missing)
        prepared = self.prepared()
        settings = self.settings(prepared, arm, BUDGETS[self.budget], is_short=self.budget == "demo")
        if self.attribution:
            self.climb(settings)
        else:
            self.fit(prepared, settings)

    def climb(self, settings: "ArmSettings") -> None:
        """Train the rungs that lead to the arm."""
        from backsplit.experiments.attribution import train_ladder
        from backsplit.nnunet.prediction_settings import PredictionSettings

        run, prediction = self.run_settings(), PredictionSettings(mirroring=self.mirroring)
        folders = train_ladder(Workspace(self.workspace), settings, fold=self.fold, run=run, prediction=prediction)
        for folder in folders:
            say(f"{folder}")


@dataclass(frozen=True, kw_only=True)
class Finetune(Options):
    """Go on from a model of the targets alone, ours or of stock nnU-Net, with the background split.

    Backbone and target outputs are kept, and the pooled target posterior is unchanged before the first step.

    Example: backsplit finetune binary --fold 0

    Example: backsplit finetune nnUNet_results/Dataset501_Cysts/nnUNetTrainer__nnUNetPlans__3d_fullres --keep-every 50
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Arm of the workspace, or a model folder in nnU-Net's layout; the fold's own checkpoint is taken."""
    arm: str = "backsplit"
    """Any arm but binary; see `backsplit train`."""
    budget: Literal["paper", "short", "demo"] = "paper"
    """paper: 250 epochs of 250 iterations; short: 25 of 250; demo: minutes on a CPU."""
    checkpoint: str = "checkpoint_final.pth"
    """File of the fold to start from."""
    trust: bool = False
    """Run code that the checkpoint holds; for files of a maker whom you trust."""
    learning_rate: float | None = 1e-3
    """A tenth of what the paper's U-Net starts with."""

    def run(self) -> None:
        """Fine-tune."""
        from backsplit.experiments.study import model_of
        from backsplit.nnunet.arms import BUDGETS, Arm, Start
        from backsplit.nnunet.start import check_start

        prepared = self.prepared()
        model = model_of(folders_of(self.workspace), Workspace(self.workspace), self.model).resolve()
        budget = BUDGETS[self.budget]
        budget = replace(budget, epochs=max(1, budget.epochs // 4))
        arm = Arm(self.arm, self.kept_auxiliaries(), self.fraction, self.missing)
        start = Start(str(model), self.checkpoint, self.trust)
        settings = self.settings(prepared, arm, budget, is_short=self.budget == "demo", start=start)
        check_start(settings, prepared.plans, fold=self.fold)
        self.fit(prepared, settings)
