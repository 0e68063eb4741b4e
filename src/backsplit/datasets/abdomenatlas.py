"""AbdomenAtlas 1.0 Mini: nine organs on CT, for an organ model of one's own.

Layout: `BDMAP_00000001/{ct.nii.gz, combined_labels.nii.gz, segmentations/<organ>.nii.gz}`. Archives unpack at
different depths, so cases may lie up to two levels below the folder that is given. Version 1.1 has 25 classes under
other numbers.

Source:
    Qu et al., AbdomenAtlas-8K, NeurIPS 2023; label values as in nnU-Net's own converter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backsplit.datasets.download import Described, Listing
from backsplit.errors import CohortError, GeometryError, LabelError
from backsplit.labels import BACKGROUND
from backsplit.volume import Volume, read_grid, read_labels

ORGANS = (
    "aorta",
    "gall_bladder",
    "kidney_left",
    "kidney_right",
    "liver",
    "pancreas",
    "postcava",
    "spleen",
    "stomach",
)
PREFIX, DEPTH = "BDMAP_", 2


@dataclass(frozen=True, slots=True)
class FoundCase:
    """A case folder."""

    name: str
    image: Path
    combined: Path | None
    organs: tuple[Path, ...]
    """One mask per organ."""

    @property
    def files(self) -> tuple[Path, ...]:
        """CT, and what its labels are made from."""
        return (self.image, *(self.organs if self.combined is None else (self.combined,)))


@dataclass(frozen=True, slots=True)
class AbdomenAtlas:
    """The data set."""

    source: Path

    name = "abdomenatlas"
    channels = ("CT",)
    ignore = None
    label_names = tuple(enumerate((BACKGROUND, *ORGANS)))

    @property
    def how(self) -> Mapping[str, Any]:
        """Name of the converter; it has no options."""
        return {"data set": "abdomenatlas 1.0 Mini"}

    def find(self) -> Listing:
        """Case folders, in the order of their names.

        Raises:
            CohortError: there is none, or a name comes twice.
        """
        folders = sorted(_case_folders(self.source, DEPTH), key=lambda folder: folder.name)
        if not folders:
            raise CohortError(f"{self.source}: no folder BDMAP_00000001 in it or two levels below; unpack the archives")
        if twice := {a.name for a, b in pairwise(folders) if a.name == b.name}:
            raise CohortError(
                f"{self.source}: {sorted(twice)[0]} comes more than once; give the folder of one download"
            )
        return Listing([_found(folder) for folder in folders])

    def describe(self, found: FoundCase) -> Described:
        """Take the combined label map, or merge the masks in the order of their label values.

        Raises:
            CohortError: no CT, no labels, or a case of version 1.1.
            GeometryError: masks on different grids.
        """
        if not found.image.is_file():
            raise CohortError(f"{found.name}: no ct.nii.gz; download the case again")
        if foreign := sorted({_organ(path) for path in found.organs} - set(ORGANS)):
            raise CohortError(
                f"{found.name}: segmentations of {', '.join(foreign[:3])}: this is not version 1.0 Mini, whose organs "
                f"are {', '.join(ORGANS)}; version 1.1 numbers its classes otherwise"
            )
        if found.combined is not None:
            return Described((found.image,), found.combined, group=found.name)
        if not found.organs:
            raise CohortError(f"{found.name}: neither combined_labels.nii.gz nor segmentations/; download it again")
        labels, notes = _merged(found)
        missing = [name for name in ORGANS if name not in {_organ(path) for path in found.organs}]
        annotated = tuple(name for name in ORGANS if name not in missing) if missing else None
        return Described((found.image,), labels, group=found.name, annotated=annotated, notes=notes)

    def splits(self, names: Sequence[str], /) -> None:
        """There are none."""


def open_abdomenatlas(source: Path) -> AbdomenAtlas:
    """A download.

    Raises:
        CohortError: no such folder.
    """
    if not source.is_dir():
        raise CohortError(f"{source}: no such folder; expected the one that holds BDMAP_00000001")
    return AbdomenAtlas(source.resolve())


def _case_folders(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name.startswith(PREFIX):
            yield path
        elif path.is_dir() and depth:
            yield from _case_folders(path, depth - 1)


def _found(folder: Path) -> FoundCase:
    combined = folder / "combined_labels.nii.gz"
    organs = tuple(path for path in sorted(folder.glob("segmentations/*.nii.gz")) if path.name[0] != ".")
    return FoundCase(folder.name, folder / "ct.nii.gz", combined if combined.is_file() else None, organs)


def _organ(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _merged(found: FoundCase) -> tuple[Volume, tuple[str, ...]]:
    """Label map of single masks, a later organ over an earlier one; and how many voxels were contested."""
    grid = read_grid(found.image)
    labels, contested = np.zeros(grid.shape, np.uint8, order="F"), 0
    for path in sorted(found.organs, key=lambda path: ORGANS.index(_organ(path))):
        mask = read_labels(path)
        if difference := grid.difference(mask.grid):
            raise GeometryError(f"{found.name}: {path.name} is not on the grid of its CT: {difference}")
        if mask.voxels.max() > 1:
            raise LabelError(f"{found.name}: {path.name} has values up to {mask.voxels.max()}, expected 0 and 1")
        contested += int(np.count_nonzero(labels[mask.voxels > 0]))
        labels[mask.voxels > 0] = ORGANS.index(_organ(path)) + 1
    return Volume(labels, grid), (f"{contested} voxels of several organs",) if contested else ()
