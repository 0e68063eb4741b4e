"""Curves of what a workspace has scored: Dice of the target against how its arms were trained."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from backsplit.evaluation import read_scores
from backsplit.experiments.figure_points import Kind, Points, mean_dice
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import evaluated_policy, predicted_arms
from backsplit.nnunet.arms import BLOCK, ArmSettings
from backsplit.nnunet.prediction import read_plans
from backsplit.nnunet.training import FINAL

KEPT = re.compile(r"checkpoint_epoch_(\d+)\.pth")
FEWEST: dict[Kind, int] = {"epochs": 2, "fractions": 3, "auxiliaries": 3}
"""Points of a line that is worth a figure: no annotations and all of them are just the arms that are compared."""


class _Scored(NamedTuple):
    """How one arm came about."""

    settings: ArmSettings
    model: str
    checkpoint: str


Row = tuple[str, float, str]
"""Line, place on the axis, and arm of a point."""


def points_of_workspace(workspace: Workspace) -> Iterator[tuple[Kind, Points]]:
    """One figure for each axis and target, where a line of it has enough points.

    `epochs`: a line for each training of which several checkpoints were predicted, or that started from another one.
    `fractions` and `auxiliaries`: a line for each loss, over trainings from random weights, from the binary arm at 0.

    Raises:
        ConfigurationError: nothing was predicted or evaluated yet.
    """
    arms = {
        arm: _Scored(ArmSettings.from_block(read_plans(Path(told["model"]))[BLOCK]), told["model"], told["checkpoint"])
        for arm, told in predicted_arms(workspace).items()
    }
    dice = mean_dice(evaluated_policy(workspace).apply(read_scores(workspace.scores)))
    for kind, rows_of in _ROWS.items():
        rows = pd.DataFrame(rows_of(arms), columns=["line", "x", "arm"])
        rows = rows[rows.groupby("line")["x"].transform("nunique") >= FEWEST[kind]]
        for target, of_target in dice.groupby("class", sort=False) if len(rows) else ():
            table = rows.merge(of_target[["arm", "dice", "error"]], on="arm").drop(columns="arm")
            yield kind, Points(f"{kind}-{target}", table.sort_values(["line", "x"], ignore_index=True), {})


def _over_epochs(arms: Mapping[str, _Scored]) -> Iterator[Row]:
    ends = {each.model: arm for arm, each in arms.items() if each.checkpoint == FINAL}
    for arm, (settings, _, checkpoint) in arms.items():
        kept = KEPT.fullmatch(checkpoint)
        if checkpoint == FINAL or kept:
            yield settings.name, int(kept[1]) if kept else settings.budget.epochs, arm
        if settings.start is not None and settings.start.model in ends:
            yield settings.name, 0, ends[settings.start.model]


def _over_fractions(arms: Mapping[str, _Scored]) -> Iterator[Row]:
    places = {"binary": 0.0, "backsplit": 1.0}
    return _over(arms, lambda of: of.arm.fraction if of.arm.kind == "partial" else places.get(of.arm.kind))


def _over_auxiliaries(arms: Mapping[str, _Scored]) -> Iterator[Row]:
    kinds = ("binary", "subset", "backsplit")
    return _over(arms, lambda of: of.num_classes - of.scheme.num_targets - 1 if of.arm.kind in kinds else None)


def _over(arms: Mapping[str, _Scored], place: Callable[[ArmSettings], float | None]) -> Iterator[Row]:
    whole = {arm: each.settings for arm, each in arms.items() if each.checkpoint == FINAL and not each.settings.start}
    lines = dict.fromkeys(of.loss for of in whole.values() if of.arm.kind != "binary")
    for arm, settings in whole.items():
        x = place(settings)
        if x is not None:
            yield from ((line, x, arm) for line in ([settings.loss] if settings.arm.kind != "binary" else lines))


_ROWS: dict[Kind, Callable[[Mapping[str, _Scored]], Iterator[Row]]] = {
    "epochs": _over_epochs,
    "fractions": _over_fractions,
    "auxiliaries": _over_auxiliaries,
}
