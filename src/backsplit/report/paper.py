"""The figures of a report as files for a paper: PNG, SVG and PDF."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from backsplit.files import replacing
from backsplit.report import charts, figures
from backsplit.report.casestudies import Gallery, case_views, contour_styles
from backsplit.report.gather import ReportInputs, arms_of
from backsplit.report.palette import LIGHT, arm_styles
from backsplit.report.plots import file_name, write_plots
from backsplit.report.selection import Contest, paired_dice, telling_cases

Draw = Callable[[figures.Format], bytes]


def write_figures(inputs: ReportInputs, folder: Path) -> list[Path]:
    """Write plots of scores and lesions, training curves, and slices of the best, median and worst case of each arm.

    Undefined scores are left out of the plots. The same inputs give the same bytes.

    Returns:
        The files, `<what>.png`, `.svg` and `.pdf` of each.

    Raises:
        As `page_of`.
    """
    written = write_plots(inputs.scores, inputs.lesions, inputs.baseline, folder)
    for name, draw in (*_curves(inputs), *_slices(inputs)):
        for fmt in figures.NO_METADATA:
            path = folder / f"{file_name(name)}.{fmt}"
            with replacing(path) as temporary:
                temporary.write_bytes(draw(fmt))
            written.append(path)
    return written


def _curves(inputs: ReportInputs) -> Iterator[tuple[str, Draw]]:
    styles = arm_styles(arms_of(inputs))
    for column in charts.CURVES:
        if lines := charts.curve_lines(column, inputs.curves, styles):
            yield f"curve-{column}", partial(figures.curve_plot, list(lines.values()), LIGHT)


def _slices(inputs: ReportInputs) -> Iterator[tuple[str, Draw]]:
    gallery = Gallery(inputs.cohort, inputs.prediction_folders, inputs.scores, arm_styles(arms_of(inputs)))
    for contest in contests(inputs):
        ordered, styles = paired_dice(inputs.scores, contest).cases, contour_styles(gallery, contest)
        for rank, position in telling_cases(len(ordered)).items():
            for view in case_views(gallery, contest, ordered[position]):
                name = f"slice-{contest.class_name}-{contest.arm}-{rank.lower()}-{view.plane}"
                yield name, partial(figures.slice_picture, view, styles)


def contests(inputs: ReportInputs) -> Iterator[Contest]:
    """Each class and arm that can be held against the baseline."""
    shown = inputs.prediction_folders.keys()
    for class_name in inputs.scores["class"].unique():
        for arm in arms_of(inputs)[1:]:
            if {inputs.baseline, arm} <= shown:
                yield Contest(str(class_name), inputs.baseline, arm)
