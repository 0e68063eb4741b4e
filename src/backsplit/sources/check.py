"""Masks against a reference: the paper's Tables 5 and 6."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from backsplit.arrays import LabelMap
from backsplit.cases import OWN_LABELS, Case, CaseMasks, Cohort
from backsplit.errors import GeometryError, SourceError
from backsplit.evaluation import Overlap, dice
from backsplit.progress import track
from backsplit.sources.label_tables import pick
from backsplit.sources.reference import Reference
from backsplit.volume import read_labels

BOTH_EMPTY = "both empty"
NO_MASKS = "not in the masks"
NO_REFERENCE = "not in the reference"
_COLUMNS = ("case", "structure", "dice", "mask_voxels", "reference_voxels", "undefined")


def check(cohort: Cohort, name: str, reference: Reference) -> pd.DataFrame:
    """Dice of a mask set against a reference, for the structures that both have by the same name.

    Args:
        cohort: with the masks.
        name: of the mask set.
        reference: the cohort's own label maps, or another mask set.

    Returns:
        One row per case and structure: `dice` in [0, 1], NaN where it is undefined; `mask_voxels` and
        `reference_voxels`, NaN where the case is not annotated for the structure; `undefined` says why Dice is so:
        `both empty`, or `not in the masks`, `not in the reference` where the case has none or is not annotated for the
        structure there; empty where it is defined.

    Raises:
        CohortError: no masks of that name.
        SourceError: no structure in common.
        LabelError: a value without a name.
        GeometryError: masks and reference of a case are on different grids.
    """
    known = cohort.mask_set(name).structures
    structures = tuple(structure for structure in known if structure in reference.names)
    if not structures:
        raise SourceError(
            f"{cohort.name}: masks {name!r} and reference {reference.name!r} have no structure in common: "
            f"{', '.join(known[:10])} against {', '.join(reference.names[:10])}; names must be equal"
        )
    rows = []
    for case in track(cohort.cases, "checked"):
        rows += _rows(case, case.masks_of(name), known, reference, structures)
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def summarise_check(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up `check` by structure.

    Returns:
        `structure` in order of appearance, `num_cases`, `num_undefined`, and over the cases where Dice is defined
        `mean_dice` and `sd_dice` (divisor n - 1): NaN without one, and the SD of one is NaN.
    """
    groups = table.groupby("structure", sort=False)["dice"]
    columns = {"num_cases": groups.size(), "num_undefined": groups.size() - groups.count()}
    return pd.DataFrame({**columns, "mean_dice": groups.mean(), "sd_dice": groups.std()}).reset_index()


def _rows(
    case: Case,
    masks: CaseMasks | None,
    known: Sequence[str],
    reference: Reference,
    structures: Sequence[str],
) -> list[dict[str, str | float]]:
    has_reference = case.labels is not None if reference.name == OWN_LABELS else case.masks_of(reference.name)
    in_masks = set() if masks is None else set(known if masks.annotated is None else masks.annotated)
    in_reference = set(reference.annotated(case)) if has_reference else set()
    reasons = [
        NO_MASKS if name not in in_masks else NO_REFERENCE if name not in in_reference else "" for name in structures
    ]
    overlaps: Sequence[Overlap | None] = [None] * len(structures)
    if masks is not None and "" in reasons:
        overlaps = _overlaps(case, masks, known, reference, structures)
    return [_row(case.name, *row) for row in zip(structures, reasons, overlaps, strict=True)]


def _row(case: str, structure: str, reason: str, overlap: Overlap | None) -> dict[str, str | float]:
    if reason or overlap is None:
        numbers = dict.fromkeys(("dice", "mask_voxels", "reference_voxels"), math.nan)
        return {"case": case, "structure": structure, **numbers, "undefined": reason}
    return {
        "case": case,
        "structure": structure,
        "dice": dice(overlap),
        "mask_voxels": overlap.num_prediction,
        "reference_voxels": overlap.num_reference,
        "undefined": "" if overlap.num_prediction or overlap.num_reference else BOTH_EMPTY,
    }


def _overlaps(
    case: Case, masks: CaseMasks, known: Sequence[str], reference: Reference, structures: Sequence[str]
) -> list[Overlap]:
    """Of each structure; voxels are counted once for all."""
    prediction, truth = read_labels(masks.path), reference.read(case)
    if difference := truth.grid.difference(prediction.grid):
        raise GeometryError(
            f"{case.name}: reference {reference.name!r} and masks {masks.source!r} are on different grids: "
            f"{difference}; annotate it again with --resample"
        )
    table = tuple(enumerate(known, start=1))
    first = pick(prediction.voxels, table, structures, origin=f"{case.name}: {masks.path.name}")
    second = pick(truth.voxels, reference.classes, structures, origin=f"{case.name}: {reference.path(case).name}")
    num_both = _counts(np.where(first == second, first, 0), len(structures))
    pairs = zip(num_both, _counts(first, len(structures)), _counts(second, len(structures)), strict=True)
    return [Overlap(*map(int, counts)) for counts in pairs]


def _counts(labels: LabelMap, largest: int) -> Int[np.ndarray, " values"]:
    """Voxels of each value from 1 up, plane by plane, because `bincount` widens its argument to 64 bits."""
    counts = np.zeros(largest + 1, int)
    for plane in labels.T:
        counts += np.bincount(plane.ravel(), minlength=largest + 1)
    return counts[1:]
