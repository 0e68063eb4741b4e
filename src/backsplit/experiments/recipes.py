"""Recipes: a whole study as data. What may stand in one, with its types and defaults.

`recipe_files` reads them from YAML, `recipe_checks` says what does not fit together, `grid` makes jobs of them.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backsplit.learning.losses import Preset
from backsplit.learning.networks import NetworkName
from backsplit.nnunet.arms import BudgetName

ArmKind = Literal["binary", "backsplit", "subset", "virtual", "partial"]
Converter = Literal["abdomenatlas", "autopet3", "kits23", "msd", "mswal", "nnunet", "nsclc-radiomics", "panther"]
SourceName = Literal["labels", "folder", "totalsegmentator", "vibesegmentator", "nnunet", "nninteractive", "tissue"]
Option = bool | int | float | str | list[int | float | str]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")


def _usable(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("cannot be a folder; use letters, digits and + . _ - after a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_usable)]
Count = Annotated[int, Field(ge=1, strict=True)]
Index = Annotated[int, Field(ge=0, strict=True)]


class Part(BaseModel):
    """A part of a recipe: unknown keys are faults, nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Phantom(Part):
    """Made-up cases, as `backsplit convert phantom` draws them."""

    num_cases: Count = 30
    size: Annotated[int, Field(ge=32, strict=True)] = 64
    """Voxels along each axis."""
    seed: Index = 0


class Trained(Part):
    """A model that this recipe trains on a data set that stands above, on all folds; its first seed."""

    data: str
    arm: str
    network: str = "unet"


class Masks(Part):
    """Auxiliary masks, as `backsplit annotate` adds them."""

    source: SourceName
    trained: Trained | None = None
    """For `nnunet`: the model, where this recipe trains it."""
    structures: tuple[str, ...] = ()
    check: str | None = None
    """Masks, or `labels`, to write Dice per structure against."""
    options: dict[str, Option] = {}
    """Any further option of the source, such as `clicks: 7` or `fast: true`."""

    @property
    def given(self) -> tuple[str, ...]:
        """The structures by the names that they are given."""
        pairs = self.options.get("rename", [])
        renamed = dict(str(pair).partition("=")[::2] for pair in (pairs if isinstance(pairs, list) else [pairs]))
        return tuple(renamed.get(name, name) for name in self.structures)

    def sets(self, name: str) -> tuple[str, ...]:
        """Names of all mask sets that come of it, the last one its own; clicks may leave some on the way."""
        kept = self.options.get("keep", [])
        return (*(f"{name}-{number}-clicks" for number in (kept if isinstance(kept, list) else [kept])), name)


class Preparation(Part):
    """How `backsplit prepare` plans and splits."""

    patch_size: tuple[Count, Count, Count] | None = None
    batch_size: Count | None = None
    features: tuple[Count, ...] | None = None
    folds: Annotated[int, Field(ge=2, strict=True)] = 5
    splits: Path | None = None
    normalisation: Literal["shared", "stock"] = "shared"


class Data(Part):
    """A data set: where it comes from, which classes are targets, where auxiliaries come from."""

    cohort: Path | None = None
    """Manifest that `backsplit convert` wrote, or its folder."""
    convert: Converter | None = None
    """Converter to run on `folder`."""
    folder: Path | None = None
    options: dict[str, Option] = {}
    """Of the converter, such as `organ: whole`."""
    phantom: Phantom | None = None
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    auxiliaries: tuple[str, ...] = ()
    masks: dict[Name, Masks] = {}
    """Masks to add, by name, in this order."""
    sources: tuple[str, ...] = ("labels",)
    """As for `backsplit compose --sources`: a label map for each."""
    prepare: Preparation = Preparation()
    paper_name: str | None = None
    """What the paper's tables call it."""


class Network(Part):
    """A network and what is changed in its plan. Arms are compared network by network."""

    network: NetworkName
    patch_size: tuple[Count, ...] | None = None
    batch_size: Count | None = None
    features: tuple[Count, ...] | None = None
    deep_supervision: bool | None = None
    data: tuple[str, ...] = ()
    """Data sets that it is trained on; none named means all."""


class ArmChoice(Part):
    """What `backsplit train` is told about an arm; with `start`, `backsplit finetune`."""

    arm: ArmKind
    preset: Literal["paper", "ours"] = "ours"
    """paper: the paper's loss, patches centred on any class; ours: loss `target-first`, patches centred on targets."""
    auxiliaries: tuple[str, ...] = ()
    fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    missing: Literal["marginal", "naive"] = "marginal"
    loss: Preset | None = None
    auxiliary_weight: Annotated[float, Field(ge=0)] | None = None
    sampling: Literal["target", "any"] | None = None
    sides: Literal["merge", "keep"] = "merge"
    source: str | None = None
    start: str | None = None
    """Arm whose trained weights it goes on from."""
    optimizer: Literal["paper", "adamw"] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    epochs: Count | None = None
    """Instead of the budget's; a fine-tuning has a quarter of those."""
    keep_every: Count | None = None
    """Keep a checkpoint every so many epochs, and score each, for the figure `epochs`."""
    networks: tuple[str, ...] = ()
    """Networks that it is trained with; none named means all."""
    data: tuple[str, ...] = ()
    """Data sets that it is trained on; none named means all."""

    @property
    def loss_and_sampling(self) -> tuple[Preset, Literal["target", "any"]]:
        """What was chosen, else what the preset says."""
        is_paper = self.preset == "paper"
        loss: Preset = self.loss or ("paper" if is_paper else "target-first")
        return loss, self.sampling or ("any" if is_paper else "target")


class BudgetChoice(Part):
    """How long a training lasts."""

    name: BudgetName = "paper"
    epochs: Count | None = None
    iterations: Count | None = None
    seconds_per_epoch: Annotated[float, Field(gt=0)] | None = None
    """For the forecast alone, where nothing is measured yet."""


class Prediction(Part):
    """As for `backsplit predict`."""

    mirroring: bool = True
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.5
    rule: Literal["argmax", "pooled"] = "argmax"


class Metrics(Part):
    """As for `backsplit evaluate`."""

    tolerance_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    min_lesion_voxels: Count = 1
    border: bool = False
    empty_policy: Literal["undefined", "penalty", "nnunet", "challenge-brats"] = "undefined"


Figure = Literal["epochs", "fractions", "auxiliaries", "slices"]


class ReportChoice(Part):
    """What the study ends in, beside its table."""

    figures: tuple[Figure, ...] = ()
    """Dice of the target against epochs of kept checkpoints, the share of cases with auxiliary labels, or the number of
    auxiliaries; or slices with the outlines of arms."""
    note: str | None = None
    """A line above the table."""

    page: bool = True
    """A page per group of arms, as `backsplit report` writes it."""
    paper_table: int | None = None
    """Table of the paper whose printed numbers stand beside ours."""


class Recipe(Part):
    """A study: every arm on every data set, with every network, fold and seed; or masks against label maps."""

    name: Name
    data: Annotated[dict[Name, Data], Field(min_length=1)]
    networks: dict[Name, Network] = {}
    arms: dict[Name, ArmChoice] = {}
    """None, and no networks: masks are made and checked, and nothing is trained."""
    folds: Annotated[tuple[Index, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    seeds: Annotated[tuple[Index, ...], Field(min_length=1)] = (0,)
    budget: BudgetChoice = BudgetChoice()
    predict: Prediction = Prediction()
    metrics: Metrics
    baseline: str = "binary"
    report: ReportChoice = ReportChoice()

    def arms_of(self, data: str, network: str) -> dict[str, ArmChoice]:
        """The arms that are trained on a data set with a network."""
        if data not in (self.networks[network].data or [data]):
            return {}
        return {
            name: arm
            for name, arm in self.arms.items()
            if data in (arm.data or [data]) and network in (arm.networks or [network])
        }

    def content(self) -> dict[str, Any]:
        """Of JSON types; reading it again gives an equal recipe."""
        return self.model_dump(mode="json", exclude_defaults=True)
