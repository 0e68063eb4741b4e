"""Which training cases keep which auxiliary labels, drawn once and written down."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np

from backsplit.files import write_json
from backsplit.nnunet.arms import ArmSettings

RECORD_NAME = "annotation.json"

Annotation = Mapping[str, tuple[str, ...] | None]
"""Case name to the auxiliaries that its labels hold; None, or a case that is not named, means all."""


def draw_annotation(settings: ArmSettings, known: Annotation, training: Sequence[str]) -> Annotation:
    """What each case of a fold is annotated for in this arm.

    A `partial` arm keeps the auxiliary labels of `ceil(fraction * n)` of the n training cases. Cases are drawn in an
    order that depends on the seed alone, so that the cases of a smaller fraction are among those of a larger one.

    Args:
        settings: the arm.
        known: what the cohort says.
        training: names of the fold's training cases; other cases stay as the cohort has them.

    Returns:
        One entry for each case that lacks something.
    """
    order = np.random.default_rng((settings.seed, len(training))).permutation(sorted(training))
    stripped = order[ceil(settings.arm.fraction * len(order)) :].tolist()
    return {**known, **dict.fromkeys(stripped, ())}


def record(settings: ArmSettings, annotation: Annotation, training: Sequence[str], folder: Path) -> None:
    """Write the annotation of a fold's training cases beside its checkpoints."""
    cases = {name: annotation.get(name) for name in sorted(training)}
    listed = {name: list(settings.scheme.auxiliaries if kept is None else kept) for name, kept in cases.items()}
    content = {"fraction": settings.arm.fraction, "seed": settings.seed, "missing": settings.arm.missing}
    write_json({**content, "annotated": listed}, folder / RECORD_NAME)
