"""From a data set to something that can be trained on: convert, compose, prepare."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, folders_of, say
from backsplit.experiments.paths import Workspace


@dataclass(frozen=True)
class ConvertNnunet:
    """A raw data set of nnU-Net v2, or of the Medical Segmentation Decathlon; images stay where they are.

    Example: backsplit convert nnunet Dataset004_Hippocampus cohorts/hippocampus
    """

    source: Positional[Path]
    """Folder with dataset.json, imagesTr and labelsTr."""
    destination: Positional[Path]
    """Folder that the manifest cohort.json goes to."""
    name: str | None = None
    """Name of the cohort; by default that of the source folder."""
    test: bool = False
    """Read imagesTs, which has no labels, instead of imagesTr."""

    def run(self) -> None:
        """Check every case, then write the manifest."""
        from backsplit import cases
        from backsplit.datasets import nnunet

        cohort = nnunet.convert(self.source, name=self.name, split="test" if self.test else "training")
        say(f"{len(cohort.cases)} cases with {', '.join(name for _, name in cohort.label_names)}")
        say(f"{cases.write(cohort, self.destination)}")


@dataclass(frozen=True)
class ConvertPhantom:
    """A made-up abdominal CT: kidney cysts as the target, and fluid elsewhere that looks like them.

    Example: backsplit convert phantom cohorts/phantom --num-cases 24 --size 64
    """

    destination: Positional[Path]
    """Folder for images, labels and the manifest cohort.json."""
    num_cases: int = 24
    """How many patients to draw."""
    size: int = 64
    """Voxels along each axis."""
    seed: int = 0
    """The same seed draws the same patients; different seeds share none."""

    def run(self) -> None:
        """Draw the cases, then write the manifest."""
        from backsplit.datasets.phantom import PhantomSettings, write_cohort

        settings = PhantomSettings(shape=(self.size, self.size, self.size))
        cohort = write_cohort(self.destination, num_cases=self.num_cases, settings=settings, seed=self.seed)
        say(f"{len(cohort.cases)} cases with {', '.join(name for _, name in cohort.label_names)}")
        say(f"{self.destination / 'cohort.json'}")


@dataclass(frozen=True)
class Convert:
    """Describe a data set as a cohort: one manifest that all other commands read.

    Example: backsplit convert nnunet Dataset004_Hippocampus cohorts/hippocampus
    """

    data_set: (
        Annotated[ConvertNnunet, tyro.conf.subcommand("nnunet")]
        | Annotated[ConvertPhantom, tyro.conf.subcommand("phantom")]
    )

    def run(self) -> None:
        """Convert."""
        self.data_set.run()


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
        compose(cases.read(self.cohort), scheme=scheme, folder=folder, sources=self.sources, force=self.force)
        say(f"{folder / cases.MANIFEST_NAME}")


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
    """An official splits_final.json to take instead."""
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
        done = prepare(
            cases.read(manifest),
            folders_of(self.workspace),
            PlanSettings(self.patch_size, self.batch_size, self.features, self.like, self.resampling),
            folds=Folds(self.folds, self.splits),
            dataset_id=self.dataset_id,
            num_processes=self.processes,
        )
        remember_preparation(workspace, done.dataset, manifest)
        size = f"{done.num_files} files, {done.num_bytes / 1e6:.1f} MB, one copy for all arms"
        say(f"{done.dataset}: {done.num_cases} cases, {size}")
