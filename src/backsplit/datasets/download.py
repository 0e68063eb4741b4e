"""What a converter says about a data set as it was downloaded; `conversion` does the rest.

A converter finds cases and describes one at a time. It never writes: voxels that the download does not hold in a form
that can be trained on are returned as volumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from backsplit.cases import DroppedCase
from backsplit.errors import CohortError, GeometryError
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
class FoundFiles:
    """A case, where its files should be."""

    name: str
    images: tuple[Path, ...]
    labels: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, then the label map if there is one."""
        return self.images if self.labels is None else (*self.images, self.labels)


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
    unknown_if_absent: tuple[str, ...] = ()
    """Classes that count as not looked for where the label map has no voxel of them."""
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
    def ignore(self) -> int | None:
        """Label value of voxels that nobody annotated; None if there are none."""
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


def stems(folder: Path, file_ending: str) -> set[str]:
    """Names of the files with an ending, without it; hidden files are no files of the data set.

    Raises:
        CohortError: no such folder.
    """
    if not folder.is_dir():
        raise CohortError(f"{folder}: no such folder; check the folder of the download")
    names = (path.name for path in folder.iterdir())
    return {name.removesuffix(file_ending) for name in names if name.endswith(file_ending) and name[0] != "."}


def folder_with(name: str, source: Path, *, depth: int) -> Path:
    """The folder that holds a folder of this name: the source, or one up to `depth` levels below it.

    Raises:
        CohortError: none, or several.
    """
    level = [source.resolve()]
    for _ in range(depth + 1):
        found = [folder for folder in level if (folder / name).is_dir()]
        if len(found) == 1:
            return found[0]
        if found:
            raise CohortError(f"{source}: {len(found)} folders with {name}, such as {found[0]}; give one of them")
        level = [path for folder in level if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_dir()]
    raise CohortError(f"{source}: no folder {name} in it or {depth} levels below; give the folder of the download")


def _grid_of(part: Path | Volume) -> Grid:
    return read_grid(part) if isinstance(part, Path) else part.grid


def _told(part: Path | Volume) -> str:
    return str(part) if isinstance(part, Path) else "a volume made of the download"


def check_files(found: FoundFiles, channels: Sequence[str]) -> None:
    """See that the files of a case are there.

    Raises:
        CohortError: one is missing, or there is not one image per channel.
    """
    if len(found.images) != len(channels):
        raise CohortError(f"{found.name}: {len(found.images)} images, expected one for each of {', '.join(channels)}")
    for image, channel in zip(found.images, channels, strict=True):
        if not image.is_file():
            raise CohortError(f"{found.name}: no image of channel {channel}, expected {image}; add it or drop the case")
    if found.labels is not None and not found.labels.is_file():
        raise CohortError(f"{found.name}: no label map, expected {found.labels}; add it or drop the case")
