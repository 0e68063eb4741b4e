"""Which auxiliary classes are worth labelling: up to four shares per class, a rank, and the reason in words.

Source:
    The heuristics of Saluja et al., arXiv 2511.19394, supplement B, as measured shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from backsplit.errors import CohortError, GeometryError
from backsplit.labels import LabelScheme, count_labels
from backsplit.selection.false_alarms import false_alarms
from backsplit.selection.greedy import Turn
from backsplit.selection.surroundings import Surroundings, surroundings
from backsplit.volume import Volume

LEAST_SCORE = 0.05
"""A class is recommended from this share on: of the lesions' surface, of their volume, of the false
alarms, or of the target's variance."""
COLUMNS = (
    *("rank", "class", "score", "contact", "containment", "false_alarms", "volume", "drop", "drop_alone", "turn"),
    *("num_cases", "num_lesions", "recommended", "reason"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What one case says about the auxiliary classes. Arrays are indexed by fine class."""

    annotated: frozenset[str]
    """Auxiliary classes that were looked for in the case; the others are left out of its means."""
    lesions: tuple[Surroundings, ...]
    """Of each target."""
    voxels_ml: np.ndarray
    """Volume of each class."""
    false_alarms_ml: np.ndarray | None
    """Volume of a binary baseline's false alarms in or beside each class; None without a baseline."""


def gather(
    labels: Volume, scheme: LabelScheme, *, annotated: Sequence[str] | None = None, prediction: Volume | None = None
) -> Evidence:
    """Look at one case.

    Args:
        labels: fine label map.
        scheme: its classes.
        annotated: auxiliary classes that were looked for; None means all.
        prediction: target-only mask of a binary baseline that was not trained on the case.

    Raises:
        GeometryError: labels and prediction lie on different grids.
    """
    lesions = tuple(
        surroundings(labels.voxels, target, num_fine=scheme.num_classes, spacing_mm=labels.grid.spacing_mm)
        for target in range(1, scheme.num_targets + 1)
    )
    counts = count_labels(labels.voxels)
    voxels = np.array([counts.get(fine, 0) for fine in range(scheme.num_classes)])
    wrong = None
    if prediction is not None:
        if difference := labels.grid.difference(prediction.grid):
            raise GeometryError(f"labels and prediction lie on different grids: {difference}; predict the case again")
        sizes = {"num_targets": scheme.num_targets, "num_fine": scheme.num_classes}
        wrong = false_alarms(labels.voxels, prediction.voxels > 0, **sizes) * labels.grid.voxel_ml
    known = frozenset(scheme.auxiliaries if annotated is None else annotated)
    return Evidence(known, lesions, voxels * labels.grid.voxel_ml, wrong)


def rank(evidence: Sequence[Evidence], scheme: LabelScheme, turns: Mapping[str, Turn] | None = None) -> pd.DataFrame:
    """Rank the auxiliary classes of a scheme, best first.

    The score of a class is the largest of four shares, so that one good reason is enough: `contact`, the mean over
    lesions of the share of their surface area that faces the class; `containment`, the mean share of a lesion inside
    the class once its holes are filled; `false_alarms`, the share of a binary baseline's false alarms in or beside the
    class, which counts where it is above `volume`, the class's share of all that is no target: a large class collects
    false alarms by its size alone; `drop`, the share of the target's variance that the class takes off at its
    `turn` of a walk that takes up the most useful class first, `drop_alone` what it takes off as the only one.

    Args:
        evidence: of the cases.
        scheme: its classes.
        turns: by class, from a model that tells the classes apart; see `forward_greedy`.

    Returns:
        One row per auxiliary, with `COLUMNS`; `false_alarms` is NaN without a baseline, `drop`, `drop_alone` and
        `turn` without a model, or where the model does not tell the class apart.

    Raises:
        CohortError: no case has a lesion.
    """
    if not sum(len(each.voxels) for one in evidence for each in one.lesions):
        raise CohortError("no case has a voxel of a target, so nothing lies around lesions; check the label maps")
    rows = [_row(evidence, scheme, name, (turns or {}).get(name)) for name in scheme.auxiliaries]
    table = pd.DataFrame(rows).sort_values(["score", "contact"], ascending=False, kind="stable")
    return table.assign(rank=range(1, len(table) + 1))[list(COLUMNS)].reset_index(drop=True)


def _row(
    evidence: Sequence[Evidence], scheme: LabelScheme, name: str, turn: Turn | None
) -> dict[str, float | int | str | bool]:
    value = scheme.index(name)
    known = [each for each in evidence if name in each.annotated]
    lesions = [each for one in known for each in one.lesions if len(each.voxels)]
    contact = _mean([each.contact[:, value] for each in lesions])
    containment = _mean([each.containment[:, value] for each in lesions])
    false_alarms, volume = _false_alarms(known, scheme, value)
    reasons = {
        f"{contact:.0%} of the lesions' surface": contact,
        f"holds {containment:.0%} of the lesions": containment,
        f"{false_alarms:.0%} of the false alarms in or beside it, {volume:.1%} of the volume": (
            false_alarms if false_alarms > volume else 0.0
        ),
    }
    if turn is not None:
        reasons[f"takes {turn.drop:.0%} off the target's variance, at turn {turn.number}"] = turn.drop
    best = max(reasons, key=lambda reason: reasons[reason])
    return {
        "class": name,
        "score": reasons[best],
        "contact": contact,
        "containment": containment,
        "false_alarms": false_alarms,
        "volume": volume,
        "drop": np.nan if turn is None else turn.drop,
        "drop_alone": np.nan if turn is None else turn.drop_alone,
        "turn": np.nan if turn is None else turn.number,
        "num_cases": len(known),
        "num_lesions": sum(len(each.voxels) for each in lesions),
        "recommended": reasons[best] >= LEAST_SCORE,
        "reason": best if reasons[best] >= LEAST_SCORE else _nothing(turn),
    }


def _nothing(turn: Turn | None) -> str:
    told = "far from the lesions, and few false alarms"
    return told if turn is None else f"{told}; {turn.drop:.1%} off the target's variance"


def _mean(shares: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(shares).mean()) if shares else 0.0


def _false_alarms(known: Sequence[Evidence], scheme: LabelScheme, value: int) -> tuple[float, float]:
    """Shares of a class: of the false alarms, and in the volume of all that is no target."""
    others = [0, *range(scheme.num_targets + 1, scheme.num_classes)]
    volumes = np.sum([each.voxels_ml for each in known], axis=0) if known else np.zeros(scheme.num_classes)
    volume = float(volumes[value] / volumes[others].sum()) if known else 0.0
    seen = [each.false_alarms_ml for each in known if each.false_alarms_ml is not None]
    if not seen:
        return np.nan, volume
    wrong = np.sum(seen, axis=0)
    return float(wrong[value] / wrong.sum()) if wrong.sum() else 0.0, volume
