"""What the figures of a recipe show: the Dice of the target against how an arm was trained."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import pandas as pd

from backsplit.evaluation import POLICIES, read_scores
from backsplit.experiments.grid import Grid, Group, name_at
from backsplit.experiments.recipes import ArmChoice, Data

Kind = Literal["epochs", "fractions", "auxiliaries"]
AXES: dict[Kind, str] = {
    "epochs": "epochs",
    "fractions": "share of the training cases with auxiliary labels",
    "auxiliaries": "number of auxiliaries",
}


class Points(NamedTuple):
    """One figure."""

    name: str
    """Such as `epochs-kits23-unet-cyst`."""
    table: pd.DataFrame
    """A row per point: `line`, `x`, `dice` (mean over cases, seeds of a case averaged first) and `error`, the standard
    error of that mean, NaN for a single case."""
    levels: dict[str, float]
    """Mean Dice of arms that have no place on the axis."""


def points_of(grid: Grid, kind: Kind) -> Iterator[Points]:
    """One figure for each data set, network and target of which several arms were trained.

    `epochs`: a line for each fine-tuned arm, from the Dice of the arm that it starts from, and for each other arm whose
    checkpoints were kept. `fractions` and `auxiliaries`: a line for each preset, from the binary arm at 0.
    """
    groups = [group for group in grid.groups if len(group.trained) > 1]
    for data, network in dict.fromkeys((group.data, group.network) for group in groups):
        dice = _dice(grid, data, network)
        arms = grid.recipe.arms_of(data, network)
        for target in dice["class"].unique():
            of_target = dice[dice["class"] == target].set_index("arm")[["dice", "error"]]
            rows = list(_over_epochs(grid, arms) if kind == "epochs" else _over(PLACES[kind], arms, grid, data))
            table = pd.DataFrame(rows, columns=["line", "x", "arm"]).join(of_target, on="arm").drop(columns="arm")
            scratch = [name for name, arm in arms.items() if kind == "epochs" and arm.arm == "backsplit"]
            levels = {name: float(of_target.loc[name, "dice"]) for name in scratch if not _is_line(arms[name])}
            yield Points(f"{kind}-{data}-{network}-{target}", table.sort_values(["line", "x"]), levels)


def _dice(grid: Grid, data: str, network: str) -> pd.DataFrame:
    """`arm`, `class`, `dice`, `error` of all arms and their kept checkpoints."""
    groups = [group for group in (*grid.groups, *grid.kept) if (group.data, group.network) == (data, network)]
    scores = pd.concat([_scores(grid, each) for each in groups])
    return mean_dice(POLICIES[grid.recipe.metrics.empty_policy].apply(scores))


def mean_dice(scores: pd.DataFrame) -> pd.DataFrame:
    """`arm`, `class`, `dice` (mean over cases, seeds of a case averaged first) and `error`, its standard error."""
    cases = scores.groupby(["arm", "class", "case"], sort=False)["dice"].mean()
    grouped = cases.groupby(["arm", "class"], sort=False)
    return pd.DataFrame({"dice": grouped.mean(), "error": grouped.sem()}).reset_index()


def _scores(grid: Grid, group: Group) -> pd.DataFrame:
    return read_scores(grid.store.group(grid.study, group.folder).scores)


def _over_epochs(grid: Grid, arms: dict[str, ArmChoice]) -> Iterator[tuple[str, float, str]]:
    kept = {name for group in grid.kept for name in group.trained}
    for name, arm in arms.items():
        if _is_line(arm):
            (last,) = {each.epochs for each in grid.trainings if each.name in _trained(grid, name)}
            if arm.start is not None:
                yield name, 0, arm.start
            yield from ((name, epoch, name_at(name, epoch)) for epoch in range(last) if name_at(name, epoch) in kept)
            yield name, last, name


def _is_line(arm: ArmChoice) -> bool:
    return arm.start is not None or arm.keep_every is not None


def _trained(grid: Grid, arm: str) -> set[str]:
    return {group.trained[arm] for group in grid.groups if arm in group.trained}


def _over(
    place: Callable[[ArmChoice, Data], float | None], arms: dict[str, ArmChoice], grid: Grid, data: str
) -> Iterator[tuple[str, float, str]]:
    for preset in dict.fromkeys(arm.preset for arm in arms.values()):
        for name, arm in arms.items():
            x = place(arm, grid.recipe.data[data])
            if x is not None and arm.start is None and (arm.preset == preset or arm.arm == "binary"):
                yield f"preset {preset}", x, name


def _fraction(arm: ArmChoice, _: Data) -> float | None:
    return {"binary": 0.0, "partial": arm.fraction, "backsplit": 1.0}.get(arm.arm)


def _number(arm: ArmChoice, data: Data) -> float | None:
    return {"binary": 0, "subset": len(arm.auxiliaries), "backsplit": len(data.auxiliaries)}.get(arm.arm)


PLACES: dict[Kind, Callable[[ArmChoice, Data], float | None]] = {"fractions": _fraction, "auxiliaries": _number}
