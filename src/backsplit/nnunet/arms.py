"""Arms as data: what a training does differently is a block in the plans, and nothing else may differ."""

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal

from backsplit.errors import ConfigurationError, ParityError
from backsplit.labels import BACKGROUND, Coarsening, LabelScheme, into_background, merge_sides, without_side
from backsplit.learning.losses import Preset
from backsplit.learning.networks import NetworkName
from backsplit.learning.optimisation import Optimisation, optimisation_of
from backsplit.nnunet.dataset import IGNORE
from backsplit.nnunet.networks import CONFIGURATION_OF, NetworkSettings, configuration_of

BLOCK = "backsplit"  # key of our block in the plans
SHARED_PLANS = "nnUNetPlans"
VERSION = 3  # of the block
LONGEST_NAME = 60
VIRTUAL = "virtual"  # name of the class that is never labelled

ARM_KINDS = ("binary", "backsplit", "subset", "virtual", "partial")
BudgetName = Literal["paper", "short", "demo"]
Plans = dict[str, Any]

DECLARED = (
    "plans_name",
    *(f"{BLOCK}.{key}" for key in ("name", "chosen_name", "arm", "coarsening", "loss", "auxiliary_weight")),
    *(f"{BLOCK}.{key}" for key in ("source", "annotated")),
    *(f"configurations.{configuration}.data_identifier" for configuration in CONFIGURATION_OF.values()),
)
"""What an arm may differ in."""
DECLARED_BY_START = tuple(f"{BLOCK}.{key}" for key in ("start", "budget", "optimisation"))
"""What an arm that starts from trained weights may differ in, too."""


def checkpoint_name(epoch: int) -> str:
    """File of a checkpoint that is kept on the way."""
    return f"checkpoint_epoch_{epoch:04}.pth"


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a training lasts. An epoch is a number of iterations, as in nnU-Net."""

    epochs: int
    iterations: int
    """Optimiser steps per epoch."""
    validation_iterations: int
    """Batches of the fold's validation cases per epoch, for the pseudo-Dice."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.iterations, self.validation_iterations) < 1:
            raise ConfigurationError(f"epochs and iterations must be 1 or more, got {self}")

    def with_changes(self, *, epochs: int | None, iterations: int | None) -> "Budget":
        """The same budget with what was named replaced; a fifth as many validation batches, as in nnU-Net."""
        changed = replace(self, epochs=self.epochs if epochs is None else epochs)
        if iterations is None:
            return changed
        return replace(changed, iterations=iterations, validation_iterations=max(1, iterations // 5))


BUDGETS: dict[BudgetName, Budget] = {
    "paper": Budget(epochs=1000, iterations=250, validation_iterations=50),
    "short": Budget(epochs=100, iterations=250, validation_iterations=50),
    "demo": Budget(epochs=10, iterations=50, validation_iterations=5),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """Which labels a training sees: a coarsening of the fine classes, and in how many cases the auxiliaries are known.

    Raises:
        ConfigurationError: an arm that does not exist, auxiliaries that do not fit it, or a fraction outside 0 to 1.
    """

    kind: str
    """One of `ARM_KINDS`: binary (targets against the rest), backsplit (all auxiliaries), subset (some), virtual (one
    output more that is never labelled), partial (some cases keep their auxiliary labels)."""
    auxiliaries: tuple[str, ...] = ()
    """Those that a `subset` keeps apart; given for no other arm."""
    fraction: float = 1.0
    """Share of the training cases that keep their auxiliary labels; below 1 for `partial` alone."""
    missing: Literal["marginal", "naive"] = "marginal"
    """What an auxiliary that a case is not annotated for is: unknown, pooled with background by the exact marginal
    likelihood; or background, the paper's way."""

    def __post_init__(self) -> None:
        if self.kind not in ARM_KINDS:
            raise ConfigurationError(f"unknown arm {self.kind!r}; choose one of {', '.join(ARM_KINDS)}")
        if (self.kind == "subset") != bool(self.auxiliaries):
            raise ConfigurationError(
                f"arm {self.kind!r} got auxiliaries {self.auxiliaries}; `subset` needs some (--auxiliaries), no other "
                "arm takes any"
            )
        if not 0 <= self.fraction <= 1 or (self.fraction < 1 and self.kind != "partial"):
            raise ConfigurationError(
                f"arm {self.kind!r} got fraction {self.fraction}; `partial` takes 0 to 1, all others 1"
            )

    @property
    def name(self) -> str:
        """A name that tells arms apart and may be a folder."""
        parts = [self.kind]
        if self.kind == "subset":
            parts.append(_short("+".join(self.auxiliaries)))
        if self.kind == "partial":
            parts.append(f"{100 * self.fraction:g}".replace(".", "p"))
        return "-".join([*parts, "naive"] if self.missing == "naive" else parts)


def _short(text: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9+-]+", "_", text)
    return clean if len(clean) <= LONGEST_NAME else f"{clean[:40]}-{sha256(clean.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Start:
    """Trained weights that a fine-tuning starts from."""

    model: str
    """Folder of the model, for the record."""
    checkpoint: str
    """File of each fold; a fold starts from the one of the same fold, which has not seen its validation cases."""
    is_trusted: bool = False
    """Whether code that the checkpoint holds may run."""


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """All that a training is told beside the shared plans; stored in the plans block, so it travels with the model.

    Raises:
        ConfigurationError: the arm does not fit the scheme.
    """

    arm: Arm
    scheme: LabelScheme
    """Fine classes of the preprocessed labels."""
    budget: Budget
    loss: Preset = "target-first"
    auxiliary_weight: float | None = None
    """Lambda and mu of the loss, instead of the preset's."""
    sampling: Literal["target", "any"] = "target"
    """Which class a forced-foreground patch is centred on: a target, or any class of the arm (stock nnU-Net)."""
    sides: Literal["merge", "keep"] = "merge"
    """Left and right auxiliaries are one class; or two, and nothing is mirrored from left to right."""
    network: NetworkName = "unet"
    network_settings: NetworkSettings = field(default_factory=NetworkSettings)
    optimisation: Optimisation = field(default_factory=lambda: optimisation_of("unet"))
    seed: int = 0
    source: str | None = None
    """Whose auxiliary masks the labels hold, if the cohort was composed from several; None means the first."""
    start: Start | None = None
    """Weights to start from; None means random ones."""
    chosen_name: str | None = None
    """Name of the training; by default made from what it does."""

    def __post_init__(self) -> None:
        if self.arm.kind in {"backsplit", "partial"} and not self.scheme.auxiliaries:
            raise ConfigurationError(
                f"arm {self.arm.kind!r} needs auxiliary classes and the cohort has none; "
                "name some with `backsplit compose --auxiliaries`"
            )
        unknown = [name for name in self.arm.auxiliaries if name not in self.scheme.auxiliaries]
        if unknown:
            raise ConfigurationError(
                f"arm 'subset' names {', '.join(unknown)}, which the cohort does not have as an auxiliary; "
                f"it has {', '.join(self.scheme.auxiliaries) or 'none'}"
            )
        if self.source is not None and self.arm.kind in {"binary", "virtual"}:
            raise ConfigurationError(f"arm {self.arm.kind!r} has no auxiliaries, so no --source; leave it out")
        if self.start is not None and self.num_classes == self.scheme.num_targets + 1:
            raise ConfigurationError(
                f"fine-tuning needs an arm with more classes than targets and background; {self.arm.kind!r} has none"
            )
        if self.auxiliary_weight is not None and not 0 <= self.auxiliary_weight < float("inf"):
            raise ConfigurationError(f"the auxiliary weight must be 0 or more, got {self.auxiliary_weight}")
        if self.chosen_name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", self.chosen_name):
            raise ConfigurationError(
                f"name {self.chosen_name!r} cannot be a folder; use letters, digits and + . _ - after a letter or digit"
            )

    @property
    def name(self) -> str:
        """What results of this training are filed under."""
        if self.chosen_name:
            return self.chosen_name
        parts = ["finetuned"] * (self.start is not None) + [self.arm.name]
        parts += [self.loss] * (self.loss != "target-first" and self.arm.kind != "binary")
        parts += [] if self.source is None else [_short(self.source)]
        parts += [] if self.auxiliary_weight is None else [f"weight{self.auxiliary_weight:g}"]
        return "-".join([*parts, *[self.network] * (self.network != "unet")])

    @property
    def coarsening(self) -> Coarsening:
        """Fine classes of the preprocessed data to the labelled classes of this arm."""
        kept = {
            "binary": (),
            "virtual": (),
            "subset": self.arm.auxiliaries,
            "backsplit": self.scheme.auxiliaries,
            "partial": self.scheme.auxiliaries,
        }[self.arm.kind]
        merged = [self.scheme.index(name) for name in self.scheme.auxiliaries if name not in kept]
        coarsening = into_background(merged, num_fine=self.scheme.num_classes)
        if self.sides == "keep":
            return coarsening
        remaining = LabelScheme(self.scheme.targets, tuple(name for name in self.scheme.auxiliaries if name in kept))
        return merge_sides(remaining) @ coarsening

    @property
    def num_classes(self) -> int:
        """Outputs of the network: the labelled classes, and the one of `virtual` that never is."""
        return self.coarsening.num_coarse + (self.arm.kind == "virtual")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs; the block that holds background is called background."""
        names = [
            BACKGROUND
            if 0 in block
            else without_side(self.scheme.names[block[0]])
            if len(block) > 1
            else self.scheme.names[block[0]]
            for block in self.coarsening.blocks
        ]
        return (*names, *[VIRTUAL] * (self.arm.kind == "virtual"))

    def told_apart(self, annotated: Collection[str] | None) -> tuple[bool, ...]:
        """For each output, whether a case that is annotated for these auxiliaries tells it from background.

        Args:
            annotated: names of auxiliaries; None means all. Targets are always annotated.
        """
        known = set(range(self.scheme.num_targets + 1))
        known |= set(range(self.scheme.num_classes)) if annotated is None else set(self.scheme.indices(annotated))
        blocks = (block if 0 not in block else (0,) for block in self.coarsening.blocks)
        told = tuple(set(block) <= known for block in blocks)
        return (*told, *[False] * (self.arm.kind == "virtual"))

    def to_block(self) -> dict[str, Any]:
        """The plans block; JSON types only."""
        block = asdict(self)
        return {"version": VERSION, **block, "name": self.name, "coarsening": list(self.coarsening.parent)}

    @classmethod
    def from_block(cls, block: dict[str, Any]) -> "ArmSettings":
        """Read a plans block.

        Raises:
            ConfigurationError: the block was written by another version.
        """
        if block.get("version") != VERSION:
            raise ConfigurationError(
                f"the model was trained by another version of BackSplit (block {block.get('version')}, this one reads "
                f"{VERSION}); train it again"
            )
        arm, scheme, start = block["arm"], block["scheme"], block["start"]
        rest = {
            key: block[key]
            for key in ("loss", "auxiliary_weight", "sampling", "sides", "network", "seed", "source", "chosen_name")
        }
        return cls(
            arm=Arm(arm["kind"], tuple(arm["auxiliaries"]), arm["fraction"], arm["missing"]),
            scheme=LabelScheme(tuple(scheme["targets"]), tuple(scheme["auxiliaries"])),
            budget=Budget(**block["budget"]),
            network_settings=NetworkSettings.from_json(block["network_settings"]),
            optimisation=Optimisation(**block["optimisation"]),
            start=start and Start(**start),
            **rest,
        )


def plans_of_arm(shared: Plans, settings: ArmSettings) -> Plans:
    """The shared plans with the arm's block and the configuration of its network alone; arguments stay as they are.

    Raises:
        ConfigurationError: the network cannot have what the settings ask for, sides cannot be told in the images, or
            the data has no labels of the source.
    """
    configuration, chosen = configuration_of(settings.network, shared, settings.network_settings)
    if settings.sides == "keep" and shared[BLOCK]["left_right_axis"] is None:
        raise ConfigurationError(
            "--sides keep needs images that all lie the same way, and left-right is another array axis in some of "
            "these; reorient them, or leave sides merged"
        )
    block = {key: value for key, value in shared[BLOCK].items() if key != "sources"}
    if settings.source is not None:
        block["annotated"] = _annotated_by(shared, settings.source)
        chosen = {**chosen, "data_identifier": data_identifier(chosen["data_identifier"], settings.source)}
    return {
        **shared,
        "plans_name": settings.name,
        "configurations": {configuration: chosen},
        BLOCK: {**block, **settings.to_block()},
    }


def data_identifier(first: str, source: str) -> str:
    """Folder of the preprocessed cases whose labels hold the masks of a further source; the images are the first's."""
    return f"{first}@{source}"


def _annotated_by(shared: Plans, source: str) -> dict[str, list[str]]:
    further = shared[BLOCK]["sources"]
    if source not in further:
        raise ConfigurationError(
            f"--source {source!r}: the cohort was composed from {', '.join(further) or 'one source'}; the first is "
            "what arms take without --source, others need `backsplit compose --sources FIRST OTHER` and `prepare`"
        )
    return further[source]


def dataset_json_of_arm(shared: dict[str, Any], settings: ArmSettings) -> dict[str, Any]:
    """The data set description with the arm's classes, so that stock nnU-Net builds the right number of outputs."""
    labels = {name: index for index, name in enumerate(settings.class_names)}
    if IGNORE in shared["labels"]:
        labels[IGNORE] = settings.num_classes
    return {**{key: value for key, value in shared.items() if key != "dataset"}, "labels": labels}


def check_parity(baseline: Plans, other: Plans) -> None:
    """Refuse a comparison of arms that differ in more than they declare (DESIGN section 4).

    Plan, intensity statistics, sampling, splits, budget, seed and preprocessed data all stand in the plans. An arm that
    was fine-tuned declares its start, and with it another budget and optimiser.

    Raises:
        ParityError: names every difference with both values.
    """
    ours, theirs = dict(flat(baseline)), dict(flat(other))
    is_finetuned = any(f"{BLOCK}.start.checkpoint" in plans for plans in (ours, theirs))
    declared = DECLARED + DECLARED_BY_START * is_finetuned
    kind, sampling = f"{BLOCK}.arm.kind", f"{BLOCK}.sampling"
    for one, another in ((ours, theirs), (theirs, ours)):
        if (one.get(kind), one.get(sampling), another.get(sampling)) == ("binary", "any", "target"):
            one[sampling] = "target"  # any class of a binary arm is a target: the very same patches
    different = [
        f"{key} ({ours.get(key)!r} against {theirs.get(key)!r})"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and not key.startswith(declared)
    ]
    if different:
        raise ParityError(
            f"arms {baseline['plans_name']!r} and {other['plans_name']!r} were not trained under equal conditions: "
            f"{'; '.join(different)}; train one of them again"
        )


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  any JSON
    """Leaves of nested JSON objects with their dotted path; lists are leaves."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
