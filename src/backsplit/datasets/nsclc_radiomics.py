"""NSCLC-Radiomics (Lung1): lung tumours on CT, contoured with some of the organs around them.

Series are told apart by their tags. Contours come as RTSTRUCT, and for the named organs and the primary tumour as SEG
too. Organs are contoured in some patients only (the heart in about 127 of 422), so a case says which it was looked for.

Source:
    TCIA, NSCLC-Radiomics, version 4.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backsplit.arrays import Mask
from backsplit.cases import DroppedCase
from backsplit.datasets.dicom.ct import read_ct
from backsplit.datasets.dicom.headers import Index, Series, index
from backsplit.datasets.dicom.rtstruct import rasterise, read_structures
from backsplit.datasets.dicom.segments import Segment, read_segments
from backsplit.datasets.download import Described, Listing
from backsplit.datasets.pseudonyms import pseudonym
from backsplit.errors import CohortError, LabelError
from backsplit.labels import BACKGROUND
from backsplit.volume import Grid, Volume

Contours = Literal["auto", "rtstruct", "seg"]
Sides = Literal["merge", "keep"]
MODALITY = {"rtstruct": "RTSTRUCT", "seg": "SEG"}
ORGANS = ("heart", "esophagus", "spinal_cord")
SYNONYMS = {
    **dict.fromkeys(("heart",), "heart"),
    **dict.fromkeys(("esophagus", "oesophagus"), "esophagus"),
    **dict.fromkeys(("spinal-cord", "spinalcord", "cord", "myelum"), "spinal_cord"),
    **dict.fromkeys(("lung-left", "lung-l", "left-lung"), "lung_left"),
    **dict.fromkeys(("lung-right", "lung-r", "right-lung"), "lung_right"),
    **dict.fromkeys(("lungs-total", "lung-total", "lungs", "lung-right-and-left", "lung"), "lungs"),
    **dict.fromkeys(("neoplasm-primary",), "gtv-1"),
}


def normalised(name: str) -> str:
    """A region's name as this module compares it: `GTV_1`, `gtv 1` and `GTV-1` are all `gtv-1`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = re.sub(r"^gtv(?=\d)", "gtv-", plain)
    return SYNONYMS.get(plain, plain)


@dataclass(frozen=True, slots=True)
class FoundPatient:
    """A patient's CT and the contours drawn on it."""

    name: str
    ct: Series
    contours: Series

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of both series."""
        return (*self.ct.files, *self.contours.files)


@dataclass(frozen=True)
class NsclcRadiomics:
    """The data set, and what is made of it."""

    source: Path
    salt: bytes = field(repr=False)
    targets: tuple[str, ...] = ("gtv-1",)
    contours: Contours = "auto"
    sides: Sides = "merge"

    name = "nsclc-radiomics"
    channels = ("CT",)
    ignore = None

    @property
    def label_names(self) -> tuple[tuple[int, str], ...]:
        """Targets, then lungs, heart, esophagus and spinal cord."""
        lungs = ("lung",) if self.sides == "merge" else ("lung_left", "lung_right")
        return tuple(enumerate((BACKGROUND, *self.targets, *lungs, *ORGANS)))

    @property
    def how(self) -> Mapping[str, Any]:
        """Converter and options; not the salt."""
        return {
            "data set": "nsclc-radiomics",
            "targets": ", ".join(self.targets),
            "contours": self.contours,
            "sides": self.sides,
        }

    def find(self) -> Listing:
        """Patients, in the order of their pseudonyms.

        Raises:
            CohortError: no DICOM series.
        """
        indexed = index(self.source)
        if not indexed.by_patient:
            raise CohortError(f"{self.source}: no DICOM file; give the folder of the download")
        chosen = [self._chosen(patient, indexed) for patient in indexed.by_patient]
        found = [each for each in chosen if isinstance(each, FoundPatient)]
        dropped = [each for each in chosen if isinstance(each, DroppedCase)]
        return Listing(sorted(found, key=lambda each: each.name), tuple(sorted(dropped, key=lambda each: each.name)))

    def _chosen(self, patient: str, indexed: Index) -> FoundPatient | DroppedCase:
        """The contours to use and the CT that they were drawn on."""
        name = pseudonym(patient, self.salt, prefix="lung1")
        series = indexed.by_patient[patient]
        if num_broken := indexed.unreadable.get(patient, 0):
            return DroppedCase(name, f"{num_broken} files cannot be read; download the series again")
        kinds = ("rtstruct", "seg") if self.contours == "auto" else (self.contours,)
        cts = {each.uid: each for each in series if each.modality == "CT"}
        drawn = [each for kind in kinds for each in series if each.modality == MODALITY[kind]]
        pairs = [(cts[uid], each) for each in drawn for uid in sorted(each.references) if uid in cts]
        if not cts:
            return DroppedCase(name, "no CT series; download the patient again")
        if not drawn:
            return DroppedCase(name, f"no {' or '.join(MODALITY[kind] for kind in kinds)}; see --contours")
        if not pairs:
            return DroppedCase(name, f"its {drawn[0].modality} refers to a CT series that is not there")
        first = [pair for pair in pairs if pair[1].modality == pairs[0][1].modality]
        if len(first) > 1:
            return DroppedCase(name, f"{len(first)} pairs of CT and {pairs[0][1].modality}, expected one; keep one")
        return FoundPatient(name, *pairs[0])

    def describe(self, found: FoundPatient) -> Described:
        """Read the CT, and paint the regions onto its grid: lungs, then other organs in their order, then targets.

        Raises:
            VolumeError, GeometryError: a series that cannot be read or is no regular volume.
            LabelError: none of the targets is contoured; or one is missing from a SEG, which lacks nodes.
        """
        image, notes = read_ct(found.ct.files)
        regions, more = _regions(found.contours, image.grid)
        masks = self._by_class(regions)
        if not any(target in masks for target in self.targets):
            tumours = sorted(name for name in regions if name.startswith("gtv"))
            raise LabelError(
                f"{found.name}: none of {', '.join(self.targets)} is contoured; it has "
                f"{', '.join(tumours) or 'no GTV'}; choose with --targets"
            )
        if found.contours.modality == "SEG" and (absent := [name for name in self.targets if name not in masks]):
            raise LabelError(
                f"{found.name}: its SEG has no {', '.join(absent)}, which says nothing: "
                "SEG lacks nodes; use the RTSTRUCT"
            )
        labels, num_contested = np.zeros(image.grid.shape, np.uint8), 0
        values = {name: value for value, name in self.label_names}
        for name in ("lung", "lung_left", "lung_right", *ORGANS, *reversed(self.targets)):
            if name in masks:
                num_contested += int(np.count_nonzero(labels[masks[name]]))
                labels[masks[name]] = values[name]
        told = [*notes, *more, f"from the {found.contours.modality}"]
        if num_contested:
            told.append(f"{num_contested} voxels in several regions")
        if others := sorted(name for name in regions if name.startswith("gtv") and name not in self.targets):
            told.append(f"also has {', '.join(others)}")
        if "lungs" in regions and "lung" not in masks and "lung_left" not in masks:
            told.append("lungs without sides")
        known = tuple(name for _, name in self.label_names[1:] if name in masks or name in self.targets)
        is_whole = len(known) == len(self.label_names) - 1
        return Described(
            (image,), Volume(labels, image.grid), found.name, None if is_whole else known, notes=tuple(told)
        )

    def _by_class(self, regions: Mapping[str, Mask]) -> dict[str, Mask]:
        """Masks of this data set's classes; a class that was not contoured is missing."""
        masks = {name: regions[name] for name in (*self.targets, *ORGANS) if name in regions}
        sides = [regions[name] for name in ("lung_left", "lung_right") if name in regions]
        if self.sides == "keep":
            return {**masks, **({"lung_left": sides[0], "lung_right": sides[1]} if len(sides) == 2 else {})}
        if len(sides) == 2 or "lungs" in regions:
            whole = regions["lungs"] if "lungs" in regions else sides[0] | sides[1]
            return {**masks, "lung": whole}
        return masks

    def splits(self, names: Sequence[str], /) -> None:
        """There are none."""


def _regions(series: Series, grid: Grid) -> tuple[dict[str, Mask], tuple[str, ...]]:
    """Masks by normalised name; regions that share one are joined."""
    masks: dict[str, Mask] = {}
    notes: list[str] = []
    for path in series.files:
        for name, mask, more in _drawn(path, series.modality, grid):
            masks[name] = masks[name] | mask if name in masks else mask
            notes += more
    return masks, tuple(notes)


def _drawn(path: Path, modality: str, grid: Grid) -> Iterator[tuple[str, Mask, tuple[str, ...]]]:
    if modality == "SEG":
        for segment, mask in read_segments(path, grid).items():
            yield _name_of(segment), mask, ()
        return
    for structure in read_structures(path, lambda name: _is_known(normalised(name))).values():
        if structure.contours:
            yield normalised(structure.name), *rasterise(structure, grid)


def _is_known(name: str) -> bool:
    return name.startswith("gtv") or name in SYNONYMS.values()


def _name_of(segment: Segment) -> str:
    """By the description, which holds the region's name in the RTSTRUCT; by the coded label where that says nothing."""
    name = normalised(segment.description)
    return name if _is_known(name) else normalised(segment.label)


def open_nsclc_radiomics(
    source: Path,
    *,
    salt: bytes,
    targets: Sequence[str] = ("gtv-1",),
    contours: Contours = "auto",
    sides: Sides = "merge",
) -> NsclcRadiomics:
    """A download, however its folders are called.

    Args:
        source: folder above all series.
        salt: key of the pseudonyms.
        targets: contoured tumours to keep; the first wins where they overlap.
        contours: `auto` takes the RTSTRUCT, and the SEG where there is none.
        sides: `merge` makes one class of both lungs. `keep` makes two; patients whose lungs were contoured as one are
            then not annotated for them.

    Raises:
        CohortError: no such folder.
        LabelError: a target that is no GTV.
    """
    if not source.is_dir():
        raise CohortError(f"{source}: no such folder; expected the download of NSCLC-Radiomics")
    chosen = tuple(normalised(name) for name in targets)
    if not chosen or any(not name.startswith("gtv") for name in chosen) or len(set(chosen)) < len(chosen):
        raise LabelError(f"--targets {' '.join(targets)}: expected different names such as gtv-1; see --check for more")
    return NsclcRadiomics(source.resolve(), salt, chosen, contours, sides)
