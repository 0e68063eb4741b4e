"""Masks that others are drawn from or compared with: a cohort's own label maps, or a mask set of it."""

from dataclasses import dataclass
from pathlib import Path

from backsplit.cases import OWN_LABELS, Case, Cohort
from backsplit.errors import CohortError, GeometryError
from backsplit.labels import BACKGROUND
from backsplit.volume import Volume, read_grid, read_labels


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the reference masks of a cohort lie."""

    name: str
    """`labels` for the label maps of the cohort itself, else the name of a mask set."""
    classes: tuple[tuple[int, str], ...]
    """Label value and class name, without background."""
    targets: tuple[str, ...] = ()
    """Classes that every case is annotated for, whatever it says of auxiliaries."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in the order of label values."""
        return tuple(name for _, name in sorted(self.classes))

    def value(self, name: str) -> int:
        """Label value of a class."""
        return next(value for value, known in self.classes if known == name)

    def path(self, case: Case) -> Path:
        """The reference of a case.

        Raises:
            CohortError: the case has none.
        """
        path = self._found(case)[0]
        if path is None:
            what = "label map" if self.name == OWN_LABELS else f"masks {self.name!r}"
            raise CohortError(f"{case.name} has no {what} to serve as reference; leave the case out, or annotate it")
        return path

    def annotated(self, case: Case) -> tuple[str, ...]:
        """Classes that were looked for in a case; one of them without a voxel is really empty."""
        annotated = self._found(case)[1]
        return tuple(name for name in self.names if annotated is None or name in (*self.targets, *annotated))

    def read(self, case: Case) -> Volume:
        """The label map of a case.

        Raises:
            CohortError: the case has none.
            GeometryError: it is on another grid than the image.
            VolumeError: it cannot be read.
            LabelError: it holds something else than labels.
        """
        path = self.path(case)
        labels = read_labels(path)
        if difference := read_grid(case.images[0]).difference(labels.grid):
            raise GeometryError(
                f"{case.name}: image and reference {path.name} are on different grids: {difference}; bring the "
                "reference to the image's first"
            )
        return labels

    def _found(self, case: Case) -> tuple[Path | None, tuple[str, ...] | None]:
        if self.name == OWN_LABELS:
            return case.labels, case.annotated
        masks = case.masks_of(self.name)
        return (None, None) if masks is None else (masks.path, masks.annotated)


def reference_of(cohort: Cohort, name: str) -> Reference:
    """The reference of this name.

    Args:
        cohort: whose cases are meant.
        name: `labels` for the cohort's own label maps, else one of its mask sets.

    Raises:
        CohortError: the cohort has no such masks.
    """
    if name == OWN_LABELS:
        classes = tuple((value, label) for value, label in cohort.label_names if label != BACKGROUND)
        return Reference(name, classes, () if cohort.scheme is None else cohort.scheme.targets)
    return Reference(name, tuple(enumerate(cohort.mask_set(name).structures, start=1)))
