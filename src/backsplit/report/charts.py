"""From tables to the figures of the page, each for light and dark pages, with the words that go with it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from backsplit.report import figures
from backsplit.report.page import Key, Picture
from backsplit.report.palette import DARK, LIGHT, ArmStyle, Theme
from backsplit.report.selection import Contest, PairedDice, paired_dice, telling_cases
from backsplit.report.wording import Difference, count, dash_text, decimals, interval

CURVES = {
    "pseudo_dice_target": "Pseudo-Dice of the target on validation patches",
    "train_loss": "Training loss, as weighted by each arm",
    "validation_loss": "Validation loss, as weighted by each arm",
    "cross_entropy_target": "Cross-entropy of the target part, unweighted",
    "cross_entropy_auxiliary": "Cross-entropy of the auxiliary part, unweighted",
    "dice_target": "Soft Dice of the target, unweighted",
    "dice_auxiliary": "Soft Dice of the auxiliaries, unweighted",
}
"""Column of `progress.csv`, and what it is called."""


def pair_picture(scores: pd.DataFrame, contest: Contest, style: ArmStyle) -> Picture:
    """Dice of every case in both arms; B, M and W mark the best, median and worst case."""
    paired = paired_dice(scores, contest)
    pairs = figures.Pairs(paired.baseline, paired.arm, (contest.baseline, contest.arm), style, _marks(paired))
    left_out = f", {paired.num_undefined} more undefined" if paired.num_undefined else ""
    return _picture(
        lambda theme: figures.pair_plot(pairs, theme),
        alt=f"Scatter plot of the Dice of {contest.class_name} with {contest.baseline} and with {contest.arm}",
        caption=f"{contest.class_name}: Dice case by case ({count(len(paired.cases), 'case')}{left_out}). "
        "Circled: best (B), median (M) and worst (W) difference.",
    )


def interval_picture(differences: Sequence[Difference], styles: Mapping[str, ArmStyle]) -> Picture | None:
    """All Dice differences with their intervals; None if there is none to draw."""
    drawn = [difference for difference in differences if np.isfinite(difference.estimate)]
    if not drawn:
        return None
    rows = [
        figures.Interval(f"{each.class_name}: {each.arm}", (each.estimate, each.low, each.high), styles[each.arm])
        for each in drawn
    ]
    values = (
        f"{each.class_name}, {each.arm}: {decimals(each.estimate)} ({interval(each.low, each.high)})" for each in drawn
    )
    return _picture(
        lambda theme: figures.interval_plot(rows, theme),
        alt=f"Dice differences with their 95 % intervals. {'; '.join(values)}",
        caption="Mean Dice difference to the baseline, 95 % interval. Right of the dashed line the arm is better.",
    )


def curve_pictures(curves: Mapping[str, pd.DataFrame], styles: Mapping[str, ArmStyle]) -> tuple[Picture, ...]:
    """One picture for each quantity that an arm logged.

    Columns that are missing, undefined or 0 throughout are not drawn: the zeros of a binary arm, which has no
    auxiliary part, say nothing.
    """
    pictures = (_curve_picture(column, curves, styles) for column in CURVES)
    return tuple(picture for picture in pictures if picture is not None)


def curve_legend(arms: Sequence[str], styles: Mapping[str, ArmStyle]) -> tuple[Key, ...]:
    """The lines of the arms."""
    return tuple(
        Key(arm, styles[arm].on_light, styles[arm].on_dark, dash_text(styles[arm].curve, line_width=2)) for arm in arms
    )


def curve_lines(
    column: str, curves: Mapping[str, pd.DataFrame], styles: Mapping[str, ArmStyle]
) -> dict[str, figures.Line]:
    """The line of each arm that logged something under a column."""
    logged = {arm: table for arm, table in curves.items() if column in table and _says_something(table[column])}
    return {
        arm: figures.Line(table["epoch"].to_numpy(float), table[column].to_numpy(float), styles[arm])
        for arm, table in logged.items()
    }


def _curve_picture(column: str, curves: Mapping[str, pd.DataFrame], styles: Mapping[str, ArmStyle]) -> Picture | None:
    lines = curve_lines(column, curves, styles)
    if not lines:
        return None
    last = (f"{arm} {decimals(float(line.values[-1]))}" for arm, line in lines.items())  # noqa: PD011  an array
    return _picture(
        lambda theme: figures.curve_plot(list(lines.values()), theme),
        alt=f"{CURVES[column]} over the epochs for {', '.join(lines)}",
        caption=f"{CURVES[column]}. Last: {', '.join(last)}.",
    )


def _marks(paired: PairedDice) -> tuple[tuple[int, str], ...]:
    """Position and letters of the telling cases; those on the same point share a mark."""
    letters: dict[tuple[float, float], list[str]] = {}
    positions: dict[tuple[float, float], int] = {}
    for rank, position in telling_cases(len(paired.cases)).items():
        point = round(float(paired.baseline[position]), 2), round(float(paired.arm[position]), 2)
        letters.setdefault(point, []).append(rank[0])
        positions.setdefault(point, position)
    return tuple((positions[point], ", ".join(names)) for point, names in letters.items())


def _says_something(values: pd.Series) -> bool:
    return bool((values.notna() & (values != 0)).any())


def _picture(draw: Callable[[Theme], bytes], *, alt: str, caption: str) -> Picture:
    return Picture(light=draw(LIGHT), dark=draw(DARK), alt=alt, caption=caption)
