"""Score the predictions of a workspace: in workers, resumable case by case, faults case by case.

Files: `scores/records/<arm>/<case>.json`; once every case has one, `scores.csv`, `lesions.csv` and `summary.csv` are
made of them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from backsplit import cases
from backsplit.cases import Case
from backsplit.errors import BackSplitError, CohortError, GeometryError, LabelError, reason_of
from backsplit.evaluation import (
    LESION_COLUMNS,
    EmptyPolicy,
    Scoring,
    Subject,
    read_scores,
    score_label_maps,
    summarise,
    write_rows,
    write_table,
)
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import predicted_arms, same_in_all
from backsplit.files import stamps, write_json
from backsplit.labels import LabelScheme, clear_ignored
from backsplit.nnunet.arms import BLOCK
from backsplit.nnunet.dataset import scheme_of
from backsplit.nnunet.prediction import read_plans
from backsplit.progress import track_some
from backsplit.volume import read_labels
from backsplit.workers import run_each

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Job:
    """One case of one arm."""

    subject: Subject
    reference: Path
    prediction: Path
    record: Path


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs for every job."""

    scheme: LabelScheme
    ignore: int | None
    scoring: Scoring

    @property
    def how(self) -> dict[str, Any]:
        """What changes the scores, as it comes back from a record."""
        told = {"version": RECORD_VERSION, "scoring": asdict(self.scoring), "targets": self.scheme.targets}
        return json.loads(json.dumps({**told, "ignore": self.ignore}))


def evaluate(workspace: Workspace, *, scoring: Scoring, policy: EmptyPolicy, num_processes: int = 1) -> pd.DataFrame:
    """Score every predicted case of every arm; write `scores.csv`, `lesions.csv` and `summary.csv`, return the summary.

    Cases that were scored from the same files in the same way are not scored again.

    Args:
        workspace: with predictions.
        scoring: tolerances and definitions.
        policy: for the summary; scores on disk are as they come.
        num_processes: cases at a time.

    Raises:
        ConfigurationError: no predictions, or predictions of all classes.
        ParityError: arms predicted cases of different cohorts.
        CohortError: cases that cannot be scored, named with their reasons, after the others were; no table is written.
    """
    manifests = predicted_arms(workspace)
    manifest = Path(same_in_all(manifests, "cohort"))
    cohort = cases.read(manifest)
    work = _Work(scheme_of(cohort), cohort.ignore, scoring)
    jobs = [_job(workspace, cohort.case(name), arm, told) for arm, told in manifests.items() for name in told["cases"]]
    faults = [
        *_strays(workspace, manifests),
        *_run([job for job in jobs if not _is_done(job, work)], work, num_processes),
    ]
    if faults:
        raise CohortError(
            f"{len(faults)} of {len(jobs)} masks cannot be scored, so no table is written: {'; '.join(faults)}"
        )
    records = [json.loads(job.record.read_text()) for job in jobs]
    write_rows([row for record in records for row in record["scores"]], workspace.scores)
    write_rows([row for record in records for row in record["lesions"]], workspace.lesions, columns=LESION_COLUMNS)
    write_json({"cohort": str(manifest), "empty_policy": policy.name, "scoring": asdict(scoring)}, workspace.study)
    summary = summarise(read_scores(workspace.scores), policy)
    write_table(summary, workspace.summary)
    return summary


def _job(workspace: Workspace, case: Case, arm: str, manifest: dict[str, Any]) -> _Job:
    if case.labels is None:
        raise CohortError(f"{case.name}: no reference labels in its cohort; it cannot be scored")
    seed = str(read_plans(Path(manifest["model"]))[BLOCK]["seed"])
    group = "" if case.group == case.name else case.group
    subject = Subject(arm, manifest["cases"][case.name], case.name, manifest["rule"], seed, group)
    file = workspace.predictions_of(arm) / f"{case.name}.nii.gz"
    return _Job(subject, case.labels, file, workspace.score_records / arm / f"{case.name}.json")


def _strays(workspace: Workspace, manifests: dict[str, dict[str, Any]]) -> list[str]:
    """Masks that the manifest of their folder does not list."""
    found = []
    for arm, manifest in manifests.items():
        names = {path.name.removesuffix(".nii.gz") for path in workspace.predictions_of(arm).glob("[!.]*.nii.gz")}
        found += [
            f"{arm}: {name}: is not among the cases that were predicted; remove it"
            for name in sorted(names - manifest["cases"].keys())
        ]
    return found


def _is_done(job: _Job, work: _Work) -> bool:
    if not job.record.exists():
        return False
    record = json.loads(job.record.read_text())
    told = (record["how"], record["subject"], record["inputs"])
    return told == (work.how, asdict(job.subject), stamps([job.reference, job.prediction]))


def _run(waiting: Sequence[_Job], work: _Work, num_processes: int) -> list[str]:
    """Do the waiting jobs; what is wrong with those that failed."""
    faults = []
    ended = run_each(_score, waiting, given=work, num_processes=num_processes, faults=(BackSplitError,))
    for job, error in track_some(ended, "scored", total=len(waiting)):
        if error is not None:
            faults.append(f"{job.subject.arm}: {job.subject.case}: {reason_of(error, job.subject.case)}")
    return sorted(faults)


def _score(job: _Job, work: _Work) -> None:
    """Score one case and write its record."""
    inputs, name = stamps([job.reference, job.prediction]), job.subject.case
    if not job.prediction.exists():
        raise CohortError(
            f"{name}: no prediction {job.prediction}; run `backsplit predict` again, it goes on from here"
        )
    reference, prediction = read_labels(job.reference), read_labels(job.prediction)
    if difference := reference.grid.difference(prediction.grid):
        raise GeometryError(f"{name}: reference and prediction differ: {difference}; predict the case again")
    scheme = work.scheme
    if prediction.voxels.max() > scheme.num_targets:
        raise LabelError(
            f"{name}: {job.prediction} has the label {prediction.voxels.max()}, expected 0 to {scheme.num_targets} "
            f"({', '.join(scheme.targets)}); predict the targets alone"
        )
    fine, predicted = clear_ignored(reference.voxels, prediction.voxels, ignore=work.ignore)
    scores = score_label_maps(
        predicted,
        fine,
        subject=job.subject,
        classes=dict(enumerate(scheme.targets, start=1)),
        spacing_mm=reference.grid.spacing_mm,
        scoring=work.scoring,
    )
    told = {"how": work.how, "subject": asdict(job.subject), "inputs": inputs}
    write_json({**told, "scores": scores.scores, "lesions": scores.lesions}, job.record)
