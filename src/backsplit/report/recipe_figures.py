"""Curves, masks and slices of whole studies, as PNG, SVG and PDF; the same inputs give the same bytes."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backsplit.files import replacing
from backsplit.report import figures
from backsplit.report.casestudies import Gallery, case_views, contour_styles
from backsplit.report.gather import ReportInputs, arms_of
from backsplit.report.palette import arm_styles
from backsplit.report.paper import contests
from backsplit.report.plots import write_figure
from backsplit.report.selection import paired_dice, telling_cases

FEW_STRUCTURES, INCHES_PER_STRUCTURE = 4, 0.4
"""Whose names stand level below an axis, and what each further one takes."""


def draw_points(points: pd.DataFrame, levels: Mapping[str, float], label: str, path: Path) -> list[Path]:
    """Mean Dice with standard errors along one axis, and levels across it.

    Args:
        points: `line`, `x`, `dice`, `error`; NaN leaves a point or its bar out.
        levels: name and Dice of what has no place on the axis.
        label: of the axis.
        path: file without its ending.

    Returns:
        The files.
    """
    lines = [str(line) for line in points["line"].unique()]
    styles = arm_styles([*lines, *levels])

    def draw(axes: Axes) -> None:
        for line in lines:
            of_line, style = points[points["line"] == line], styles[line]
            axes.errorbar(
                of_line["x"],
                of_line["dice"],
                of_line["error"],
                color=style.on_light,
                linestyle=(0, style.curve) if style.curve else "solid",
                marker="o",
                markersize=4,
                capsize=3,
                label=line,
            )
        for name, dice in levels.items():
            style = styles[name]
            axes.axhline(dice, color=style.on_light, linestyle=(0, style.curve) if style.curve else "solid", label=name)
        axes.set(xlabel=label, ylabel="Dice of the target, mean over cases", ylim=(-0.02, 1.02))
        axes.legend(frameon=False)

    return write_figure(draw, path)


def draw_masks(checks: pd.DataFrame, reference: str, path: Path) -> list[Path]:
    """Dice of masks by structure: a point per case, a bar at the median, the mask sets beside each other.

    Args:
        checks: `masks` (whose), `structure`, `dice`, a row per case; NaN where it is undefined.
        reference: what they were compared with.
        path: file without its ending.

    Returns:
        The files; none where Dice is undefined in every case.
    """
    known = checks.dropna(subset=["dice"])
    names, structures = list(known["masks"].unique()), list(known["structure"].unique())
    styles = arm_styles([str(name) for name in names])

    def draw(axes: Axes) -> None:
        for name, structure in product(names, structures):
            of_both = known[(known["masks"] == name) & (known["structure"] == structure)]
            aside = (names.index(name) + 0.5) / len(names) - 0.5
            middle, width = structures.index(structure) + 0.8 * aside, 0.3 / len(names)
            spread = np.linspace(-width, width, len(of_both)) if len(of_both) > 1 else np.zeros(1)
            colour = styles[str(name)].on_light
            axes.scatter(middle + spread, of_both["dice"], s=8, color=colour, alpha=0.6, linewidths=0)
            axes.hlines(of_both["dice"].median(), middle - width, middle + width, color=colour, linewidth=2.5)
        axes.set(xticks=range(len(structures)), xlim=(-0.6, len(structures) - 0.4), ylim=(-0.02, 1.02))
        axes.set_xticklabels(structures, rotation=30 if len(structures) > FEW_STRUCTURES else 0)
        axes.set(ylabel=f"Dice against {reference}")
        handles = [Line2D([], [], color=styles[str(name)].on_light, linewidth=2.5) for name in names]
        axes.legend(handles, names, frameon=False, loc="lower left")

    wider_inches = max(0, len(structures) - FEW_STRUCTURES) * INCHES_PER_STRUCTURE
    return write_figure(draw, path, wider_inches=wider_inches) if len(known) else []


def draw_slices(studies: Mapping[str, ReportInputs], path: Path) -> list[Path]:
    """Axial slices of the best, median and worst case of each study, target and arm, with outlines.

    Args:
        studies: by what they are called in the figure.
        path: file without its ending.

    Returns:
        The files; none where Dice is undefined in every case.
    """
    rows = [row for name, inputs in studies.items() for row in _rows(name, inputs)]
    written = []
    for fmt in figures.NO_METADATA if rows else ():
        written.append(path.with_name(f"{path.name}.{fmt}"))
        with replacing(written[-1]) as temporary:
            temporary.write_bytes(figures.slice_grid(rows, fmt))
    return written


def _rows(name: str, inputs: ReportInputs) -> Sequence[figures.SliceRow]:
    gallery = Gallery(inputs.cohort, inputs.prediction_folders, inputs.scores, arm_styles(arms_of(inputs)))
    rows = []
    for contest in contests(inputs):
        paired = paired_dice(inputs.scores, contest)
        cells = [
            (f"{rank.lower()}, Dice {paired.baseline[at]:.2f} and {paired.arm[at]:.2f}", axial)
            for rank, at in telling_cases(len(paired.cases)).items()
            for axial in case_views(gallery, contest, paired.cases[at])[:1]
        ]
        keys = dict(zip(("reference", contest.baseline, contest.arm), contour_styles(gallery, contest), strict=True))
        if cells:
            rows.append(figures.SliceRow(f"{name}: {contest.class_name}", cells, keys))
    return rows
