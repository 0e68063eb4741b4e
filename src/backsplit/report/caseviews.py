"""One case for the browser: volumes, and where its findings are."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backsplit.arrays import LabelMap
from backsplit.cases import Case
from backsplit.errors import CohortError, GeometryError
from backsplit.evaluation import Scoring
from backsplit.evaluation.boxes import Box, bounding_box, joint_boxes
from backsplit.labels import LabelScheme, clear_ignored
from backsplit.report import webvolumes
from backsplit.report.findings import Finding, findings, target_box
from backsplit.report.palette import ArmStyle
from backsplit.volume import Grid, Volume, read_labels, read_volume

POSTERIORS = "probabilities"
"""Folder beside the masks of an arm, with `<case>_<label value>.nii.gz` from 0 to 255, where they were asked for."""
MAP_STEPS = 255
"""Posteriors lie in files as 0 to so many; the browser is given all maps so."""
LONGEST_ID = 60


@dataclass(frozen=True, slots=True)
class Sight:
    """What is shown of every case, and how."""

    scheme: LabelScheme
    channels: tuple[str, ...]
    ignore: int | None
    folders: Mapping[str, Path]
    """Masks by arm."""
    styles: Mapping[str, ArmStyle]
    scoring: Scoring
    information: Mapping[str, Path] = field(default_factory=dict)
    """Folders of maps of lost information, by the arm whose logits they are about."""


@dataclass(frozen=True, slots=True)
class CaseView:
    """What the page is given when a case is opened, and when the whole volume is asked for; both become JSON."""

    first: dict[str, Any]
    whole: dict[str, Any] | None
    """None where the first view is the whole volume."""


@dataclass(frozen=True, slots=True)
class _Map:
    """A file of numbers on the grid of the image; `most` stands for 1."""

    kind: str
    name: str
    path: Path
    most: float
    remedy: str


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """The files of a case."""

    grid: Grid
    images: list[np.ndarray]
    reference: LabelMap
    predictions: dict[str, LabelMap]


def safe_id(name: str) -> str:
    """A name that is a file name, an element id and part of an address everywhere; different names stay different.

    Names that change get eight digits of their hash.
    """
    kept = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:LONGEST_ID]
    return kept if kept == name else f"{kept or 'case'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def files_of(case: Case, sight: Sight) -> list[Path]:
    """Every file that the view of a case is made of."""
    masks = [folder / f"{case.name}.nii.gz" for folder in sight.folders.values()]
    labels = [] if case.labels is None else [case.labels]
    return [*case.images, *labels, *masks, *(each.path for each in _maps(case, sight))]


def case_view(case: Case, sight: Sight) -> CaseView:
    """Read a case and prepare it for the browser.

    Raises:
        CohortError: no reference labels.
        GeometryError: images, labels or predictions on different grids.
        VolumeError: a file is missing or unreadable.
    """
    loaded = _load(case, sight)
    found = _findings(loaded, sight)
    box = _box(loaded, found, sight)
    combined = webvolumes.combine([loaded.reference, *loaded.predictions.values()])
    grid = webvolumes.crop_grid(loaded.grid, box)
    told = {"id": safe_id(case.name), "rows": combined.rows}
    looks = [_look(image, channel) for image, channel in zip(loaded.images, sight.channels, strict=True)]
    first = {
        **told,
        **_geometry(grid),
        "start": [part.start for part in box],
        "images": [
            {**look, "data": webvolumes.packed(webvolumes.quantise(image[box], look["knots"]))}
            for image, look in zip(loaded.images, looks, strict=True)
        ],
        "labels": _labels(combined.index[box]),
        "maps": [_packed_map(each, box, loaded.grid) for each in _maps(case, sight)],
        "findings": [_told(finding, loaded.grid, box) for finding in found],
    }
    return CaseView(first, None if grid.shape == loaded.grid.shape else told | _whole(loaded, looks, combined.index))


def _load(case: Case, sight: Sight) -> _Loaded:
    if case.labels is None:
        raise CohortError(f"{case.name}: no reference labels to show; run `backsplit compose` on the cohort")
    images = [read_volume(path) for path in case.images]
    grid = images[0].grid
    paths = {arm: folder / f"{case.name}.nii.gz" for arm, folder in sight.folders.items()}
    reference, *predicted = (read_labels(path) for path in (case.labels, *paths.values()))
    checked: list[tuple[Path, Volume]] = [
        *zip(case.images, images, strict=True),
        (case.labels, reference),
        *zip(paths.values(), predicted, strict=True),
    ]
    for path, volume in checked:
        if difference := volume.grid.difference(grid):
            raise GeometryError(
                f"{path}: not on the grid of its image: {difference}; predict or compose the case again"
            )
    maps = dict(zip(paths, (volume.voxels for volume in predicted), strict=True))
    return _Loaded(grid, [image.voxels for image in images], reference.voxels, maps)


def _findings(loaded: _Loaded, sight: Sight) -> tuple[Finding, ...]:
    reference, *predicted = clear_ignored(loaded.reference, *loaded.predictions.values(), ignore=sight.ignore)
    return findings(
        reference,
        dict(zip(loaded.predictions, predicted, strict=True)),
        dict(enumerate(sight.scheme.targets, start=1)),
        loaded.grid,
        min_voxels=sight.scoring.smallest_lesion(loaded.grid.spacing_mm),
    )


def _box(loaded: _Loaded, found: Sequence[Finding], sight: Sight) -> Box:
    """Around all lesions and all that was predicted, else the reference alone, else its largest lesion's middle."""
    referred = target_box(loaded.reference, sight.scheme.num_targets)
    everything = joint_boxes([referred, *map(bounding_box, loaded.predictions.values())])
    largest = max(found, key=lambda each: (each.false_of is None, each.ml), default=None)
    middles = [] if largest is None else [_single(largest.voxel)]
    wishes = [everything, referred, *middles]
    return webvolumes.view_box(loaded.grid.shape, loaded.grid.spacing_mm, wishes, limit=webvolumes.MOST_VOXELS)


def _single(voxel: tuple[int, int, int]) -> Box:
    x, y, z = (slice(index, index + 1) for index in voxel)
    return x, y, z


def _look(image: np.ndarray, channel: str) -> dict[str, Any]:
    return {"channel": channel, **asdict(webvolumes.look_of(image, channel))}


def _geometry(grid: Grid) -> dict[str, Any]:
    return {"shape": grid.shape, "spacing": grid.spacing_mm, "matrix": webvolumes.ras_matrix(grid).tolist()}


def _labels(index: np.ndarray) -> dict[str, Any]:
    return {"bytes": index.dtype.itemsize, "data": webvolumes.packed(index)}


def _packed_map(shown: _Map, box: Box, grid: Grid) -> dict[str, Any]:
    volume = read_volume(shown.path)
    if difference := volume.grid.difference(grid):
        raise GeometryError(f"{shown.path}: not on the grid of its image: {difference}; {shown.remedy} again")
    greys = np.rint(np.clip(volume.voxels[box] / shown.most, 0, 1) * MAP_STEPS).astype(np.uint8)
    return {"kind": shown.kind, "name": shown.name, "data": webvolumes.packed(greys)}


def _maps(case: Case, sight: Sight) -> list[_Map]:
    """Posteriors of the targets and maps of lost information, those that there are."""
    posteriors = (
        _Map(
            "posterior",
            f"posterior of {name}, {arm}",
            folder / POSTERIORS / f"{case.name}_{value:04}.nii.gz",
            MAP_STEPS,
            "predict the case",
        )
        for arm, folder in sight.folders.items()
        for value, name in enumerate(sight.scheme.targets, start=1)
    )
    lost = (
        _Map(
            "information",
            f"lost information, {arm}",
            folder / f"{case.name}.nii.gz",
            1,
            f"run `backsplit fisher {arm}`",
        )
        for arm, folder in sight.information.items()
    )
    return [each for each in (*posteriors, *lost) if each.path.is_file()]


def _told(finding: Finding, grid: Grid, box: Box) -> dict[str, Any]:
    place = webvolumes.ras_matrix(grid) @ (*finding.voxel, 1)
    return {
        "class": finding.class_name,
        "number": finding.number,
        "voxel": finding.voxel,
        "mm": [round(float(mm), 4) for mm in place[:3]],
        "ml": finding.ml,
        "dice": dict(finding.dice),
        "false_of": finding.false_of,
        "inside": all(part.start <= index < part.stop for index, part in zip(finding.voxel, box, strict=True)),
    }


def _whole(loaded: _Loaded, looks: Sequence[dict[str, Any]], index: np.ndarray) -> dict[str, Any]:
    """Masks as they are; images averaged over blocks, which the browser repeats."""
    limit = webvolumes.MOST_OVERVIEW_VOXELS // len(looks)
    steps = webvolumes.overview_steps(loaded.grid.shape, loaded.grid.spacing_mm, limit=limit)
    images = []
    for image, look in zip(loaded.images, looks, strict=True):
        coarse = webvolumes.quantise(webvolumes.averaged(image, steps), look["knots"])
        images.append({**look, "shape": coarse.shape, "steps": steps, "data": webvolumes.packed(coarse)})
    return {**_geometry(loaded.grid), "start": [0, 0, 0], "images": images, "labels": _labels(index), "maps": []}
