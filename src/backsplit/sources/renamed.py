"""Structures under other names, so that masks of several sources, or masks and label maps, say the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources.protocol import Masks, MaskSource


@dataclass(frozen=True, slots=True)
class RenamedSource:
    """A `MaskSource` that gives what another one gives; `rename` makes one."""

    source: MaskSource
    new_names: tuple[tuple[str, str], ...]
    """Old and new name."""

    @property
    def structures(self) -> tuple[str, ...]:
        """New names, in the order of label values."""
        return self._renamed(self.source.structures)

    @property
    def how(self) -> Mapping[str, Any]:
        """That of the source, and the names."""
        return {**self.source.how, "renamed": dict(self.new_names)}

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """Those of the source."""
        return self.source.inputs(case)

    def segment(self, case: Case, scratch: Path) -> Masks:
        """What the source finds."""
        masks = self.source.segment(case, scratch)
        return masks if masks.annotated is None else replace(masks, annotated=self._renamed(masks.annotated))

    def _renamed(self, names: Sequence[str]) -> tuple[str, ...]:
        table = dict(self.new_names)
        return tuple(table.get(name, name) for name in names)


def rename(source: MaskSource, pairs: Sequence[str]) -> MaskSource:
    """A source with other names for some of its structures.

    Args:
        source: whose structures are renamed.
        pairs: each `old=new`; none leaves the source as it is.

    Raises:
        SourceError: a pair that cannot be read, an old name that the source does not give, or one new name for two
            structures.
    """
    if not pairs:
        return source
    split = tuple((old, new) for old, _, new in (pair.partition("=") for pair in pairs))
    if wrong := [pair for pair, (old, new) in zip(pairs, split, strict=True) if not (old and new)]:
        raise SourceError(f"--rename takes old=new, got {', '.join(wrong)}")
    if unknown := [old for old, _ in split if old not in source.structures]:
        raise SourceError(
            f"--rename {', '.join(unknown)}: the source gives {', '.join(source.structures)}; rename one of these"
        )
    renamed = RenamedSource(source, split)
    if twice := sorted({name for name in renamed.structures if renamed.structures.count(name) > 1}):
        raise SourceError(f"--rename would call several structures {', '.join(twice)}; give each a name of its own")
    return renamed
