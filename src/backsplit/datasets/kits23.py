"""KiTS23: kidneys, kidney tumours and kidney cysts on CT.

Layout: `dataset/case_00000/{imaging.nii.gz, segmentation.nii.gz, instances/}`, cases 0 to 299 and 400 to 588. The
repository holds the labels; its own download command adds the images. A flat folder of `case_00000.nii.gz` label maps
will do too. Axes run down, to the back and to the left, and stay so.

Source:
    Heller et al., arXiv 2307.01984; github.com/neheller/kits23.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backsplit.cases import DroppedCase
from backsplit.datasets.download import Described, Listing
from backsplit.datasets.phantom.surroundings import draw_around_kidneys
from backsplit.errors import CohortError, ConfigurationError, GeometryError
from backsplit.labels import BACKGROUND, Coarsening
from backsplit.resampling import resample_labels
from backsplit.volume import Volume, read_grid, read_labels

NUM_CASES = 489
CASE = re.compile(r"case_\d{5}")
INSTANCE = re.compile(r"(?P<kind>kidney|tumor|cyst)_instance-(?P<instance>\d+)_annotation-(?P<annotator>\d+)\.nii\.gz")
VALUES = {"kidney": 1, "cyst": 3, "tumor": 2}
"""Label values, in the order in which the data set paints instances: a tumour covers a cyst, a cyst the kidney."""
NAMES = ((0, BACKGROUND), (1, "kidney"), (2, "tumor"), (3, "cyst"))
NO_IMAGE = (
    "no imaging.nii.gz: the repository holds labels alone; fetch the images with its own kits23_download_data, or have "
    "them made up with --synthetic-images"
)
Annotation = Literal["majority"] | int
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """Images made up around the real labels.

    Raises:
        ConfigurationError: a negative seed, or a spacing that is not above 0.
    """

    seed: int = 0
    """With a case's number it decides the image of the case."""
    spacing_mm: float | None = None
    """Edge of the voxels of images and labels; by default the labels stay on their own grid."""

    def __post_init__(self) -> None:
        if self.seed < 0 or not (self.spacing_mm is None or self.spacing_mm > 0):
            raise ConfigurationError(
                f"images need a seed of 0 or more and a spacing above 0 mm, got {self.seed} and {self.spacing_mm}"
            )


@dataclass(frozen=True, slots=True)
class FoundCase:
    """A case, where its files are."""

    name: str
    labels: Path
    image: Path | None
    """None where none is needed."""
    instances: tuple[Path, ...]
    """One file per object and annotator, if they are needed."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What the case is made from."""
        return (*(() if self.image is None else (self.image,)), self.labels, *self.instances)


@dataclass(frozen=True, slots=True)
class Kits23:
    """The data set, and what is made of it."""

    source: Path
    whole_without: Literal["cyst", "tumor"] | None = None
    """The target, where the other lesion counts as kidney; None where the kidney is the label map's own."""
    annotation: Annotation | None = None
    """`majority` of an object's annotators, or the one of this number; None is the label map as it was released."""
    synthesis: Synthesis | None = None
    """None where images are at hand."""

    ignore = None

    @property
    def name(self) -> str:
        """Says so where images are made up."""
        return "kits23" if self.synthesis is None else "kits23-synthetic"

    @property
    def channels(self) -> tuple[str, ...]:
        """One CT."""
        return ("CT",)

    @property
    def label_names(self) -> tuple[tuple[int, str], ...]:
        """Kidney, tumor and cyst; or the whole kidney and the target."""
        if self.whole_without is None:
            return NAMES
        return ((0, BACKGROUND), (1, "kidney"), (2, self.whole_without))

    @property
    def how(self) -> Mapping[str, Any]:
        """Converter and options."""
        told: dict[str, Any] = {"data set": "kits23", "organ": "parts"}
        if self.whole_without is not None:
            told["organ"] = f"whole, under {self.whole_without}"
        told["annotation"] = self.annotation or "released"
        if self.synthesis is not None:
            spacing = self.synthesis.spacing_mm
            told["images"] = f"synthetic, seed {self.synthesis.seed}"
            told["spacing"] = "own" if spacing is None else f"{spacing:g} mm"
        return told

    def find(self) -> Listing:
        """Cases, in the order of their names; those that lack an image they need are dropped.

        Raises:
            CohortError: the folder holds no case.
        """
        found: list[FoundCase] = []
        dropped: list[DroppedCase] = []
        for name, folder, labels in _labelled(self.source):
            image = None if self.synthesis is not None else folder / "imaging.nii.gz"
            if image is not None and not image.is_file():
                dropped.append(DroppedCase(name, NO_IMAGE))
                continue
            instances = () if self.annotation is None else tuple(sorted(folder.glob("instances/*.nii.gz")))
            found.append(FoundCase(name, labels, image, instances))
        if not found and not dropped:
            raise CohortError(
                f"{self.source}: no KiTS23 case; expected dataset/case_00000/segmentation.nii.gz or case_00000.nii.gz"
            )
        if len(found) + len(dropped) != NUM_CASES:
            logger.warning("%s: %d cases, KiTS23 has %d", self.source, len(found) + len(dropped), NUM_CASES)
        return Listing(found, dropped)

    def describe(self, found: FoundCase) -> Described:
        """Take the files as they are where nothing is asked of them, else make volumes.

        Raises:
            CohortError: the case has no objects, or not of the annotator.
            GeometryError: objects on different grids.
            LabelError, VolumeError: label maps that cannot be used.
        """
        notes: list[str] = []
        labels: Path | Volume = found.labels
        if self.annotation is not None:
            labels, notes = merge_instances(found, self.annotation)
        if self.synthesis is None and self.whole_without is None:
            return Described((found.image or found.labels,), labels, found.name, notes=tuple(notes))
        volume = read_labels(labels) if isinstance(labels, Path) else labels
        if self.synthesis is None:
            return Described((found.image or found.labels,), self._named(volume), found.name, notes=tuple(notes))
        if self.synthesis.spacing_mm is not None:
            volume = _resampled(volume, self.synthesis.spacing_mm)
        image = draw_around_kidneys(volume, seed=1000 * self.synthesis.seed + int(found.name.removeprefix("case_")))
        kept = self._named(volume)
        return Described((image,), kept, found.name, notes=(*notes, "image made up around the labels"))

    def _named(self, labels: Volume) -> Volume:
        """Label values as `label_names` has them."""
        if self.whole_without is None:
            return labels
        target = VALUES[self.whole_without]
        whole = Coarsening(tuple(0 if value == 0 else 2 if value == target else 1 for value, _ in NAMES))
        return Volume(whole.of_labels(labels.voxels), labels.grid)

    def splits(self, names: Sequence[str], /) -> None:
        """There are none."""


def open_kits23(
    source: Path,
    *,
    organ: Literal["parts", "whole"] = "parts",
    target: Literal["cyst", "tumor"] = "cyst",
    annotation: str | None = None,
    synthesis: Synthesis | None = None,
) -> Kits23:
    """A download of KiTS23.

    Args:
        source: the repository, its folder `dataset`, or a folder of label maps.
        organ: `parts` keeps kidney, tumor and cyst apart. `whole` takes the lesion that is not the target as kidney:
            the organ as an organ model would see it, under the target.
        target: used by `whole` alone.
        annotation: `majority`, or the number of an annotator; by default the label maps as released.
        synthesis: make images up, where there are labels alone.

    Raises:
        CohortError: no such folder.
        ConfigurationError: an annotation that is neither.
    """
    source = source.resolve()
    if not source.is_dir():
        raise CohortError(f"{source}: no such folder; expected the repository of KiTS23, or its folder `dataset`")
    chosen: Annotation | None = "majority" if annotation == "majority" else None
    if annotation is not None and chosen is None:
        if not annotation.isdecimal() or int(annotation) < 1:
            raise ConfigurationError(f"--annotation is `majority` or the number of an annotator, got {annotation!r}")
        chosen = int(annotation)
    return Kits23(source, target if organ == "whole" else None, chosen, synthesis)


def _labelled(source: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, folder and label map of each case, in the order of their names."""
    root = source / "dataset" if (source / "dataset").is_dir() else source
    for path in sorted(root.iterdir()):
        if path.is_dir() and CASE.fullmatch(path.name):
            yield path.name, path, path / "segmentation.nii.gz"
        elif CASE.fullmatch(name := path.name.removesuffix(".nii.gz")) and name != path.name:
            yield name, root / name, path


def merge_instances(found: FoundCase, annotation: Annotation) -> tuple[Volume, list[str]]:
    """The label map that one annotator, or most of them, would give; and what was noted on the way.

    Objects are painted kidney, cyst, tumor, so that a tumour covers a cyst. A voxel belongs to an object by majority
    where more than half of its annotators say so. An object that the chosen annotator did not draw is taken from the
    one of the lowest number.

    Raises:
        CohortError: the case has no objects.
        GeometryError: objects on different grids.
        LabelError, VolumeError: a file that cannot be used.
    """
    objects, notes = _objects(found), []
    if not objects:
        raise CohortError(f"{found.name}: no instances/*_instance-1_annotation-1.nii.gz; leave --annotation out")
    if strays := [path.name for path in found.instances if not INSTANCE.fullmatch(path.name)]:
        notes.append(f"left out {', '.join(strays)}")
    grid = read_grid(found.labels)
    merged = np.zeros(grid.shape, np.uint8, order="F")
    for (kind, number), by_annotator in objects.items():
        if isinstance(annotation, int) and annotation not in by_annotator:
            notes.append(f"{kind} {number} has no annotator {annotation}")
        chosen, votes = _chosen(by_annotator, annotation), np.zeros(grid.shape, np.uint8, order="F")
        for path in chosen:
            mask = read_labels(path)
            if difference := grid.difference(mask.grid):
                raise GeometryError(f"{found.name}: {path.name} lies on another grid: {difference}; download it again")
            votes += mask.voxels > 0
        merged[2 * votes > len(chosen)] = VALUES[kind]
    return Volume(merged, grid), notes


def _objects(found: FoundCase) -> Mapping[tuple[str, int], Mapping[int, Path]]:
    """Files by object and annotator; objects in the order in which they are painted."""
    objects: defaultdict[tuple[str, int], dict[int, Path]] = defaultdict(dict)
    for path in found.instances:
        if match := INSTANCE.fullmatch(path.name):
            objects[match["kind"], int(match["instance"])][int(match["annotator"])] = path
    painted = list(VALUES)
    return dict(sorted(objects.items(), key=lambda entry: (painted.index(entry[0][0]), entry[0][1])))


def _chosen(by_annotator: Mapping[int, Path], annotation: Annotation) -> list[Path]:
    if annotation == "majority":
        return list(by_annotator.values())
    return [by_annotator.get(annotation, by_annotator[min(by_annotator)])]


def _resampled(labels: Volume, spacing_mm: float) -> Volume:
    """The label map with cubic voxels: at each centre the class of most weight in linear interpolation.

    Lesions smaller than the new voxels may vanish.
    """
    width, height, depth = (
        max(1, round(length * edge / spacing_mm))
        for length, edge in zip(labels.grid.shape, labels.grid.spacing_mm, strict=True)
    )
    grid = replace(labels.grid, shape=(width, height, depth), spacing_mm=(spacing_mm,) * 3)
    return resample_labels(labels, grid, interpolation="linear")
