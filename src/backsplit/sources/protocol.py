"""What every source of masks keeps to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backsplit.cases import Case
from backsplit.volume import Volume


@dataclass(frozen=True, slots=True)
class Masks:
    """What a source found in one case."""

    volume: Volume
    """Label map: 0 nothing, value `i + 1` is `structures[i]` of the source. On the grid of the source's own output; the
    runner compares it with the grid of the image."""
    annotated: tuple[str, ...] | None = None
    """Structures that were looked for; None means all. One that was looked for and not found is annotated and empty."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON for the case's record: overlaps that were settled, clicks, versions that only the tool's report knows."""
    intermediate: Mapping[str, Volume] = field(default_factory=dict)
    """More label maps of the same structures, by a word that file names can hold, such as `3-clicks`. They become mask
    sets of their own, `<name>-3-clicks`."""


@runtime_checkable
class MaskSource(Protocol):
    """A way to get masks.

    Instances are frozen dataclasses that pickle: cases are done in worker processes, which get one copy each. What is
    expensive to load is loaded on first use (`functools.cached_property`), so once per worker.
    """

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of what it gives, in the order of label values; the same for all cases."""
        ...

    @property
    def how(self) -> Mapping[str, Any]:
        """JSON, the same for all cases: tool, version, weights (SHA-256), licence, options, seed; no path, no time.

        Masks made with another `how` are never mixed with these.
        """
        ...

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """Files that the masks of a case are made from; when one changes, the case is done again."""
        ...

    def segment(self, case: Case, scratch: Path) -> Masks:
        """The masks of one case.

        Args:
            case: what to segment.
            scratch: empty folder of this case, removed afterwards.

        Raises:
            SourceError: the tool failed; the message ends with its own last lines.
            BackSplitError: the case cannot be used.
        """
        ...
