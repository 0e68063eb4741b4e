"""Left and right of one structure, told by their names, and the coarsening that joins them."""

import re

from backsplit.labels.coarsening import Coarsening
from backsplit.labels.scheme import LabelScheme

SIDE = re.compile(r"(?:(?<=[_\- ])|^)(?:left|right)(?:(?=[_\- ])|$)", re.IGNORECASE)


def without_side(name: str) -> str:
    """The name of a structure without its side: `kidney_left` and `Left kidney` become `kidney`, `rib_left_1` `rib_1`.

    A name that says no side, or nothing but a side, stays as it is.
    """
    parts = [part for part in re.split(r"([_\- ])", name) if not SIDE.fullmatch(part)]
    bare = re.sub(r"[_\- ]*([_\- ])", r"\1", "".join(parts)).strip("_- ")
    return bare or name


def merge_sides(scheme: LabelScheme) -> Coarsening:
    """The coarsening that joins left and right auxiliaries; targets and unpaired names stay.

    Training with mirrored images teaches a network that sides cannot be told apart, so classes that differ in nothing
    but their side can only compete with each other.
    """
    pairs: dict[str, int] = {}
    parent: list[int] = []
    for index, name in enumerate(scheme.names):
        key = without_side(name) if index > scheme.num_targets else name
        has_partner = key != name and sum(without_side(other) == key for other in scheme.auxiliaries) > 1
        unique = key if has_partner else f"{index}:{name}"
        parent.append(pairs.setdefault(unique, len(pairs)))
    return Coarsening(tuple(parent))
