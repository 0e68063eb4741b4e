"""Plots of scores for a paper or a talk, each as PNG, SVG and PDF."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from backsplit.evaluation import paired_differences
from backsplit.files import replacing
from backsplit.report.figures import DPI, NO_METADATA
from backsplit.report.palette import LIGHT, ArmStyle, arm_styles

SIZE_INCHES = (4.2, 3.4)
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "backsplit",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.size": 9,
}
NUM_BANDS = 4


def write_plots(scores: pd.DataFrame, lesions: pd.DataFrame, baseline: str, folder: Path) -> list[Path]:
    """Draw what the scores have: for each class and arm, and for each class over all arms.

    Args:
        scores: as `read_scores` gives them, after the empty policy.
        lesions: rows of `lesions.csv`.
        baseline: arm that the others are compared with.
        folder: where the files go, `<plot>-<class>-<arm>.png`, `.svg` and `.pdf`; the same scores give the same bytes.

    Returns:
        The files that were written.
    """
    styles = arm_styles([baseline, *sorted(set(scores["arm"]) - {baseline})])
    written = []
    for name, draw in _plots(scores, lesions, baseline, styles):
        written += write_figure(draw, folder / name)
    return written


def write_figure(draw: Callable[[Axes], None], path: Path, *, wider_inches: float = 0.0) -> list[Path]:
    """Draw one figure and write it as PNG, SVG and PDF; the same drawing gives the same bytes.

    Args:
        draw: draws into the axes it is given.
        path: file without its ending.
        wider_inches: than figures are.
    """
    written = []
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(SIZE_INCHES[0] + wider_inches, SIZE_INCHES[1]), layout="constrained")
        draw(figure.add_subplot())
        for ending, metadata in NO_METADATA.items():
            written.append(path.with_name(f"{path.name}.{ending}"))
            with replacing(written[-1]) as temporary:
                figure.savefig(temporary, dpi=DPI, metadata=metadata)
    return written


def _plots(
    scores: pd.DataFrame, lesions: pd.DataFrame, baseline: str, styles: dict[str, ArmStyle]
) -> Iterator[tuple[str, Callable[[Axes], None]]]:
    for class_name, group in scores.groupby("class"):
        label = file_name(str(class_name))
        for arm in sorted(set(group["arm"]) - {baseline}):
            pair = (baseline, arm)
            yield f"pairs-{label}-{file_name(arm)}", lambda axes, g=group, p=pair: _pairs(axes, g, p, styles)
            yield f"volume-{label}-{file_name(arm)}", lambda axes, g=group, p=pair: _by_volume(axes, g, p, styles)
        yield f"spread-{label}", lambda axes, g=group: _spread(axes, g, styles)
        found = (
            lesions[(lesions["class"] == class_name) & (lesions["kind"] == "reference")] if len(lesions) else lesions
        )
        if len(found):
            yield f"detection-{label}", lambda axes, f=found: _detection(axes, f, styles)


def file_name(name: str) -> str:
    """The name with a dash for each character that a file name should not have."""
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in name)


def _pairs(axes: Axes, scores: pd.DataFrame, pair: tuple[str, str], styles: dict[str, ArmStyle]) -> None:
    """One line per case, from its Dice in the baseline to that in the arm."""
    dice = scores.pivot_table(index="case", columns="arm", values="dice", dropna=False)[list(pair)].dropna()
    colours = np.where(dice[pair[1]] >= dice[pair[0]], styles[pair[1]].on_light, styles[pair[0]].on_light)
    for values, colour in zip(dice.to_numpy(), colours, strict=True):
        axes.plot((0, 1), values, "-o", color=colour, alpha=0.6, markersize=3, linewidth=1)
    axes.plot((0, 1), dice.mean(), "-D", color=LIGHT.text, linewidth=2, label="mean")
    axes.set(xticks=(0, 1), xticklabels=pair, xlim=(-0.2, 1.2), ylim=(-0.02, 1.02), ylabel="Dice")
    axes.set_title(f"{_class_of(scores)}: {len(dice)} cases", fontsize=9)
    axes.legend(frameon=False)


def _by_volume(axes: Axes, scores: pd.DataFrame, pair: tuple[str, str], styles: dict[str, ArmStyle]) -> None:
    """Difference in Dice against the volume of the reference."""
    baseline, arm = pair
    cases = scores.assign(group="")
    difference = paired_differences(
        cases, baseline=baseline, arm=arm, class_name=_class_of(scores), metric="dice"
    ).dropna()
    volumes = cases.drop_duplicates("case").set_index("case")["reference_ml"].reindex(difference.index)
    present = volumes > 0
    axes.axhline(0, color=LIGHT.muted, linewidth=1)
    axes.scatter(volumes[present], difference[present], s=16, color=styles[arm].on_light)
    axes.set(xscale="log", xlabel=f"{_class_of(scores)} in the reference (mL)", ylabel=f"Dice, {arm} minus {baseline}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{int(present.sum())} cases with a lesion", fontsize=9)


def _spread(axes: Axes, scores: pd.DataFrame, styles: dict[str, ArmStyle]) -> None:
    """Dice of all cases, by arm."""
    arms = [arm for arm in styles if (scores["arm"] == arm).any()]
    values = [scores.loc[scores["arm"] == arm, "dice"].dropna().to_numpy() for arm in arms]
    boxes = axes.boxplot(values, tick_labels=arms, widths=0.5, showmeans=True, patch_artist=True)
    for box, arm in zip(boxes["boxes"], arms, strict=True):
        box.set(facecolor="none", edgecolor=styles[arm].on_light, linewidth=1.5)
    for number, each in enumerate(values, start=1):
        aside = np.linspace(-0.12, 0.12, len(each)) if len(each) > 1 else np.zeros(len(each))
        axes.scatter(number + aside, each, s=6, color=styles[arms[number - 1]].on_light, alpha=0.5, zorder=3)
    axes.set(ylim=(-0.02, 1.02), ylabel="Dice")
    axes.set_title(f"{_class_of(scores)}; box: quartiles, line: median, triangle: mean", fontsize=8)


def _detection(axes: Axes, lesions: pd.DataFrame, styles: dict[str, ArmStyle]) -> None:
    """Share of detected lesions in bands of equal numbers, by volume."""
    sizes = lesions["ml"].astype(float)
    edges = np.unique(sizes.quantile(np.linspace(0, 1, NUM_BANDS + 1)))
    bands = pd.cut(sizes, edges, include_lowest=True) if len(edges) > 1 else sizes.astype(str)
    for arm, of_arm in lesions.groupby("arm"):
        found = (of_arm["detected"] == "yes").groupby(bands.loc[of_arm.index], observed=True).agg(["mean", "size"])
        style = styles[str(arm)]
        axes.plot(
            range(len(found)), found["mean"], "-o", color=style.on_light, dashes=style.curve or (None, None), label=arm
        )
    labels = [_told(band, number) for band, number in found["size"].items()]
    axes.set(xticks=range(len(labels)), xticklabels=labels, ylim=(-0.02, 1.02))
    axes.set(xlabel="lesion volume (mL)", ylabel="share of lesions that are detected")
    axes.legend(frameon=False)


def _told(band: object, number: int) -> str:
    edges = f"{band.left:.2g}-{band.right:.2g}" if isinstance(band, pd.Interval) else str(band)
    return f"{edges}\nn={number}"


def _class_of(scores: pd.DataFrame) -> str:
    return str(scores["class"].iloc[0])
