"""From tables, manifest and prediction files to the page, and from the page to disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backsplit.cases import Cohort
from backsplit.files import write_text
from backsplit.report import charts
from backsplit.report.casestudies import Gallery, case_section
from backsplit.report.page import CaseSection, Page, render
from backsplit.report.palette import ArmStyle, arm_styles
from backsplit.report.selection import CASE_RULE, Contest
from backsplit.report.tables import comparison_table, dice_differences, score_table
from backsplit.report.wording import count, headline


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """What a report is made of."""

    title: str
    scores: pd.DataFrame
    """As `evaluation.read_scores` gives them: a row per arm, case and class."""
    summary: pd.DataFrame
    """As `evaluation.summarise` gives it; its order of arms is that of the page, after the baseline."""
    comparison: pd.DataFrame
    """As `evaluation.compare` gives it."""
    policy: str
    """What both tables did with undefined scores, in a sentence."""
    curves: Mapping[str, pd.DataFrame]
    """Training log (`progress.csv`) by arm; arms without one are named on the page."""
    cohort: Cohort
    """Composed: its label values are indices of its scheme."""
    prediction_folders: Mapping[str, Path]
    """By arm, with a file `<case>.nii.gz` for each scored case; arms without one are shown without pictures."""
    baseline: str
    facts: Mapping[str, str]
    """Budget, seed, versions, hardware, ... in the order in which they are printed."""
    warnings: Sequence[str] = ()
    """Printed right below the headline."""


def write(inputs: ReportInputs, path: Path) -> Path:
    """Write one self-contained HTML page, whole or not at all; the same inputs give the same bytes.

    Returns:
        `path`.

    Raises:
        CohortError: a scored case is not in the cohort, or has no composed labels.
        GeometryError: a prediction or label map on another grid than its image.
        LabelError: a scored class is not in the scheme.
        VolumeError: an image, label map or prediction is missing or unreadable.
    """
    write_text(render(page_of(inputs)), path)
    return path


def page_of(inputs: ReportInputs) -> Page:
    """Everything the page shows; reads the volumes of the cases that are shown. Raises as `write`."""
    arms = _arms(inputs)
    styles = arm_styles(arms)
    folds = tuple(sorted(inputs.scores["fold"].astype(str).unique()))
    differences = dice_differences(inputs.comparison, folds)
    contests = tuple(Contest(each.class_name, inputs.baseline, each.arm) for each in differences)
    return Page(
        title=inputs.title,
        subtitle=_subtitle(inputs, arms, folds),
        headlines=tuple(headline(difference) for difference in differences),
        warnings=tuple(inputs.warnings),
        intervals=charts.interval_picture(differences, styles),
        scores=score_table(inputs.summary, inputs.policy),
        comparison=comparison_table(inputs.comparison, inputs.policy),
        pairs=tuple(charts.pair_picture(inputs.scores, contest, styles[contest.arm]) for contest in contests),
        curve_legend=charts.curve_legend([arm for arm in arms if arm in inputs.curves], styles),
        curves=charts.curve_pictures({arm: inputs.curves[arm] for arm in arms if arm in inputs.curves}, styles),
        curves_note=_curves_note(inputs, arms),
        case_rule=_case_note(inputs, arms),
        cases=_case_sections(inputs, contests, styles),
        facts=(*_cohort_facts(inputs.cohort), *inputs.facts.items()),
    )


def _arms(inputs: ReportInputs) -> tuple[str, ...]:
    named = inputs.summary["arm"].astype(str)
    return tuple(dict.fromkeys((inputs.baseline, *named)))


def _subtitle(inputs: ReportInputs, arms: Sequence[str], folds: Sequence[str]) -> str:
    num_cases = inputs.scores["case"].nunique()
    others = ", ".join(arm for arm in arms if arm != inputs.baseline)
    return f"{others} against {inputs.baseline}, {count(num_cases, 'case')}, fold {', '.join(folds)}"


def _curves_note(inputs: ReportInputs, arms: Sequence[str]) -> str:
    missing = [arm for arm in arms if arm not in inputs.curves]
    if missing:
        return f"No training log of {', '.join(missing)}."
    return (
        "Pseudo-Dice is measured on patches while training and is no test result. The total losses are weighted "
        "differently from arm to arm; compare their parts."
    )


def _case_note(inputs: ReportInputs, arms: Sequence[str]) -> str:
    missing = [arm for arm in arms if arm not in inputs.prediction_folders]
    return f"{CASE_RULE} No predictions of {', '.join(missing)} to show." if missing else CASE_RULE


def _case_sections(
    inputs: ReportInputs, contests: Sequence[Contest], styles: Mapping[str, ArmStyle]
) -> tuple[CaseSection, ...]:
    gallery = Gallery(inputs.cohort, inputs.prediction_folders, inputs.scores, styles)
    return tuple(
        case_section(gallery, contest)
        for contest in contests
        if {contest.baseline, contest.arm} <= inputs.prediction_folders.keys()
    )


def _cohort_facts(cohort: Cohort) -> tuple[tuple[str, str], ...]:
    classes = {"Targets": cohort.scheme.targets, "Auxiliaries": cohort.scheme.auxiliaries} if cohort.scheme else {}
    return (
        ("Cohort", f"{cohort.name}, {count(len(cohort.cases), 'case')}"),
        ("Channels", ", ".join(cohort.channels)),
        *((name, ", ".join(members) or "none") for name, members in classes.items()),
        *cohort.provenance,
    )
