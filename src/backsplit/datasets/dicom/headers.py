"""Which series a folder holds, by the tags of its files; how folders and files are called does not matter."""

import struct
import warnings
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from backsplit.errors import VolumeError
from backsplit.progress import track

TAGS = (
    *("PatientID", "Modality", "SeriesInstanceUID", "ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence"),
    "StudyInstanceUID",
)
UNREADABLE = (
    *(OSError, EOFError, InvalidDicomError, AttributeError, KeyError, IndexError, TypeError, ValueError),
    *(ArithmeticError, NotImplementedError, RuntimeError, struct.error),
)
"""All that pydicom, and those who look into what it read, raise on damaged files."""


@dataclass(frozen=True, slots=True)
class Series:
    """Files of one series."""

    uid: str
    patient: str
    modality: str
    files: tuple[Path, ...]
    references: frozenset[str]
    """Series that contours or segments were drawn on."""


@dataclass(frozen=True, slots=True)
class Index:
    """All series below a folder, by patient, and how many files of each cannot be read."""

    by_patient: Mapping[str, tuple[Series, ...]]
    unreadable: Mapping[str, int]
    """A file without readable tags counts for the patient whose files lie nearest to it in the tree of folders."""


def index(root: Path) -> Index:
    """Read the tags of every file below a folder; files that are no DICOM are left out."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    found: defaultdict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    broken: list[Path] = []
    for path in track(files, "indexed"):
        try:
            with quietly():
                tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
                _references(tags)
            found[str(tags.SeriesInstanceUID)].append((path, tags))
        except UNREADABLE as error:
            if not isinstance(error, InvalidDicomError) or path.suffix.lower() == ".dcm":
                broken.append(path)
    series = [_series(uid, members) for uid, members in found.items()]
    by_patient: defaultdict[str, list[Series]] = defaultdict(list)
    patients_in: defaultdict[Path, set[str]] = defaultdict(set)
    for each in sorted(series, key=lambda each: each.uid):
        by_patient[each.patient].append(each)
        for folder in {folder for path in each.files for folder in path.parents if folder.is_relative_to(root)}:
            patients_in[folder].add(each.patient)
    unreadable: defaultdict[str, int] = defaultdict(int)
    for path in broken:
        nearest = next((patients_in[folder] for folder in path.parents if folder in patients_in), set())
        for patient in nearest if len(nearest) == 1 else ():
            unreadable[patient] += 1
    return Index({patient: tuple(each) for patient, each in by_patient.items()}, dict(unreadable))


def _series(uid: str, members: Sequence[tuple[Path, Dataset]]) -> Series:
    tags = members[0][1]
    return Series(
        uid,
        str(tags.get("PatientID") or f"study {tags.get('StudyInstanceUID', uid)}"),
        str(tags.get("Modality", "")),
        tuple(path for path, _ in members),
        frozenset(_references(tags)),
    )


def _references(tags: Dataset) -> list[str]:
    """Series that an RTSTRUCT (three levels down) or a SEG (at the top) refers to."""
    uids = [str(item.get("SeriesInstanceUID", "")) for item in tags.get("ReferencedSeriesSequence", [])]
    for frame in tags.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            uids += [str(item.get("SeriesInstanceUID", "")) for item in study.get("RTReferencedSeriesSequence", [])]
    return uids


def read_file(path: Path) -> Dataset:
    """One whole file.

    Raises:
        VolumeError: it cannot be read; the message does not say which.
    """
    try:
        with quietly():
            return pydicom.dcmread(path)
    except UNREADABLE as error:
        raise VolumeError(f"a DICOM file cannot be read ({type(error).__name__}); download the series again") from None


@contextmanager
def quietly() -> Generator[None]:
    """Keep what pydicom warns about to itself: its warnings quote the values of tags, identifiers among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
