"""How plausible masks are, with and without a reference."""

from collections.abc import Sequence
from typing import Any

from backsplit.arrays import LabelMap
from backsplit.volume import Volume


def measure(
    masks: Volume, structures: Sequence[str], own: LabelMap | None, label_names: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Numbers of one case for its record."""
    raise NotImplementedError
