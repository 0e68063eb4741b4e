"""From a cohort to something that can be trained on: compose, select, prepare."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    from backsplit.cases import Cohort
    from backsplit.selection import Turn


@dataclass(frozen=True)
class Compose:
    """Choose targets and auxiliary classes, and write one fine label map per case.

    Example: backsplit compose cohorts/hippocampus --targets Anterior --auxiliaries Posterior

    Example: backsplit compose cohorts/kits --targets cyst --auxiliaries kidney liver --sources labels+totalsegmentator
    """

    cohort: Positional[Path]
    """Manifest, or its folder."""
    targets: tuple[str, ...]
    """Classes to segment in the end."""
    auxiliaries: tuple[str, ...] = ()
    """Classes that split the background while training; from the label map, or masks that `annotate` added."""
    sources: tuple[str, ...] | None = None
    """Where auxiliaries come from: `labels`, or the name of masks; joined by +, the first that has a class gives it.
    Several make a label map each: arms train on the first, or on another with `train --source`."""
    force: bool = False
    """Take masks as auxiliaries that are lesions by their name."""
    allow_empty: bool = False
    """Keep auxiliaries that a model's masks show in no case; an output for them is then never labelled."""
    output: Path | None = None
    """Folder for label maps and manifest; by default that of the workspace."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Compose."""
        from backsplit import cases
        from backsplit.composition import compose
        from backsplit.labels import LabelScheme

        scheme = LabelScheme(self.targets, self.auxiliaries)
        folder = self.output or Workspace(self.workspace).cohort
        compose(
            cases.read(self.cohort),
            scheme=scheme,
            folder=folder,
            sources=self.sources,
            force=self.force,
            allow_empty=self.allow_empty,
        )
        say(f"{folder / cases.MANIFEST_NAME}")


@dataclass(frozen=True)
class Select:
    """Rank auxiliary classes by what surrounds and holds the lesions, and what binary and fine models say of them.

    Works on labels alone; with --baseline it also weighs where a binary model's false alarms lie, with --model how
    much labels of a class lower the variance of a fine model's target. Every class gets its reason.

    Example: backsplit select

    Example: backsplit select --baseline binary && backsplit train --arm subset --selection SELECTION

    Example: backsplit select --model backsplit
    """

    cohort: Annotated[Path | None, tyro.conf.Positional] = None
    """Composed cohort with all candidates; by default that of the workspace."""
    baseline: str | None = None
    """Arm of the workspace whose false alarms count, or a folder that `predict` wrote; it must not have been trained
    on the cases that it predicted."""
    model: str | None = None
    """Arm of the workspace that was trained with the candidates as auxiliaries, or its model folder."""
    fold: int = 0
    """Whose weights of --model."""
    ridge: float = 1e-3
    """See `backsplit fisher`."""
    step_size: float = 0.5
    """Distance between tiles of --model, as a share of the patch."""
    device: Device = "auto"
    """Where --model runs."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study; selection/selection.csv and selection.json go there."""

    def run(self) -> None:
        """Select."""
        from backsplit import cases
        from backsplit.evaluation import format_table, write_table
        from backsplit.experiments.selecting import baseline_masks, rank_auxiliaries, write_choice

        workspace = Workspace(self.workspace)
        manifest = self.cohort or workspace.cohort
        manifest = manifest / cases.MANIFEST_NAME if manifest.is_dir() else manifest
        masks = {}
        if self.baseline is not None:
            folder = workspace.predictions_of(self.baseline)
            masks = baseline_masks(folder if folder.is_dir() else Path(self.baseline), manifest)
        cohort = cases.read(manifest)
        table = rank_auxiliaries(cohort, masks, None if self.model is None else self.turns(cohort))
        write_table(table, workspace.selection_table)
        say(format_table(table))
        chosen = write_choice(table, workspace.selection)
        say(f"recommended: {', '.join(chosen)}; backsplit train --arm subset --selection {workspace.selection}")

    def turns(self, cohort: "Cohort") -> "dict[str, Turn]":
        """What labels of each auxiliary tell the model about the target."""
        from backsplit.experiments.information import look_at_cohort, turns
        from backsplit.experiments.study import model_of
        from backsplit.nnunet.features import load_network

        workspace = Workspace(self.workspace)
        model = model_of(folders_of(self.workspace), workspace, str(self.model))
        trained = load_network(model, self.fold, checkpoint="checkpoint_final.pth", device=device_of(self.device))
        folder = workspace.information_of(trained.arm.name)
        looked = look_at_cohort(trained, cohort, folder, step_size=self.step_size)
        return turns(looked, trained, ridge_share=self.ridge)


@dataclass(frozen=True)
class Prepare:
    """Plan and preprocess once, for all arms; goes on where it was stopped.

    Example: backsplit prepare

    Example: backsplit prepare --batch-size 2 --features 16 32 64    (a small network, for a CPU)
    """

    cohort: Annotated[Path | None, tyro.conf.Positional] = None
    """Composed cohort; by default that of the workspace."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    patch_size: tuple[int, int, int] | None = None
    """Voxels along nnU-Net's axes (coarsest spacing first); by default nnU-Net's choice."""
    batch_size: int | None = None
    """Patches per step; by default nnU-Net's choice."""
    features: tuple[int, ...] | None = None
    """Channels of each stage of the U-Net, highest resolution first; by default nnU-Net's choice."""
    folds: int = 5
    """Folds of the cross-validation; cases of one patient stay together."""
    splits: Path | None = None
    """A splits_final.json to take instead; by default the official one of the data set, where it has some."""
    like: Path | None = None
    """Model folder of nnU-Net's layout: take its plan (spacing, intensities, patch, network) instead of planning."""
    normalisation: Literal["shared", "stock"] = "shared"
    """Where plan and intensity statistics come from: all fine classes, for every arm; or the targets alone, as nnU-Net
    would do it for the binary task. To stock nnU-Net an arm with all fine classes has the shared ones anyway, so stock
    is about the binary arm: only binary and virtual can be trained on it."""
    dataset_id: int = 1
    """Number of the nnU-Net data set, for those who share nnU-Net folders between studies."""
    resampling: Literal["fast", "stock"] = "fast"
    """fast: labels equal to nnU-Net's in every voxel, images to 1e-5 of their range, in a fraction of the time; stock:
    nnU-Net's own code."""
    processes: int = min(8, os.cpu_count() or 1)
    """Cases that are preprocessed at the same time."""

    def run(self) -> None:
        """Prepare."""
        from backsplit import cases
        from backsplit.experiments.study import compose_targets, remember_preparation
        from backsplit.nnunet.plans import PlanSettings
        from backsplit.nnunet.preparation import Folds, prepare

        workspace = Workspace(self.workspace)
        manifest = self.cohort or workspace.cohort
        if self.normalisation == "stock":
            manifest = compose_targets(workspace, manifest)
        cohort = cases.read(manifest)
        done = prepare(
            cohort,
            folders_of(self.workspace),
            PlanSettings(self.patch_size, self.batch_size, self.features, self.like, self.resampling),
            folds=Folds(self.folds, self.splits or cohort.splits),
            dataset_id=self.dataset_id,
            num_processes=self.processes,
        )
        remember_preparation(workspace, done.dataset, manifest)
        size = f"{done.num_files} files, {done.num_bytes / 1e6:.1f} MB, one copy for all arms"
        say(f"{done.dataset}: {done.num_cases} cases, {size}")
