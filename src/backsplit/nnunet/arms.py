"""Arms as data: what a training does differently is a block in the plans, and nothing else may differ."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from backsplit.errors import ConfigurationError, ParityError
from backsplit.labels import BACKGROUND, Coarsening, LabelScheme, identity, to_target
from backsplit.learning.losses import Preset

BLOCK = "backsplit"  # key of our block in the plans
SHARED_PLANS = "nnUNetPlans"
ARM_NAMES = ("binary", "backsplit")
DECLARED = ("plans_name", f"{BLOCK}.arm", f"{BLOCK}.coarsening", f"{BLOCK}.loss")  # what an arm may differ in

BudgetName = Literal["paper", "short", "demo"]
OptimizerName = Literal["sgd", "adamw"]
Plans = dict[str, Any]


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
        changed = replace(self, epochs=epochs or self.epochs)
        if iterations is None:
            return changed
        return replace(changed, iterations=iterations, validation_iterations=max(1, iterations // 5))


BUDGETS: dict[BudgetName, Budget] = {
    "paper": Budget(epochs=1000, iterations=250, validation_iterations=50),
    "short": Budget(epochs=100, iterations=250, validation_iterations=50),
    "demo": Budget(epochs=15, iterations=50, validation_iterations=5),
}


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """All that a training is told beside the shared plans; stored in the plans block, so it travels with the model."""

    arm: str
    """`binary` (targets against the rest) or `backsplit` (all fine classes)."""
    scheme: LabelScheme
    budget: Budget
    loss: Preset = "target-first"
    sampling: Literal["target", "any"] = "target"
    """Which class a forced-foreground patch is centred on: a target, or any class of the arm (stock nnU-Net)."""
    optimizer: OptimizerName = "sgd"
    """`sgd` is nnU-Net's and the paper's; `adamw` gets somewhere in hundreds of iterations."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.arm not in ARM_NAMES:
            raise ConfigurationError(f"unknown arm {self.arm!r}; choose one of {', '.join(ARM_NAMES)}")
        if self.arm == "backsplit" and not self.scheme.auxiliaries:
            raise ConfigurationError(
                "arm 'backsplit' needs auxiliary classes and the cohort has none; "
                "name some with `backsplit compose --auxiliaries`"
            )

    @property
    def coarsening(self) -> Coarsening:
        """Fine classes of the preprocessed data to the classes that this arm tells apart."""
        num_fine = self.scheme.num_classes
        if self.arm == "binary":
            return to_target(num_targets=self.scheme.num_targets, num_fine=num_fine)
        return identity(num_fine)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the arm's classes: those of the fine classes that stand alone; background names its block."""
        return tuple(
            BACKGROUND if 0 in block else "+".join(self.scheme.names[fine] for fine in block)
            for block in self.coarsening.blocks
        )

    def to_block(self) -> dict[str, Any]:
        """The plans block; JSON types only."""
        block = asdict(self)
        return {"version": 1, **block, "coarsening": list(self.coarsening.parent)}

    @classmethod
    def from_block(cls, block: dict[str, Any]) -> "ArmSettings":
        """Read a plans block.

        Raises:
            ConfigurationError: the block was written by another version.
        """
        if block.get("version") != 1:
            raise ConfigurationError(f"the plans were written for version {block.get('version')}; this is version 1")
        scheme = LabelScheme(tuple(block["scheme"]["targets"]), tuple(block["scheme"]["auxiliaries"]))
        rest = {key: block[key] for key in ("arm", "loss", "sampling", "optimizer", "seed")}
        return cls(scheme=scheme, budget=Budget(**block["budget"]), **rest)


def plans_of_arm(shared: Plans, settings: ArmSettings) -> Plans:
    """The shared plans with the arm's block; its name keeps the results of arms apart. Arguments stay as they are."""
    data = shared[BLOCK]
    return {**shared, "plans_name": settings.arm, BLOCK: {**data, **settings.to_block()}}


def dataset_json_of_arm(shared: dict[str, Any], settings: ArmSettings) -> dict[str, Any]:
    """The data set description with the arm's classes, so that stock nnU-Net builds the right number of outputs."""
    labels = {name: index for index, name in enumerate(settings.class_names)}
    return {**{key: value for key, value in shared.items() if key != "dataset"}, "labels": labels}


def check_parity(baseline: Plans, other: Plans) -> None:
    """Refuse a comparison of arms that differ in more than they declare (DESIGN section 4).

    Plan, intensity statistics, sampling, splits, budget, seed and preprocessed data all stand in the plans.

    Raises:
        ParityError: names every difference with both values.
    """
    ours, theirs = dict(flat(baseline)), dict(flat(other))
    different = [
        f"{key} ({ours.get(key)!r} against {theirs.get(key)!r})"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and not key.startswith(DECLARED)
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
