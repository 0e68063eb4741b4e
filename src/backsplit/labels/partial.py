"""What a case annotates decides which classes its labels can tell apart."""

from collections.abc import Iterable

import numpy as np

from backsplit.arrays import LabelMap
from backsplit.labels.coarsening import Coarsening, into_background
from backsplit.labels.scheme import LabelScheme


def coarsening_of_case(scheme: LabelScheme, annotated: Iterable[str] | None) -> Coarsening:
    """The coarsening that a case's label map has been through.

    A voxel labelled background in a case without heart masks is "background or heart": the two form one block. The
    likelihood of the case is that of its blocks, `-log sum_{k in block(y)} p_k`.

    Args:
        scheme: all fine classes of the study.
        annotated: auxiliary classes whose masks the case has; targets count as annotated. None means all.

    Raises:
        LabelError: a name is not in the scheme.
    """
    if annotated is None:
        return into_background((), num_fine=scheme.num_classes)
    known = {*scheme.indices(annotated), *range(scheme.num_targets + 1)}
    return into_background(set(range(scheme.num_classes)) - known, num_fine=scheme.num_classes)


def clear_ignored(reference: LabelMap, *others: LabelMap, ignore: int | None) -> tuple[LabelMap, ...]:
    """Label maps with background wherever nobody annotated, so that such voxels count neither for nor against.

    Args:
        reference: map that says where that is.
        others: maps on the same grid, such as predictions.
        ignore: value of such voxels in `reference`; None if there are none.
    """
    if ignore is None:
        return (reference, *others)
    is_ignored = reference == ignore
    return tuple(np.where(is_ignored, 0, labels).astype(labels.dtype) for labels in (reference, *others))
