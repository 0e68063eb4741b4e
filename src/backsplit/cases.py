"""Case and Cohort: the manifest on disk, the one contract between stages.

A manifest is `cohort.json`: every stage reads the one of the stage before and writes its own. Files inside the folder
of the manifest are named relative to it, so that the folder can be moved as a whole.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from backsplit.errors import BackSplitError, CohortError
from backsplit.files import write_json
from backsplit.labels import BACKGROUND, LabelScheme

MANIFEST_NAME = "cohort.json"
SCHEMA_VERSION = 3
LARGEST_LABEL = 2**16 - 1
OWN_LABELS = "labels"
"""The label maps of a cohort itself, where a mask set could be named too."""


@dataclass(frozen=True, slots=True)
class MaskSet:
    """Auxiliary masks from one source: label value `i + 1` of its files is `structures[i]`.

    Raises:
        CohortError: a name that cannot be a file name, no structure, or one that is named twice.
    """

    name: str
    structures: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_name(self.name, "name of masks")
        if not self.structures:
            raise CohortError(f"masks {self.name!r} have no structure; name some")
        _check_unique(self.structures, f"masks {self.name!r}: structures")


@dataclass(frozen=True, slots=True)
class CaseMasks:
    """The label map of one mask set for one case."""

    source: str
    """Name of the mask set."""
    path: Path
    annotated: tuple[str, ...] | None = None
    """Structures that were looked for in this case; None means all. One that was looked for may have no voxel."""


@dataclass(frozen=True, slots=True)
class Case:
    """One examination: its images, its label map if it has one, and auxiliary masks.

    Raises:
        CohortError: a name or group that cannot be a file name, or a path that is not absolute or goes through `..`.
    """

    name: str
    images: tuple[Path, ...]
    """One file per channel of the cohort."""
    labels: Path | None
    group: str
    """Patient: cases of one group never fall into different folds."""
    annotated: tuple[str, ...] | None = None
    """Auxiliary classes whose masks the label map holds; None means all."""
    masks: tuple[CaseMasks, ...] = ()
    """At most one per mask set of the cohort."""

    def __post_init__(self) -> None:
        _check_name(self.name, "case name")
        _check_name(self.group, f"{self.name}: group")
        for path in self.files:
            if not path.is_absolute() or ".." in path.parts:
                raise CohortError(f"{self.name}: path {path} must be absolute and without '..'; resolve it first")

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, then the label map if there is one, then masks."""
        labels = () if self.labels is None else (self.labels,)
        return (*self.images, *labels, *(masks.path for masks in self.masks))

    def masks_of(self, source: str) -> CaseMasks | None:
        """The masks from one source, if the case has them."""
        return next((masks for masks in self.masks if masks.source == source), None)


@dataclass(frozen=True, slots=True)
class DroppedCase:
    """A case of the download that the cohort does not hold."""

    name: str
    reason: str
    """One clause: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Cases that share channels and label values.

    Raises:
        CohortError: a case name used twice, a case without one image per channel, label values that are not 0 to 65535
            or used twice, a class name used twice, 0 not named `background`, a scheme whose indices are not the
            label values, or masks of a case that are not among those of the cohort.
    """

    name: str
    channels: tuple[str, ...]
    """What each image of a case is, as nnU-Net names it: `CT` is normalised as CT, anything else per image."""
    label_names: tuple[tuple[int, str], ...]
    """Label value and class name."""
    cases: tuple[Case, ...]
    scheme: LabelScheme | None = None
    """Set once the cohort is composed: label values are then indices of the scheme."""
    provenance: tuple[tuple[str, str], ...] = ()
    """What was done, and with what, in order."""
    masks: tuple[MaskSet, ...] = ()
    """Auxiliary masks that `backsplit annotate` added."""
    dropped: tuple[DroppedCase, ...] = ()
    """Cases that the data set has and the cohort has not."""
    splits: Path | None = None
    """Official folds of the data set, in the form of nnU-Net's `splits_final.json`."""
    ignore: int | None = None
    """Label value of voxels that nobody annotated, if there are any; in a composed cohort the number of its classes."""

    def __post_init__(self) -> None:
        _check_name(self.name, "cohort name")
        if not self.channels:
            raise CohortError(f"{self.name}: a cohort needs at least one channel, such as CT")
        _check_unique([case.name for case in self.cases], f"{self.name}: case names")
        for case in self.cases:
            if len(case.images) != len(self.channels):
                raise CohortError(
                    f"{case.name}: {len(case.images)} images, expected one for each channel {', '.join(self.channels)}"
                )
            _check_masks(case, {masks.name for masks in self.masks})
        _check_unique([masks.name for masks in self.masks], f"{self.name}: masks")
        self._check_label_names()

    def mask_set(self, name: str) -> MaskSet:
        """The masks of this name.

        Raises:
            CohortError: the cohort has none.
        """
        for masks in self.masks:
            if masks.name == name:
                return masks
        known = ", ".join(masks.name for masks in self.masks) or "none"
        raise CohortError(f"{self.name}: no masks called {name!r}; it has {known}; add them with `backsplit annotate`")

    def _check_label_names(self) -> None:
        _check_unique([value for value, _ in self.label_names], f"{self.name}: label values")
        _check_unique([name for _, name in self.label_names], f"{self.name}: class names")
        values = {value for value, _ in self.label_names}
        if self.ignore is not None and (self.ignore in values or not 0 < self.ignore <= LARGEST_LABEL):
            raise CohortError(
                f"{self.name}: the label to ignore is {self.ignore}, expected 1 to {LARGEST_LABEL} and none of a class"
            )
        if (0, BACKGROUND) not in self.label_names or min(values) < 0 or max(values) > LARGEST_LABEL:
            raise CohortError(
                f"{self.name}: label values must be 0 ({BACKGROUND}) to {LARGEST_LABEL}, got {dict(self.label_names)}"
            )
        if self.scheme is not None and (
            self.label_names != tuple(enumerate(self.scheme.names))
            or self.ignore not in (None, self.scheme.num_classes)
        ):
            raise CohortError(
                f"{self.name}: label values {dict(self.label_names)} are not the indices of the scheme "
                f"{', '.join(self.scheme.names)}; compose the cohort again"
            )

    def case(self, name: str) -> Case:
        """The case of this name.

        Raises:
            CohortError: the cohort has none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise CohortError(f"case {name!r} is not among the {len(self.cases)} cases of {self.name}; check the manifest")


def read(path: Path) -> Cohort:
    """Read a manifest; files are not opened.

    Args:
        path: the manifest, or the folder it lies in.

    Raises:
        CohortError: it is missing, is not JSON, has another schema version, lacks a key or contradicts itself.
    """
    manifest = (path / MANIFEST_NAME if path.is_dir() else path).resolve()
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CohortError(f"{manifest}: no such manifest; make one with `backsplit convert`") from error
    except ValueError as error:
        raise CohortError(f"{manifest}: not a manifest in JSON ({error}); write it again") from error
    try:
        return _cohort(content, manifest.parent)
    except BackSplitError as error:
        raise CohortError(f"{manifest}: {error}") from error


def write(cohort: Cohort, folder: Path) -> Path:
    """Write `folder/cohort.json`, whole or not at all, and return its path.

    Files inside `folder` are stored relative to it, others as they are.
    """
    folder = folder.resolve()
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": cohort.name,
        "channels": cohort.channels,
        "label_names": {str(value): name for value, name in cohort.label_names},
        "scheme": cohort.scheme and {"targets": cohort.scheme.targets, "auxiliaries": cohort.scheme.auxiliaries},
        "provenance": cohort.provenance,
        "masks": {masks.name: masks.structures for masks in cohort.masks},
        "dropped": {case.name: case.reason for case in cohort.dropped},
        "ignore": cohort.ignore,
        "splits": cohort.splits and _stored(cohort.splits, folder),
        "cases": [_case_content(case, folder) for case in cohort.cases],
    }
    write_json(content, folder / MANIFEST_NAME)
    return folder / MANIFEST_NAME


def _stored(path: Path, folder: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _case_content(case: Case, folder: Path) -> dict[str, Any]:
    return {
        "name": case.name,
        "group": case.group,
        "images": [_stored(path, folder) for path in case.images],
        "labels": None if case.labels is None else _stored(case.labels, folder),
        "annotated": case.annotated,
        "masks": {
            masks.source: {"labels": _stored(masks.path, folder), "annotated": masks.annotated} for masks in case.masks
        },
    }


def _cohort(content: object, folder: Path) -> Cohort:
    version = _field(content, "schema_version", int)
    if version != SCHEMA_VERSION:
        raise CohortError(
            f"schema version {version}, expected {SCHEMA_VERSION}; convert the data again with this BackSplit"
        )
    scheme = _field(content, "scheme", dict, NoneType)
    splits = _field(content, "splits", str, NoneType)
    return Cohort(
        name=_field(content, "name", str),
        channels=_texts(content, "channels"),
        label_names=_label_names(_field(content, "label_names", dict)),
        cases=tuple(_case(case, folder) for case in _field(content, "cases", list)),
        scheme=None if scheme is None else LabelScheme(_texts(scheme, "targets"), _texts(scheme, "auxiliaries")),
        provenance=tuple(_pair(entry) for entry in _field(content, "provenance", list)),
        masks=tuple(MaskSet(name, _texts(masks, name)) for masks in [_field(content, "masks", dict)] for name in masks),
        dropped=tuple(DroppedCase(name, str(reason)) for name, reason in _field(content, "dropped", dict).items()),
        splits=None if splits is None else folder / splits,
        ignore=_field(content, "ignore", int, NoneType),
    )


def _case(content: object, folder: Path) -> Case:
    labels = _field(content, "labels", str, NoneType)
    annotated = _field(content, "annotated", list, NoneType)
    return Case(
        name=_field(content, "name", str),
        images=tuple(folder / image for image in _texts(content, "images")),
        labels=None if labels is None else folder / labels,
        group=_field(content, "group", str),
        annotated=None if annotated is None else _texts(content, "annotated"),
        masks=tuple(_case_masks(source, entry, folder) for source, entry in _field(content, "masks", dict).items()),
    )


def _case_masks(source: str, content: object, folder: Path) -> CaseMasks:
    annotated = _field(content, "annotated", list, NoneType)
    path = folder / _field(content, "labels", str)
    return CaseMasks(source, path, None if annotated is None else _texts(content, "annotated"))


def _field(content: object, key: str, *kinds: type) -> Any:  # noqa: ANN401  JSON holds any of the kinds
    if not isinstance(content, dict) or key not in content:
        raise CohortError(f"key {key!r} is missing from {str(content)[:60]!r}; write the manifest again")
    if not isinstance(content[key], kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise CohortError(f"{key!r} is {str(content[key])[:60]!r}, expected {expected}; write the manifest again")
    return content[key]


def _texts(content: object, key: str) -> tuple[str, ...]:
    texts = _field(content, key, list)
    if not all(isinstance(text, str) for text in texts):
        raise CohortError(f"{key!r} must be a list of texts, got {str(texts)[:60]!r}; write the manifest again")
    return tuple(texts)


def _label_names(content: dict[str, object]) -> tuple[tuple[int, str], ...]:
    if not all(value.isdecimal() and isinstance(name, str) for value, name in content.items()):
        raise CohortError(f"'label_names' must map label values to class names, got {str(content)[:60]!r}")
    return tuple((int(value), str(name)) for value, name in content.items())


def _pair(content: object) -> tuple[str, str]:
    match content:
        case [str(key), str(value)]:
            return key, value
    raise CohortError(f"'provenance' must be a list of pairs of texts, got {str(content)[:60]!r}")


def _check_masks(case: Case, known: set[str]) -> None:
    sources = [masks.source for masks in case.masks]
    _check_unique(sources, f"{case.name}: masks")
    if foreign := set(sources) - known:
        raise CohortError(f"{case.name}: masks {sorted(foreign)} are not named by the cohort; annotate it again")


def _check_name(name: str, what: str) -> None:
    if not name.strip() or name.startswith(".") or not name.isprintable() or {"/", "\\"} & set(name):
        raise CohortError(
            f"{what} {name!r} cannot be a file name: expected printable text, no / or \\, no leading dot; rename it"
        )


def _check_unique(items: Iterable[object], what: str) -> None:
    repeated = [item for item, count in Counter(items).items() if count > 1]
    if repeated:
        raise CohortError(f"{what} must differ, but {repeated[:5]} come more than once; rename them")
