"""From tables, manifest and prediction files to what the page shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from backsplit.cases import Cohort
from backsplit.errors import CohortError
from backsplit.evaluation import Scoring
from backsplit.labels import LabelScheme
from backsplit.report import charts
from backsplit.report.casestudies import Gallery, case_section
from backsplit.report.caseviews import Sight, safe_id
from backsplit.report.listings import case_listing, lesion_listing
from backsplit.report.page import CaseSection, Headline, Listing, Page
from backsplit.report.palette import REFERENCE_COLOUR, ArmStyle, arm_styles
from backsplit.report.selection import CASE_RULE, Contest
from backsplit.report.tables import comparison_table, cost_table, dice_differences, score_table
from backsplit.report.wording import Difference, count, headline


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
    lesions: pd.DataFrame
    """As `lesions.csv` has them: a row per lesion or false alarm of an arm, case and class."""
    scoring: Scoring
    """How the scores were made."""
    information: Mapping[str, Path] = field(default_factory=dict)
    """By arm, folder with a map `<case>.nii.gz` of what binary labels lose of the information, from 0 to 1."""
    study: Mapping[str, str] = field(default_factory=dict)
    """What was trained, for how long; printed beside the result, in this order."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Of the network, by arm; arms whose number was not recorded are absent."""
    prediction_seconds: Mapping[str, float] = field(default_factory=dict)
    """Of a case, by arm; arms whose time was not recorded are absent."""
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Sections of facts, in the order in which they are printed."""
    warnings: Sequence[str] = ()
    """Printed right below the headline."""


def page_of(inputs: ReportInputs) -> Page:
    """Everything the page shows; reads the volumes of the cases whose pictures stand in it.

    Raises:
        CohortError: a scored case is not in the cohort, or has no composed labels.
        GeometryError: a prediction or label map on another grid than its image.
        LabelError: a scored class is not in the scheme.
        VolumeError: an image, label map or prediction is missing or unreadable.
    """
    arms, sight = arms_of(inputs), sight_of(inputs)
    styles = arm_styles(arms)
    folds = tuple(sorted(inputs.scores["fold"].astype(str).unique()))
    differences = dice_differences(inputs.comparison, folds)
    headlines, shared = _headlines(differences)
    contests = tuple(Contest(each.class_name, inputs.baseline, each.arm) for each in differences)
    return Page(
        title=inputs.title,
        subtitle=_subtitle(inputs, arms, folds),
        headlines=headlines,
        caveats=shared,
        warnings=(*inputs.warnings, *_gaps(inputs)),
        intervals=charts.interval_picture(differences, styles),
        study=(*_data_facts(inputs, sight.scheme), *inputs.study.items()),
        costs=cost_table(arms, inputs.curves, inputs.parameters, inputs.prediction_seconds),
        scores=score_table(inputs.summary, inputs.policy),
        comparison=comparison_table(inputs.comparison, inputs.policy),
        pairs=tuple(charts.pair_picture(inputs.scores, contest, styles[contest.arm]) for contest in contests),
        listings=_listings(inputs, arms, sight),
        curve_legend=charts.curve_legend([arm for arm in arms if arm in inputs.curves], styles),
        curves=charts.curve_pictures({arm: inputs.curves[arm] for arm in arms if arm in inputs.curves}, styles),
        curves_note=_curves_note(inputs, arms),
        case_rule=_case_note(inputs, arms),
        cases=_case_sections(inputs, contests, styles),
        provenance=(
            ("Data", _cohort_facts(inputs.cohort)),
            *((section, tuple(facts.items())) for section, facts in inputs.provenance.items()),
        ),
        viewer=_viewer(inputs, sight),
    )


def _headlines(differences: Sequence[Difference]) -> tuple[tuple[Headline, ...], tuple[str, ...]]:
    """A headline for each difference; what limits all of several is said once."""
    told = [headline(difference) for difference in differences]
    shared = [each for each in told[0].caveats if all(each in t.caveats for t in told)] if len(told) > 1 else []
    own = (replace(each, caveats=tuple(c for c in each.caveats if c not in shared)) for each in told)
    return tuple(own), tuple(shared)


def arms_of(inputs: ReportInputs) -> tuple[str, ...]:
    """All arms, the baseline first."""
    named = inputs.summary["arm"].astype(str)
    return tuple(dict.fromkeys((inputs.baseline, *named)))


def sight_of(inputs: ReportInputs) -> Sight:
    """What the case view shows.

    Raises:
        CohortError: the cohort is not composed.
    """
    if inputs.cohort.scheme is None:
        raise CohortError(f"{inputs.cohort.name}: no composed reference labels to show; run `backsplit compose` on it")
    arms = [arm for arm in arms_of(inputs) if arm in inputs.prediction_folders]
    return Sight(
        scheme=inputs.cohort.scheme,
        channels=inputs.cohort.channels,
        ignore=inputs.cohort.ignore,
        folders={arm: inputs.prediction_folders[arm] for arm in arms},
        styles=arm_styles(arms_of(inputs)),
        scoring=inputs.scoring,
        information=inputs.information,
    )


def shown_cases(inputs: ReportInputs) -> tuple[str, ...]:
    """Names of the cases that can be opened: those that were scored, in the order of the scores."""
    return tuple(dict.fromkeys(inputs.scores["case"].astype(str)))


def _viewer(inputs: ReportInputs, sight: Sight) -> dict[str, Any]:
    return {
        "cases": [{"id": safe_id(name), "name": name} for name in shown_cases(inputs)],
        "reference": REFERENCE_COLOUR,
        "arms": [{"name": arm, "colour": sight.styles[arm].on_dark} for arm in sight.folders],
        "targets": sight.scheme.targets,
        "auxiliaries": sight.scheme.auxiliaries,
    }


def _listings(inputs: ReportInputs, arms: Sequence[str], sight: Sight) -> tuple[Listing, ...]:
    others = [arm for arm in arms if arm != inputs.baseline]
    ordered = [*sight.folders, *(arm for arm in arms if arm not in sight.folders)]
    return (
        case_listing(inputs.scores, inputs.baseline, others),
        lesion_listing(inputs.lesions, ordered, sight.scheme.targets),
    )


def _data_facts(inputs: ReportInputs, scheme: LabelScheme) -> tuple[tuple[str, str], ...]:
    classes = {"Target": scheme.targets, "Background split into": scheme.auxiliaries}
    return (
        (
            "Cases scored",
            f"{inputs.scores['case'].nunique()} of {inputs.cohort.name} ({', '.join(inputs.cohort.channels)})",
        ),
        *((name, ", ".join(members) or "nothing") for name, members in classes.items()),
    )


def _subtitle(inputs: ReportInputs, arms: Sequence[str], folds: Sequence[str]) -> str:
    num_cases = inputs.scores["case"].nunique()
    others = ", ".join(arm for arm in arms if arm != inputs.baseline)
    return f"{others} against {inputs.baseline}, {count(num_cases, 'case')}, fold {', '.join(folds)}"


def _gaps(inputs: ReportInputs) -> Iterator[str]:
    """What the scores leave out."""
    cohort, num_scored = inputs.cohort, inputs.scores["case"].nunique()
    if num_scored < len(cohort.cases):
        yield f"{num_scored} of the {count(len(cohort.cases), 'case')} of {cohort.name} are scored."
    if cohort.dropped:
        yield f"{count(len(cohort.dropped), 'case')} of the data set could not be taken into {cohort.name}."
    undefined = inputs.scores[inputs.scores["dice"].isna()].groupby("arm", sort=False).size()
    if len(undefined):
        told = ", ".join(f"{arm} {number}" for arm, number in undefined.items())
        yield f"Dice is undefined where neither reference nor prediction has a voxel; such rows: {told}."


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
