"""From the cohort and the predictions on disk to pictures of the cases that tell most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backsplit.arrays import Mask
from backsplit.cases import Case, Cohort
from backsplit.errors import CohortError, GeometryError
from backsplit.report import figures
from backsplit.report.caseviews import safe_id
from backsplit.report.page import CaseSection, CaseStudy, Key, Picture
from backsplit.report.palette import REFERENCE_COLOUR, ArmStyle
from backsplit.report.selection import Contest, paired_dice, telling_cases
from backsplit.report.slices import Stack, View, grey_limits, views
from backsplit.report.wording import dash_text, decimals
from backsplit.volume import Volume, read_labels, read_volume


@dataclass(frozen=True, slots=True)
class Gallery:
    """Where the pictures come from: the composed cohort, the predictions of each arm, and the scores beside them."""

    cohort: Cohort
    folders: Mapping[str, Path]
    scores: pd.DataFrame
    styles: Mapping[str, ArmStyle]


def case_section(gallery: Gallery, contest: Contest) -> CaseSection:
    """Best, median and worst case of an arm for one class; without a defined pair, a section without cases.

    Raises:
        CohortError: the cohort has no label scheme, or a case no reference labels.
        GeometryError: a prediction or reference on another grid than its image.
        VolumeError: a file is missing or unreadable.
    """
    ordered = paired_dice(gallery.scores, contest).cases
    return CaseSection(
        title=f"{contest.class_name}: {contest.arm} against {contest.baseline}",
        legend=_legend(gallery.styles, contest),
        studies=tuple(
            _study(gallery, contest, rank=rank, name=ordered[position])
            for rank, position in telling_cases(len(ordered)).items()
        ),
    )


def _legend(styles: Mapping[str, ArmStyle], contest: Contest) -> tuple[Key, ...]:
    reference = Key("reference", REFERENCE_COLOUR, REFERENCE_COLOUR, "none")
    arms = (
        Key(arm, styles[arm].on_dark, styles[arm].on_dark, dash_text(styles[arm].contour))
        for arm in (contest.baseline, contest.arm)
    )
    return (reference, *arms)


def case_views(gallery: Gallery, contest: Contest, name: str) -> tuple[View, ...]:
    """Three planes through the largest lesion of a case, with the masks of reference, baseline and arm.

    Raises:
        As `case_section`.
    """
    case = gallery.cohort.case(name)
    image = read_volume(case.images[0])
    masks = _masks(gallery, contest, case, image)
    limits = grey_limits(image.voxels, is_ct=gallery.cohort.channels[0] == "CT")
    stack = Stack(image.voxels, masks, image.grid.spacing_mm, image.grid.direction, limits)
    focus = next((masks[position] for position in (0, 2, 1) if masks[position].any()), masks[0])
    return views(stack, focus)


def contour_styles(gallery: Gallery, contest: Contest) -> tuple[ArmStyle | None, ...]:
    """How the masks of `case_views` are outlined."""
    return None, gallery.styles[contest.baseline], gallery.styles[contest.arm]


def _study(gallery: Gallery, contest: Contest, *, rank: str, name: str) -> CaseStudy:
    styles, shown = contour_styles(gallery, contest), f"{name}, {gallery.cohort.channels[0]}"
    return CaseStudy(
        rank=rank,
        name=name,
        address=safe_id(name),
        facts=_facts(gallery.scores, contest, name),
        pictures=tuple(_picture(view, styles, contest, shown) for view in case_views(gallery, contest, name)),
    )


def _masks(gallery: Gallery, contest: Contest, case: Case, image: Volume) -> tuple[Mask, Mask, Mask]:
    """Reference, baseline and arm, each where it holds the class."""
    if gallery.cohort.scheme is None or case.labels is None:
        raise CohortError(f"{case.name}: no composed reference labels to show; run `backsplit compose` on the cohort")
    value = gallery.cohort.scheme.index(contest.class_name)
    predicted = (gallery.folders[arm] / f"{case.name}.nii.gz" for arm in (contest.baseline, contest.arm))
    reference, baseline, arm = (_mask(path, image, value) for path in (case.labels, *predicted))
    return reference, baseline, arm


def _mask(path: Path, image: Volume, value: int) -> Mask:
    labels = read_labels(path)
    difference = labels.grid.difference(image.grid)
    if difference is not None:
        raise GeometryError(f"{path}: not on the grid of its image: {difference}; predict or compose the case again")
    return labels.voxels == value


def _facts(scores: pd.DataFrame, contest: Contest, name: str) -> tuple[str, ...]:
    of_case = scores[(scores["case"].astype(str) == name) & (scores["class"] == contest.class_name)].set_index("arm")
    baseline, arm = of_case.loc[contest.baseline], of_case.loc[contest.arm]
    return (
        f"Dice difference {decimals(arm['dice'] - baseline['dice'], signed=True)}",
        f"reference {decimals(baseline['reference_ml'], 2)} ml",
        *(
            f"{label}: Dice {decimals(row['dice'])}, {decimals(row['prediction_ml'], 2)} ml"
            for label, row in ((contest.baseline, baseline), (contest.arm, arm))
        ),
    )


def _picture(view: View, styles: Sequence[ArmStyle | None], contest: Contest, shown: str) -> Picture:
    names = ("reference", contest.baseline, contest.arm)
    absent = [label for label, mask in zip(names, view.masks, strict=True) if not np.any(mask)]
    note = f"; nothing here: {', '.join(absent)}" if absent else ""
    present = [label for label in names if label not in absent]
    return Picture(
        light=figures.slice_picture(view, styles),
        media_type="image/png",
        alt=f"{view.plane} slice of {shown}, outlines of {contest.class_name}: {', '.join(present) or 'none'}",
        caption=f"{view.plane}, {view.field_mm:.0f} mm wide{note}",
    )
