"""Run a source over a cohort: in workers, resumable case by case, each label map beside a record of how it was made.

Files: `<folder>/masks/<name>/<case>.nii.gz`, `<case>.json` (the record, written last: it marks the case as done) and,
where a case failed, `<case>.log`.
"""

import hashlib
import json
import logging
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from backsplit import cases
from backsplit.arrays import LabelMap
from backsplit.cases import Case, CaseMasks, Cohort, MaskSet
from backsplit.errors import BackSplitError, GeometryError, SourceError
from backsplit.files import stamps, write_json
from backsplit.nnunet.folders import output_to
from backsplit.progress import track_some
from backsplit.resampling import resample_labels
from backsplit.sources.protocol import Masks, MaskSource
from backsplit.sources.quality import measure
from backsplit.volume import Grid, Volume, read_grid, read_labels, write_volume
from backsplit.workers import run_isolated

logger = logging.getLogger(__name__)
Interpolation = Literal["nearest", "linear"]
NUM_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs for every case."""

    source: MaskSource
    name: str
    folder: Path
    """Of the cohort."""
    resample: Interpolation | None
    label_names: tuple[tuple[int, str], ...]

    @property
    def how(self) -> dict[str, Any]:
        """How the masks of this run are made; equal for all of a mask set."""
        return {"structures": list(self.source.structures), "resample": self.resample, **self.source.how}

    def path(self, case: Case, ending: str, *, step: str = "") -> Path:
        """A file of a case; `step` for the sets that a source leaves on its way."""
        return self.folder / "masks" / _joined(self.name, step) / f"{case.name}{ending}"


class _Done(NamedTuple):
    case: Case
    record: dict[str, Any]


def annotate(
    cohort: Cohort,
    source: MaskSource,
    *,
    name: str,
    folder: Path,
    num_processes: int = 1,
    resample: Interpolation | None = None,
) -> Cohort:
    """Add the masks of a source to a cohort, and write its manifest.

    Cases that are done are left alone; the others go on when one fails.

    Args:
        cohort: as `cases.read` gave it.
        source: where masks come from.
        name: of the mask set; masks under one name are all made in the same way.
        folder: of the manifest.
        num_processes: cases at a time.
        resample: bring masks on another grid than the image to the image's; None refuses them. `nearest` takes the
            class of the nearest voxel, `linear` the class that linear interpolation of the one-hot masks gives most of.

    Returns:
        The cohort with the masks.

    Raises:
        SourceError: masks of that name were made otherwise; or some cases failed, named with their last lines, after
            the others were done and the manifest was written.
    """
    work = _Work(source, name, folder.resolve(), resample, cohort.label_names)
    MaskSet(name, source.structures)
    waiting = [case for case in cohort.cases if not _is_done(case, work)]
    failures = _run(waiting, work, num_processes)
    done = [_Done(case, _fresh_record(case, work)) for case in cohort.cases if _is_done(case, work)]
    annotated = _with_masks(cohort, work, done)
    if annotated != cohort:
        cases.write(annotated, folder)
    if failures:
        told = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        logs = work.folder / "masks" / name
        raise SourceError(
            f"{len(failures)} of {len(cohort.cases)} cases failed, the others are done: {told} "
            f"(whole output in {logs}/<case>.log); mend them and run the same command again"
        )
    return annotated


def _run(waiting: Sequence[Case], work: _Work, num_processes: int) -> dict[str, str]:
    """Do the waiting cases; the reason by case for those that failed."""
    if not waiting:
        logger.info("%s: all cases are already annotated", work.name)
        return {}
    failures: dict[str, str] = {}
    jobs = run_isolated(
        _annotate_case, waiting, num_processes=min(num_processes, len(waiting)), begin=_begin, given=work
    )
    for case, error in track_some(jobs, f"{work.name}: annotated", total=len(waiting)):
        if error is not None:
            failures[case.name] = _last_lines(str(error) or repr(error)).removeprefix(f"{case.name}: ")
            logger.warning("%s: failed: %s", case.name, failures[case.name])
    return failures


def _is_done(case: Case, work: _Work) -> bool:
    """Whether a case has masks made of today's inputs.

    Raises:
        SourceError: it has masks that were made otherwise.
    """
    record = work.path(case, ".json")
    if not record.exists():
        return False
    made = json.loads(record.read_text())
    how = json.loads(json.dumps(work.how))
    if changed := [key for key in {**how, **made["how"]} if made["how"].get(key) != how.get(key)]:
        raise SourceError(
            f"{record.parent} holds masks that were made otherwise ({', '.join(changed)}); give these another --name, "
            "or remove that folder"
        )
    return made["inputs"] == stamps(work.source.inputs(case)) and work.path(case, ".nii.gz").exists()


def _fresh_record(case: Case, work: _Work) -> dict[str, Any]:
    """The record of a case; its masks are measured anew, not made, where the case's label map has changed since."""
    for step in sorted(_steps(work), reverse=True):  # the set itself comes last
        path = work.path(case, ".json", step=step)
        record = json.loads(path.read_text()) if path.exists() else None
        if record is not None and record["own_labels"] != _stamp_of_labels(case):
            masks = read_labels(work.path(case, ".nii.gz", step=step))
            own = _own_labels(case, masks.grid)
            measured = measure(masks, work.source.structures, own, work.label_names)
            record = {**record, "own_labels": _stamp_of_labels(case), "quality": measured}
            write_json(record, path)
    return json.loads(work.path(case, ".json").read_text())


def _stamp_of_labels(case: Case) -> list[str]:
    return stamps([] if case.labels is None else [case.labels])


_WORK: list[_Work] = []
"""The one of this worker process."""


def _begin(work: _Work) -> None:
    _WORK[:] = [work]


def _annotate_case(case: Case) -> None:
    """Segment one case in a worker; what the tool prints goes to a log that stays if it fails."""
    (work,) = _WORK
    log = work.path(case, ".log")
    log.unlink(missing_ok=True)
    try:
        with output_to(log), tempfile.TemporaryDirectory(prefix="backsplit-") as scratch:
            start, inputs = time.monotonic(), stamps(work.source.inputs(case))
            masks = work.source.segment(case, Path(scratch))
            made = {"inputs": inputs, "seconds": round(time.monotonic() - start, 3)}
            _write(case, masks, work, made)
    except Exception as error:
        with log.open("a", encoding="utf-8") as stream:
            traceback.print_exc(file=stream)
        if isinstance(error, BackSplitError):
            raise
        raise SourceError(f"{type(error).__name__}: {error}") from None
    log.unlink(missing_ok=True)


def _write(case: Case, masks: Masks, work: _Work, made: Mapping[str, Any]) -> None:
    grid = read_grid(case.images[0])
    own = _own_labels(case, grid)
    structures = work.source.structures
    for step, volume in {**masks.intermediate, "": masks.volume}.items():
        fitted = _on_grid(case, volume, work.resample, grid)
        narrow = fitted.voxels.astype(np.min_scalar_type(len(structures)))
        path = work.path(case, ".nii.gz", step=step)
        write_volume(Volume(narrow, grid), path)
        record = {
            "version": 1,
            "case": case.name,
            "how": work.how,
            **made,
            "annotated": list(structures if masks.annotated is None else masks.annotated),
            "labels": {name: value for value, name in enumerate(structures, start=1)},
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "details": dict(masks.details),
            "own_labels": _stamp_of_labels(case),
            "quality": measure(Volume(narrow, grid), structures, own, work.label_names),
        }
        write_json(record, work.path(case, ".json", step=step))


def _own_labels(case: Case, grid: Grid) -> LabelMap | None:
    if case.labels is None:
        return None
    labels = read_labels(case.labels)
    if difference := grid.difference(labels.grid):
        raise GeometryError(
            f"{case.name}: image and label map are on different grids: {difference}; bring the label map to the image's"
        )
    return labels.voxels


def _on_grid(case: Case, volume: Volume, resample: Interpolation | None, grid: Grid) -> Volume:
    difference = grid.difference(volume.grid)
    if difference is None:
        return volume
    if resample is None:
        raise GeometryError(
            f"{case.name}: image and masks are on different grids: {difference}; they may be of different scans, else "
            "bring them together with --resample nearest or --resample linear"
        )
    return resample_labels(volume, grid, interpolation=resample)


def _with_masks(cohort: Cohort, work: _Work, done: Sequence[_Done]) -> Cohort:
    """The cohort with all mask sets of this run, the intermediate ones too."""
    steps = sorted(_steps(work))
    names = [_joined(work.name, step) for step in steps]
    others = tuple(masks for masks in cohort.masks if masks.name not in names)
    records = {each.case.name: each.record for each in done}

    def added(case: Case) -> Case:
        kept = tuple(masks for masks in case.masks if masks.source not in names)
        if case.name not in records:
            return replace(case, masks=kept)
        annotated: Sequence[str] | None = records[case.name]["annotated"]
        chosen = None if tuple(annotated or ()) == work.source.structures else tuple(annotated or ())
        new = tuple(
            CaseMasks(_joined(work.name, step), work.path(case, ".nii.gz", step=step), chosen)
            for step in steps
            if work.path(case, ".json", step=step).exists()
        )
        return replace(case, masks=(*kept, *new))

    sets = tuple(MaskSet(name, work.source.structures) for name in names if done)
    cases = tuple(added(case) for case in cohort.cases)
    return replace(
        cohort, masks=(*others, *sets), cases=cases, provenance=_provenance(cohort, work, has_masks=bool(sets))
    )


def _provenance(cohort: Cohort, work: _Work, *, has_masks: bool) -> tuple[tuple[str, str], ...]:
    """What is known of the cohort, with tool, weights and licence of these masks in the place they had before."""
    name, how = f"masks {work.name}", work.how
    told = [f"{key} {_plain(how[key])}" for key in ("tool", "version", "weights", "licence") if key in how]
    known = dict(cohort.provenance)
    if not has_masks or known.get(name) == ", ".join(told):
        return cohort.provenance
    return (*(entry for entry in cohort.provenance if entry[0] != name), (name, ", ".join(told)))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _steps(work: _Work) -> set[str]:
    """Words of the intermediate sets on disk that were made by this run's way; the empty word is the set itself."""
    root, start = work.folder / "masks", f"{work.name}-"
    found = {""}
    for folder in (path for path in root.glob("*") if path.is_dir() and path.name.startswith(start)):
        record = next((path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != "."), None)
        if record is not None and json.loads(record.read_text())["how"] == json.loads(json.dumps(work.how)):
            found.add(folder.name.removeprefix(start))
    return found


def _joined(name: str, step: str) -> str:
    return f"{name}-{step}" if step else name


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-NUM_LAST_LINES:])


def records_of(cohort: Cohort, name: str) -> Mapping[str, dict[str, Any]]:
    """The record of each case that has masks of this name.

    Raises:
        SourceError: a record is missing.
    """
    records = {}
    for case in cohort.cases:
        if masks := case.masks_of(name):
            path = masks.path.with_name(f"{case.name}.json")
            if not path.exists():
                raise SourceError(f"{case.name}: no record {path} beside its masks; annotate it again")
            records[case.name] = json.loads(path.read_text())
    return records
