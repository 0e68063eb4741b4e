"""Which series a folder holds, by the tags of its files; how folders and files are called does not matter."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from backsplit.errors import VolumeError
from backsplit.progress import track

TAGS = (
    *("PatientID", "Modality", "SeriesInstanceUID", "ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence"),
    *("SOPClassUID", "FrameOfReferenceUID"),
)


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
    """A file without readable tags counts for the patients whose files lie in its folder."""


def index(root: Path) -> Index:
    """Read the tags of every file below a folder; files that are no DICOM are left out."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    found: defaultdict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    broken: list[Path] = []
    for path in track(files, "indexed"):
        try:
            tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            found[str(tags.SeriesInstanceUID)].append((path, tags))
        except InvalidDicomError:
            if path.suffix.lower() == ".dcm":
                broken.append(path)
        except (OSError, AttributeError, ValueError, EOFError):
            broken.append(path)
    series = [_series(uid, members) for uid, members in found.items()]
    by_patient: defaultdict[str, list[Series]] = defaultdict(list)
    patients_in: defaultdict[Path, set[str]] = defaultdict(set)
    for each in sorted(series, key=lambda each: each.uid):
        by_patient[each.patient].append(each)
        for path in each.files:
            patients_in[path.parent].add(each.patient)
    unreadable: defaultdict[str, int] = defaultdict(int)
    for path in broken:
        for patient in patients_in[path.parent]:
            unreadable[patient] += 1
    return Index({patient: tuple(each) for patient, each in by_patient.items()}, dict(unreadable))


def _series(uid: str, members: Sequence[tuple[Path, Dataset]]) -> Series:
    tags = members[0][1]
    return Series(
        uid,
        str(tags.get("PatientID", "")),
        str(tags.get("Modality", "")),
        tuple(path for path, _ in members),
        frozenset(_references(tags)),
    )


def _references(tags: Dataset) -> list[str]:
    """Series that an RTSTRUCT (three levels down) or a SEG (at the top) refers to."""
    uids = [str(item.SeriesInstanceUID) for item in tags.get("ReferencedSeriesSequence", [])]
    for frame in tags.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            uids += [str(item.SeriesInstanceUID) for item in study.get("RTReferencedSeriesSequence", [])]
    return uids


def read_file(path: Path) -> Dataset:
    """One whole file.

    Raises:
        VolumeError: it cannot be read; the message does not say which.
    """
    try:
        return pydicom.dcmread(path)
    except (OSError, InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise VolumeError(f"a DICOM file cannot be read ({type(error).__name__}); download the series again") from None
