"""What a converter says about a data set as it was downloaded; `conversion` does the rest.

A converter finds cases and describes one at a time. It never writes: voxels that the download does not hold in a form
that can be trained on are returned as volumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from backsplit.cases import DroppedCase
from backsplit.errors import GeometryError
from backsplit.volume import Grid, Volume, read_grid


@runtime_checkable
class Found(Protocol):
    """A case that a download holds. Pickles; made without reading voxels."""

    @property
    def name(self) -> str:
        """Name of the case in the cohort."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """All files that the case is made from; one that changes means converting the case again."""
        ...


FoundT_contra = TypeVar("FoundT_contra", bound=Found, contravariant=True)


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases of a download, and those that cannot be used, as far as that shows without reading voxels."""

    found: Sequence[Found]
    dropped: Sequence[DroppedCase] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """One case: files of the download that are taken as they are, or volumes that have to be written."""

    images: tuple[Path | Volume, ...]
    """One per channel, on one grid."""
    labels: Path | Volume | None
    """Label map with the values of the download's `label_names`, on the grid of the images."""
    group: str
    """Patient."""
    annotated: tuple[str, ...] | None = None
    """Classes that were looked for in this case, targets included; None means all."""
    notes: tuple[str, ...] = ()
    """What was mended on the way, one clause each."""


@runtime_checkable
class Download(Protocol[FoundT_contra]):
    """One data set. Pickles, because cases are described in other processes.

    Every method may raise any `BackSplitError`: `find` where the download as a whole is unusable, `describe` where one
    case is, which then is dropped while the others go on.
    """

    @property
    def name(self) -> str:
        """Name of the cohort, unless the user gives another."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """What each image is, as nnU-Net names it."""
        ...

    @property
    def label_names(self) -> tuple[tuple[int, str], ...]:
        """Label value and class name, 0 (background) first."""
        ...

    @property
    def how(self) -> Mapping[str, Any]:
        """Name of the converter and every option that changes what comes out, as JSON; goes into the provenance."""
        ...

    def find(self) -> Listing:
        """List the cases, in the order of their names."""
        ...

    def describe(self, found: FoundT_contra) -> Described:
        """Read what the case needs, and check it."""
        ...

    def splits(self, names: Sequence[str], /) -> list[dict[str, list[str]]] | None:
        """Official folds over the cases of these names, in the form of nnU-Net's `splits_final.json`; None if none."""
        ...


def common_grid(parts: Sequence[Path | Volume]) -> Grid:
    """The grid that images and labels of a case share; of files the header alone is read.

    Raises:
        GeometryError: they lie on several.
        VolumeError: a header that cannot be read.
    """
    first = parts[0]
    grid = _grid_of(first)
    for part in parts[1:]:
        if difference := grid.difference(_grid_of(part)):
            raise GeometryError(
                f"{_told(first)} and {_told(part)} are not on one grid: {difference}; they may be of different scans, "
                "else resample one to the other"
            )
    return grid


def _grid_of(part: Path | Volume) -> Grid:
    return read_grid(part) if isinstance(part, Path) else part.grid


def _told(part: Path | Volume) -> str:
    return str(part) if isinstance(part, Path) else "a volume made of the download"
