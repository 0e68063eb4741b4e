"""Masks that lie in a folder already: one file per structure, or one label map with names per case.

`backsplit.sources.folder_files` says where files are looked for. A volume with several values above 0 is refused as the
mask of a structure: taking all of them as inside would be a guess, so images and label maps that lie beside the masks
are kept out by naming the structures. Names of a label map's values come from a table that is given, else from
`dataset.json` in the folder, else from the header of each file (TotalSegmentator's `--ml`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backsplit.arrays import Mask
from backsplit.cases import Case
from backsplit.errors import GeometryError, LabelError, SourceError
from backsplit.sources.folder_files import files_of
from backsplit.sources.label_tables import LabelTable, header_table, pick, read_table
from backsplit.sources.protocol import Masks
from backsplit.sources.structures import choose_structures
from backsplit.volume import Grid, Volume, read_grid, read_labels

TABLE_NAME = "dataset.json"


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Keeps to `MaskSource`. Where masks of one case overlap, the structure that comes first keeps the voxel."""

    root: Path
    structures: tuple[str, ...]
    table: LabelTable | None = None
    """Names of the values of label maps; None where each file has its own, or where every structure is a file."""

    @property
    def how(self) -> Mapping[str, Any]:
        """The tool, and the table that holds for all cases; whose masks these are is not known."""
        digest = self.table and hashlib.sha256(json.dumps(self.table).encode()).hexdigest()
        return {"tool": "folder", "table_sha256": digest, "licence": "not stated"}

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The image, for its grid, and the masks that are there now."""
        files = files_of(self.root, case.name)
        found = (files.masks[name] for name in self.structures if name in files.masks)
        return (case.images[0], *found, *(() if files.label_map is None else (files.label_map,)))

    def segment(self, case: Case, scratch: Path) -> Masks:  # noqa: ARG002  a folder needs no scratch space
        """Read the masks of one case; a structure without a file, or that the table lacks, is not annotated.

        Raises:
            SourceError: no mask of any of the structures, both layouts, or nothing that names the values.
            GeometryError: masks of the case lie on different grids.
            LabelError: values without a name, a fraction, or several values in the mask of one structure.
            VolumeError: a file that cannot be read.
        """
        files = files_of(self.root, case.name)
        table = () if files.label_map is None else self._table_of(case, files.label_map)
        known = {*files.masks, *(name for _, name in table)}
        annotated = tuple(name for name in self.structures if name in known)
        if not annotated:
            raise SourceError(
                f"{case.name}: no masks in {self.root}: expected {case.name}/<structure>.nii.gz or {case.name}.nii.gz, "
                f"with any of {', '.join(self.structures[:5])}; add them or leave the case out"
            )
        if files.label_map is None:
            volume, overlaps = _merge(case, {name: files.masks[name] for name in annotated}, self.structures)
        else:
            volume, overlaps = _named(case, files.label_map, table, self.structures), Counter()
        return Masks(volume, annotated, {"overlaps": dict(overlaps)})

    def _table_of(self, case: Case, path: Path) -> LabelTable:
        table = self.table or header_table(path)
        if table is None:
            raise SourceError(f"{case.name}: nothing names the values of {path.name}; give a table of labels (--table)")
        return table


def open_folder(
    root: Path, *, case_names: Sequence[str], structures: Sequence[str] | None, table: Path | None, force: bool
) -> FolderSource:
    """Find out which structures a folder has masks of.

    Args:
        root: folder of masks.
        case_names: cases of the cohort; other entries of the folder are left alone.
        structures: which to take, in this order; None takes all that are no lesions, sorted by name.
        table: JSON with the names of label values; None looks for `dataset.json` and into the headers.
        force: take lesions too.

    Raises:
        SourceError: no such folder, no mask of any case, cases in both layouts, a table that cannot be read or that
            has nothing to name, or structures that are not there, come twice or are lesions.
        LabelError: a table that contradicts itself.
    """
    root = root.resolve()
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder of masks; check the path")
    files = [files_of(root, name) for name in case_names]
    label_maps = [each.label_map for each in files if each.label_map is not None]
    masks = sorted({name for each in files for name in each.masks})
    if bool(masks) == bool(label_maps):
        came = "both are there" if masks else f"there is neither for any of {len(files)} cases"
        raise SourceError(
            f"{root}: expected either <case>/<structure>.nii.gz or <case>.nii.gz, but {came}; give the folder that "
            "holds the masks, with the case names of the cohort"
        )
    if masks and table is not None:
        raise SourceError(f"{root}: one file per structure is named by its file; leave the table {table} out")
    names = _table_for(root, table) if label_maps else None
    available = masks or sorted({name for each in _tables(root, names, label_maps) for _, name in each})
    return FolderSource(root, choose_structures(available, structures, force=force), names)


def _table_for(root: Path, table: Path | None) -> LabelTable | None:
    path = table or root / TABLE_NAME
    return read_table(path) if table or path.is_file() else None


def _tables(root: Path, names: LabelTable | None, label_maps: Sequence[Path]) -> list[LabelTable]:
    tables = [names] if names else [each for each in map(header_table, label_maps) if each]
    if not tables:
        raise SourceError(f"{root}: nothing names the values of its label maps; give a table of labels (--table)")
    return tables


def _named(case: Case, path: Path, table: LabelTable, structures: Sequence[str]) -> Volume:
    volume = read_labels(path)
    return Volume(pick(volume.voxels, table, structures, origin=f"{case.name}: {path.name}"), volume.grid)


def _merge(case: Case, masks: Mapping[str, Path], structures: Sequence[str]) -> tuple[Volume, Counter[str]]:
    """One label map of several masks, read one after another, and the voxels of each `winner>loser`."""
    grid = _common_grid(case, list(masks.values()))
    labels = np.zeros(grid.shape, np.min_scalar_type(len(structures)), order="F")  # as volumes are read
    overlaps: Counter[str] = Counter()
    for name, path in masks.items():
        mask = _mask(case, path)
        for winner, count in enumerate(np.bincount(labels[mask]).tolist()):
            if winner and count:
                overlaps[f"{structures[winner - 1]}>{name}"] = count
        labels[mask & (labels == 0)] = structures.index(name) + 1
    return Volume(labels, grid), overlaps


def _mask(case: Case, path: Path) -> Mask:
    voxels = read_labels(path).voxels
    mask = voxels != 0
    inside = voxels[mask]
    if inside.size and inside.min() != inside.max():
        raise LabelError(
            f"{case.name}: {path.name} has values from {inside.min()} to {inside.max()} besides 0, expected one value: "
            "the mask of one structure; if it is an image or a label map, name the structures to take (--structures)"
        )
    return mask


def _common_grid(case: Case, paths: Sequence[Path]) -> Grid:
    """The grid of all masks; where they differ, the image's or else the most frequent one is taken to be right."""
    groups: list[tuple[Grid, list[Path]]] = []
    for path in paths:
        grid = read_grid(path)
        same = next((members for other, members in groups if other.difference(grid) is None), None)
        if same is None:
            groups.append((grid, [path]))
        else:
            same.append(path)
    image = read_grid(case.images[0])
    right, *wrong = sorted(groups, key=lambda group: (image.difference(group[0]) is not None, -len(group[1])))
    if wrong:
        grid, members = wrong[0]
        raise GeometryError(
            f"{case.name}: {', '.join(path.name for path in members[:5])} on another grid than {right[1][0].name} and "
            f"{len(right[1]) - 1} more: {grid.difference(right[0])}; it may be of another scan; take it away, or name "
            "the structures to take (--structures)"
        )
    return right[0]
