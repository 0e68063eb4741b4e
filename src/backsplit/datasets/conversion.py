"""From a download to a cohort: case by case, resumable, faults one by one.

Files: `<folder>/records/<case>.json`, written last: it marks the case as done; `<folder>/images` and `<folder>/labels`
for what cannot be taken from the download as it lies; `conversion.csv` and `splits_final.json`; then `cohort.json`.
"""

import csv
import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backsplit import cases
from backsplit.cases import Case, Cohort, DroppedCase
from backsplit.datasets.download import Described, Download, Found, common_grid
from backsplit.errors import BackSplitError, CohortError, LabelError, VolumeError, reason_of
from backsplit.files import stamps, write_json, write_text
from backsplit.labels import count_labels
from backsplit.progress import track_some
from backsplit.volume import Grid, Volume, check_complete, read_labels, write_volume
from backsplit.workers import run_each

logger = logging.getLogger(__name__)
TABLE_NAME = "conversion.csv"
SPLITS_NAME = "splits_final.json"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of a download."""

    cohort: Cohort
    records: Mapping[str, Mapping[str, Any]]
    """By case: `shape`, `spacing_mm`, `voxels` and `ml` by class, `notes`, and how its files are found again."""

    @property
    def dropped(self) -> tuple[DroppedCase, ...]:
        """Cases that the download has and the cohort has not."""
        return self.cohort.dropped


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs for every case."""

    download: Download[Any]
    folder: Path
    is_check: bool
    """Write records alone, no volumes."""

    @property
    def how(self) -> dict[str, Any]:
        """What changes what is written, as it comes back from a record."""
        return json.loads(
            json.dumps({**self.download.how, "label_names": self.download.label_names, "ignore": self.download.ignore})
        )

    def record(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"


def convert(
    download: Download[Any],
    folder: Path,
    *,
    name: str | None = None,
    num_processes: int = 1,
    allow_drops: bool = False,
) -> Conversion:
    """Write the manifest of a download, and the volumes that it lacks.

    Cases that are done are left alone; the others go on where one fails. Images and label maps of the download that
    can be trained on as they are stay where they are.

    Args:
        download: what to convert.
        folder: where manifest, records and volumes go.
        name: of the cohort; by default that of the download.
        num_processes: cases at a time.
        allow_drops: write the manifest although cases were dropped; it lists them.

    Raises:
        CohortError: no case is left; or cases were dropped, named with their reasons, after the others were done and
            without writing the manifest.
    """
    folder = folder.resolve()
    conversion = _convert(_Work(download, folder, is_check=False), name, num_processes)
    if not allow_drops:
        require_whole(conversion)
    splits = download.splits([case.name for case in conversion.cohort.cases])
    if splits is not None:
        write_json(splits, folder / SPLITS_NAME)
        cohort = replace(conversion.cohort, splits=folder / SPLITS_NAME)
        conversion = Conversion(cohort, conversion.records)
    write_text(_table(conversion), folder / TABLE_NAME)
    cases.write(conversion.cohort, folder)
    return conversion


def check(download: Download[Any], *, name: str | None = None, num_processes: int = 1) -> Conversion:
    """Say what `convert` would do, and write nothing.

    Raises:
        CohortError: no case would be left.
    """
    with tempfile.TemporaryDirectory(prefix="backsplit-") as scratch:
        return _convert(_Work(download, Path(scratch).resolve(), is_check=True), name, num_processes)


def require_whole(conversion: Conversion) -> None:
    """Refuse a conversion that dropped cases.

    Raises:
        CohortError: names them with their reasons.
    """
    if dropped := conversion.dropped:
        told = "; ".join(f"{case.name}: {case.reason}" for case in dropped)
        raise CohortError(
            f"{len(dropped)} of {len(dropped) + len(conversion.cohort.cases)} cases cannot be used, the others are "
            f"ready: {told}; mend them and run the same command again, or leave them out with --allow-drops"
        )


def summarise(conversion: Conversion) -> list[dict[str, Any]]:
    """One row per class: in how many cases it was looked for and found, voxels and mL of all, and mL per case."""
    rows = []
    for _, name in conversion.cohort.label_names[1:]:
        amounts = [record["ml"][name] for record in conversion.records.values() if name in record["ml"]]
        rows.append(
            {
                "class": name,
                "num_annotated": sum(_is_annotated(case, name) for case in conversion.cohort.cases),
                "num_present": len(amounts),
                "voxels": sum(record["voxels"].get(name, 0) for record in conversion.records.values()),
                "median_ml": float(np.median(amounts)) if amounts else np.nan,
                "total_ml": float(sum(amounts)),
            }
        )
    return rows


def _convert(work: _Work, name: str | None, num_processes: int) -> Conversion:
    listing = work.download.find()
    waiting = [found for found in listing.found if not _is_done(found, work)]
    dropped = [*listing.dropped, *_run(waiting, work, num_processes)]
    for case in listing.dropped:
        logger.warning("%s: dropped: %s", case.name, case.reason)
    lost = {case.name for case in dropped}
    records = {
        found.name: json.loads(work.record(found.name).read_text()) for found in listing.found if found.name not in lost
    }
    cohort = Cohort(
        name=name or work.download.name,
        channels=work.download.channels,
        label_names=work.download.label_names,
        cases=tuple(_case_of(name, record, work.folder) for name, record in records.items()),
        provenance=(("converted", _told(work.download.how)),),
        dropped=tuple(sorted(dropped, key=lambda case: case.name)),
        ignore=work.download.ignore,
    )
    if not cohort.cases:
        require_whole(Conversion(cohort, records))
        raise CohortError(f"{cohort.name}: the download holds no case; check the folder")
    return Conversion(cohort, records)


def _told(how: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {value}" for key, value in how.items())


def _run(waiting: Sequence[Found], work: _Work, num_processes: int) -> Iterator[DroppedCase]:
    """Do the waiting cases; yield those that failed."""
    ended = run_each(_convert_case, waiting, given=work, num_processes=num_processes, faults=(BackSplitError,))
    for found, error in track_some(ended, "checked" if work.is_check else "converted", total=len(waiting)):
        if error is not None:
            reason = reason_of(error, found.name)
            logger.warning("%s: dropped: %s", found.name, reason)
            yield DroppedCase(found.name, reason)


def _is_done(found: Found, work: _Work) -> bool:
    """Whether a case was converted from today's files in today's way, and is still whole."""
    path = work.record(found.name)
    if not path.exists():
        return False
    record = json.loads(path.read_text())
    files = [*record["images"], *([] if record["labels"] is None else [record["labels"]])]
    is_whole = all((work.folder / file).exists() for file in files)
    return is_whole and record["how"] == work.how and record["inputs"] == _digest(found.files)


def _digest(files: Sequence[Path]) -> str:
    """What tells the files of a case from earlier ones, without naming them: names may give a patient away."""
    return hashlib.sha256("\n".join(stamps(files)).encode()).hexdigest()


def _convert_case(found: Found, work: _Work) -> None:
    """Describe a case, check it, write what has to be written, and the record last."""
    inputs = _digest(found.files)
    try:
        described = work.download.describe(found)
        labels = [] if described.labels is None else [described.labels]
        grid = common_grid([*described.images, *labels])
        for image in described.images:
            if isinstance(image, Path):
                check_complete(image)
        amounts = _amounts(described, grid, work.download)
        annotated = _annotated(described, amounts["voxels"], work.download.label_names)
    except OSError as error:
        raise VolumeError(f"{found.name}: cannot be read: {error}") from error
    record = {
        "version": 1,
        "how": work.how,
        "inputs": inputs,
        "group": described.group,
        "annotated": annotated,
        "images": [
            _kept(image, Path("images") / f"{found.name}_{channel:04}.nii.gz", work)
            for channel, image in enumerate(described.images)
        ],
        "labels": described.labels and _kept(described.labels, Path("labels") / f"{found.name}.nii.gz", work),
        "notes": described.notes,
        "shape": grid.shape,
        "spacing_mm": grid.spacing_mm,
        **amounts,
    }
    write_json(record, work.record(found.name))


def _kept(content: Path | Volume, place: Path, work: _Work) -> str:
    """Where a file of the download is, or where a volume was written to, relative to the folder of the cohort."""
    if isinstance(content, Path):
        return str(content)
    if not work.is_check:
        write_volume(content, work.folder / place)
    return str(place)


def _amounts(described: Described, grid: Grid, download: Download[Any]) -> dict[str, Any]:
    """Voxels and mL of each class that has some; nothing for a case without labels.

    Raises:
        LabelError: a label value without a name.
    """
    if described.labels is None:
        return {"voxels": {}, "ml": {}}
    labels = read_labels(described.labels).voxels if isinstance(described.labels, Path) else described.labels.voxels
    counts, names = count_labels(labels), dict(download.label_names)
    counts.pop(download.ignore, None)
    if foreign := sorted(counts.keys() - names.keys()):
        raise LabelError(
            f"label values {foreign[:10]} have no name in the data set, which has {names}; mend the label map"
        )
    voxels = {names[value]: count for value, count in counts.items() if value}
    return {"voxels": voxels, "ml": {name: round(count * grid.voxel_ml, 6) for name, count in voxels.items()}}


def _annotated(
    described: Described, voxels: Mapping[str, int], label_names: Sequence[tuple[int, str]]
) -> tuple[str, ...] | None:
    """Classes that were looked for, None for all of them."""
    unknown = set(described.unknown_if_absent) - voxels.keys()
    if not unknown or described.labels is None:
        return described.annotated
    known = described.annotated if described.annotated is not None else [name for value, name in label_names if value]
    return tuple(name for name in known if name not in unknown)


def _case_of(name: str, record: Mapping[str, Any], folder: Path) -> Case:
    return Case(
        name=name,
        images=tuple(folder / image for image in record["images"]),
        labels=None if record["labels"] is None else folder / record["labels"],
        group=record["group"],
        annotated=None if record["annotated"] is None else tuple(record["annotated"]),
    )


def _table(conversion: Conversion) -> str:
    """One row per case, as CSV.

    Patient, geometry, mL of each class (empty where it was not looked for), classes looked for in vain, notes.
    """
    names = [name for value, name in conversion.cohort.label_names if value]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "group", "shape", "spacing_mm", *(f"{name}_ml" for name in names), "absent", "notes"])
    for case in conversion.cohort.cases:
        record = conversion.records[case.name]
        geometry = ("x".join(f"{number:g}" for number in record[key]) for key in ("shape", "spacing_mm"))
        amounts = (f"{record['ml'].get(name, 0):g}" if _is_annotated(case, name) else "" for name in names)
        absent = (name for name in names if _is_annotated(case, name) and name not in record["voxels"])
        row = (case.name, case.group, *geometry, *amounts, "; ".join(absent), "; ".join(record["notes"]))
        table.writerow(row)
    return text.getvalue()


def _is_annotated(case: Case, name: str) -> bool:
    return case.labels is not None and (case.annotated is None or name in case.annotated)
