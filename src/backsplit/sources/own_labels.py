"""Classes that the cohort's own label maps have already, as a mask set like any other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backsplit.cases import OWN_LABELS, Case, Cohort
from backsplit.errors import SourceError
from backsplit.sources.label_tables import pick
from backsplit.sources.protocol import Masks
from backsplit.sources.reference import Reference, reference_of
from backsplit.sources.structures import choose_structures
from backsplit.volume import Volume, read_labels


@dataclass(frozen=True, slots=True)
class LabelsSource:
    """Keeps to `MaskSource`."""

    reference: Reference
    structures: tuple[str, ...]

    @property
    def how(self) -> Mapping[str, Any]:
        """The tool, and which value each class has; the licence is that of the data."""
        values = {name: value for value, name in self.reference.classes if name in self.structures}
        return {"tool": OWN_LABELS, "values": values, "licence": "not stated"}

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The image, for its grid, and the label map."""
        return (case.images[0], *(() if case.labels is None else (case.labels,)))

    def segment(self, case: Case, scratch: Path) -> Masks:  # noqa: ARG002  a label map needs no scratch space
        """Take the classes out of the case's label map.

        Raises:
            SourceError: the case has no label map.
            LabelError: it holds values without a name.
            VolumeError: it cannot be read.
        """
        if case.labels is None:
            raise SourceError(f"{case.name}: has no label map to take classes from; leave it out, or add its labels")
        volume = read_labels(case.labels)
        voxels = pick(volume.voxels, self.reference.classes, self.structures, origin=f"{case.name}: {case.labels.name}")
        annotated = set(self.reference.annotated(case))
        return Masks(Volume(voxels, volume.grid), tuple(name for name in self.structures if name in annotated))


def open_labels(cohort: Cohort, structures: Sequence[str] | None, *, force: bool) -> LabelsSource:
    """Choose classes of a cohort's label maps.

    Args:
        cohort: whose label maps.
        structures: which classes, in this order; None takes all that are no lesions by their names and, in a composed
            cohort, no targets.
        force: take lesions too.

    Raises:
        SourceError: no class is left, or one that the label maps do not have, that comes twice or is a lesion.
    """
    reference = reference_of(cohort, OWN_LABELS)
    barred = () if force else reference.targets
    if named := [name for name in structures or () if name in barred]:
        raise SourceError(
            f"structure {named[0]!r} is a target: as an auxiliary it would be the target by another name; leave it "
            "out, or insist with --force"
        )
    available = [name for name in reference.names if name not in barred]
    chosen = choose_structures(available, structures, force=force)
    if not chosen:
        raise SourceError(
            f"{cohort.name}: its label maps hold {', '.join(reference.names) or 'no class'}, all of them lesions or "
            "targets; take masks from another source"
        )
    return LabelsSource(reference, chosen)
