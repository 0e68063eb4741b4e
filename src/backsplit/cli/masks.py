"""Auxiliary masks: one command per source, all `backsplit annotate COHORT --source NAME`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from backsplit.cli.arguments import Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    from backsplit.cases import Cohort
    from backsplit.sources import MaskSource

SourceName = Literal["labels", "folder", "totalsegmentator", "vibesegmentator", "nnunet", "nninteractive", "tissue"]
FLAG = "--source"


@dataclass(frozen=True, kw_only=True)
class Annotate(ABC):
    """Add auxiliary masks to a cohort, for `compose --auxiliaries`; cases that are done are not done again.

    Sources: labels (classes of the label maps), folder (masks that you have), totalsegmentator, vibesegmentator, nnunet
    (any trained model, folder or zip), nninteractive (simulated clicks on reference masks), tissue (by intensity, no
    model). `backsplit annotate --source NAME --help` shows the options of one.

    Masks go beside the manifest, to masks/<name>, each with a record of how it was made; quality.csv there flags
    implausible ones, lesions.csv says how the classes of the label maps lie in them.

    Example: backsplit annotate cohorts/kits --source totalsegmentator --structures liver spleen colon

    Example: backsplit annotate cohorts/kits --source totalsegmentator --check labels    (Dice against label maps)
    """

    cohort: Positional[Path]
    """Manifest, or its folder."""
    source: SourceName
    """Where masks come from."""
    name: str | None = None
    """What the masks are called; by default as the source."""
    structures: tuple[str, ...] | None = None
    """Which to take, with spaces or commas between them; the first wins where masks overlap. By default all that are
    no lesions."""
    rename: tuple[str, ...] = ()
    """Other names for structures, each old=new: those of the label maps or of other masks for the same organ."""
    check: str | None = None
    """Also write Dice per structure against `labels`, the cohort's own label maps, or against other masks by name."""
    resample: Literal["nearest", "linear"] | None = None
    """Bring masks on another grid than the image to the image's; by default they are refused."""
    jobs: int = 1
    """Cases at a time."""
    force: bool = False
    """Take structures too that are lesions by their name."""

    def run(self) -> None:
        """Annotate, then sum up."""
        from backsplit import cases
        from backsplit.errors import ConfigurationError
        from backsplit.sources import annotate
        from backsplit.sources.renamed import rename

        cohort = cases.read(self.cohort)
        folder = self.cohort if self.cohort.is_dir() else self.cohort.parent
        name = self.name or self.source
        if name == cases.OWN_LABELS and self.source != cases.OWN_LABELS:
            raise ConfigurationError(
                f"--name {cases.OWN_LABELS}: that is what the cohort's own label maps are called; choose another"
            )
        source = rename(self.opened(cohort), self.rename)
        done = annotate(
            cohort, source, name=name, folder=folder, num_processes=max(1, self.jobs), resample=self.resample
        )
        self.sum_up(done, name, folder / "masks" / name)

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """The structures that were named, with spaces or commas between them."""
        return self.structures and tuple(name for word in self.structures for name in word.split(",") if name)

    @abstractmethod
    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source, ready to run."""

    def sum_up(self, cohort: "Cohort", name: str, folder: Path) -> None:
        """Write the tables of quality, and print them by structure."""
        from backsplit.evaluation import format_table, write_table
        from backsplit.report import draw_masks
        from backsplit.sources.annotation import records_of
        from backsplit.sources.check import check, summarise_check
        from backsplit.sources.quality_tables import lesion_table, quality_table, summarise_quality
        from backsplit.sources.reference import reference_of

        records = records_of(cohort, name)
        quality, lesions = quality_table(records), lesion_table(records)
        write_table(quality, folder / "quality.csv")
        write_table(lesions, folder / "lesions.csv")
        say(format_table(summarise_quality(quality, lesions)))
        if self.check is not None:
            table = check(cohort, name, reference_of(cohort, self.check))
            write_table(table, folder / f"check-{self.check}.csv")
            draw_masks(table.assign(masks=name), self.check, folder / f"check-{self.check}")
            say(format_table(summarise_check(table)))
        say(f"{folder}")


@dataclass(frozen=True, kw_only=True)
class AnnotateLabels(Annotate):
    """Classes that the label maps have already, as masks: to compare others with, and to look at their quality.

    Example: backsplit annotate cohorts/kits --source labels --structures kidney
    """

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.own_labels import open_labels

        return open_labels(cohort, self.wanted, force=self.force)


@dataclass(frozen=True, kw_only=True)
class AnnotateFolder(Annotate):
    """Masks that you have: MASKS/<case>/<structure>.nii.gz (as TotalSegmentator writes), or MASKS/<case>.nii.gz.

    Label maps need a table of names: dataset.json, --table, or the header that TotalSegmentator writes.

    Example: backsplit annotate cohorts/kits --source folder --masks totalseg-output --name totalsegmentator
    """

    masks: Path
    """Folder of the masks; cases are named as in the cohort."""
    table: Path | None = None
    """JSON of the label maps' names: {"liver": 5}, {"5": "liver"}, or a dataset.json."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.folder import open_folder

        names = [case.name for case in cohort.cases]
        return open_folder(self.masks, case_names=names, structures=self.wanted, table=self.table, force=self.force)


@dataclass(frozen=True, kw_only=True)
class AnnotateTotalSegmentator(Annotate):
    """TotalSegmentator: 117 structures on CT, 50 on MR. Runs offline, without its statistics; weights are Apache-2.0.

    Example: backsplit annotate cohorts/kits --source totalsegmentator --structures liver spleen lung_left lung_right

    Example: backsplit annotate cohorts/panther --source totalsegmentator --task total_mr --fast --device cuda
    """

    task: Literal["auto", "total", "total_mr"] = "auto"
    """auto: total where the channel is called CT, else total_mr."""
    fast: bool = False
    """The model of 3 mm instead of those of 1.5 mm."""
    weights: Path | None = None
    """Folder of its Dataset... folders; by default where the tool itself looks."""
    channel: int = 0
    """Which image of a case it gets."""
    device: Device = "auto"
    """Where it runs."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.totalsegmentator import open_totalsegmentator

        by_channel = "total" if _modality(cohort, self.channel) == "ct" else "total_mr"
        return open_totalsegmentator(
            task=by_channel if self.task == "auto" else self.task,
            fast=self.fast,
            structures=self.wanted,
            weights=self.weights,
            device=_kind(self.device),
            channel=self.channel,
            force=self.force,
        )


@dataclass(frozen=True, kw_only=True)
class AnnotateVibeSegmentator(Annotate):
    """VIBESegmentator: 72 structures of the whole body, on MR and CT, through TPTBox.

    Example: backsplit annotate cohorts/panther --source vibesegmentator --structures liver pancreas stomach
    """

    weights: Path | None = None
    """Folder that holds nnUNet_results/Dataset100...; by default where TPTBox looks."""
    channel: int = 0
    """Which image of a case it gets."""
    device: Device = "auto"
    """Where it runs."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.vibesegmentator import open_vibesegmentator

        _channel(cohort, self.channel)
        return open_vibesegmentator(
            structures=self.wanted,
            weights=self.weights,
            device=_kind(self.device),
            channel=self.channel,
            force=self.force,
        )


@dataclass(frozen=True, kw_only=True)
class AnnotateNnunet(Annotate):
    """Any trained nnU-Net v2 model, also one of `backsplit train`; read without running what a stranger put into it.

    Example: backsplit annotate cohorts/kits --source nnunet --model nnUNetTrainer__nnUNetPlans__3d_fullres
    """

    model: str
    """Model folder with plans.json and fold_0, the zip of nnUNetv2_export_model_to_zip, or an arm of --workspace."""
    workspace: Path | None = None
    """Workspace whose arm --model is."""
    folds: tuple[int, ...] | None = None
    """Folds to average; by default all that are there."""
    checkpoint: str = "checkpoint_final.pth"
    """File of each fold."""
    mirroring: bool = True
    """Average over mirrored images; 8 times the work of --no-mirroring."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch; less is slower and smoother."""
    channel: int | None = None
    """Which image of a case it gets; by default all."""
    trust: bool = False
    """Open a model that could run code of whoever made it."""
    device: Device = "auto"
    """Where it runs."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.experiments.study import model_of
        from backsplit.sources.nnunet_model import open_nnunet

        _channel(cohort, self.channel or 0)
        model = Path(self.model)
        if self.workspace is not None:
            model = model_of(folders_of(self.workspace), Workspace(self.workspace), self.model)
        return open_nnunet(
            model=model,
            structures=self.wanted,
            folds=self.folds,
            checkpoint=self.checkpoint,
            step_size=self.step_size,
            mirroring=self.mirroring,
            device=_kind(self.device),
            channel=self.channel,
            force=self.force,
            trust=self.trust,
        )


@dataclass(frozen=True, kw_only=True)
class AnnotateNnInteractive(Annotate):
    """nnInteractive, with the clicks of a user simulated on reference masks. Its official weights are non-commercial.

    Example: backsplit annotate cohorts/kits --source nninteractive --reference labels --structures kidney --clicks 7

    Example: backsplit annotate cohorts/kits --source nninteractive --reference totalsegmentator --keep 1 3 5
    """

    reference: str = "labels"
    """Masks that clicks are drawn from: the cohort's label maps, or other masks by name."""
    model: Path | None = None
    """Folder of the model; by default the one that nnInteractive itself has downloaded."""
    clicks: int = 10
    """At most, for each connected part of each structure."""
    keep: tuple[int, ...] = ()
    """Numbers of clicks after which the masks are kept too, as <name>-<number>-clicks."""
    strategy: Literal["random", "centre-first"] = "random"
    """random: positive clicks, anywhere in the part; centre-first: the deepest voxel of the largest error."""
    seed: int = 0
    """Of the clicks."""
    min_part_voxels: int = 10
    """Smaller connected parts get no click."""
    autozoom: bool = True
    """Look again at a coarser scale where an object reaches beyond the patch."""
    channel: int | None = None
    """Which image of a case it gets; by default all."""
    trust: bool = False
    """Open a model that could run code of whoever made it."""
    device: Device = "auto"
    """Where it runs."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.clicks import Clicking
        from backsplit.sources.nninteractive import open_nninteractive
        from backsplit.sources.nninteractive_session import Running
        from backsplit.sources.reference import reference_of

        _channel(cohort, self.channel or 0)
        return open_nninteractive(
            model=self.model,
            reference=reference_of(cohort, self.reference),
            structures=self.wanted,
            clicking=Clicking(self.clicks, self.keep, self.strategy, self.seed, self.min_part_voxels),
            running=Running(device_of(self.device), self.channel, self.autozoom, self.trust),
            force=self.force,
        )

    def sum_up(self, cohort: "Cohort", name: str, folder: Path) -> None:
        """Sum up the masks of each number of clicks."""
        for number in self.keep:
            step = f"{name}-{number}-clicks"
            super().sum_up(cohort, step, folder.with_name(step))
        super().sum_up(cohort, name, folder)


@dataclass(frozen=True, kw_only=True)
class AnnotateTissue(Annotate):
    """Tissues without any model: on CT gas, fat, soft tissue and bone by HU; on MR a Gaussian mixture of intensities.

    Example: backsplit annotate cohorts/kits --source tissue
    """

    modality: Literal["auto", "ct", "mr"] = "auto"
    """auto: ct where the channel is called CT."""
    channel: int = 0
    """Which image of a case is looked at."""
    num_tissues: int = 3
    """Of the mixture on MR."""
    seed: int = 0
    """Of the mixture on MR."""

    def opened(self, cohort: "Cohort") -> "MaskSource":
        """The source."""
        from backsplit.sources.tissue import open_tissue

        found = _modality(cohort, self.channel)
        return open_tissue(
            modality=found if self.modality == "auto" else self.modality,
            structures=self.wanted,
            channel=self.channel,
            num_tissues=self.num_tissues,
            seed=self.seed,
            force=self.force,
        )


BY_SOURCE: dict[str, type[Annotate]] = {
    "labels": AnnotateLabels,
    "folder": AnnotateFolder,
    "totalsegmentator": AnnotateTotalSegmentator,
    "vibesegmentator": AnnotateVibeSegmentator,
    "nnunet": AnnotateNnunet,
    "nninteractive": AnnotateNnInteractive,
    "tissue": AnnotateTissue,
}


def command_of(arguments: Sequence[str]) -> type[Annotate]:
    """The command with the options of the source that the arguments name; the general one, for help, if none."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = [after for word, after in pairwise(words) if word == FLAG]
    return BY_SOURCE.get(named[0], Annotate) if named else Annotate


def _channel(cohort: "Cohort", channel: int) -> str:
    from backsplit.errors import ConfigurationError

    if not 0 <= channel < len(cohort.channels):
        raise ConfigurationError(
            f"--channel {channel}: {cohort.name} has channels 0 to {len(cohort.channels) - 1} "
            f"({', '.join(cohort.channels)})"
        )
    return cohort.channels[channel]


def _modality(cohort: "Cohort", channel: int) -> Literal["ct", "mr"]:
    return "ct" if _channel(cohort, channel).lower() == "ct" else "mr"


def _kind(device: Device) -> Literal["cpu", "cuda", "mps"]:
    kind = device_of(device).type
    return "cuda" if kind == "cuda" else "mps" if kind == "mps" else "cpu"
