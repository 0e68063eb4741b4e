"""Check, plan and preprocess a cohort once for all arms; resume case by case."""

import hashlib
import json
import logging
import multiprocessing
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from backsplit.cases import Case, Cohort
from backsplit.errors import CohortError, GeometryError, LabelError, VolumeError
from backsplit.files import raise_system_error, write_json
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import BLOCK, SHARED_PLANS, Plans, data_identifier
from backsplit.nnunet.dataset import describe, export, scheme_of
from backsplit.nnunet.folders import Folders, output_to
from backsplit.nnunet.plans import CONFIGURATION, PlanSettings, plan
from backsplit.nnunet.preprocessing import ResizedBy, one_thread
from backsplit.nnunet.splits import Splits, make_splits, read_splits
from backsplit.progress import track
from backsplit.volume import read_labels, read_volume
from backsplit.workers import die_with_parent

logger = logging.getLogger(__name__)
PATIENT_LEFT = 0  # axis of the patient in SimpleITK's system: left, posterior, superior
CASE_SUFFIXES = (".b2nd", "_seg.b2nd", ".pkl")  # nnU-Net's files of one case; the last one marks it as done


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `prepare` left on disk."""

    dataset: str
    num_cases: int
    num_files: int
    """Preprocessed files, shared by all arms."""
    num_bytes: int
    address: str
    """Content address of the preprocessed data: equal addresses, equal data."""


def marker_path(folders: Folders, dataset: str) -> Path:
    """The file that says that a data set is ready to train on."""
    return folders.preprocessed / dataset / "prepared.json"


@dataclass(frozen=True, slots=True)
class Folds:
    """How cases are split."""

    number: int = 5
    """Of the cross-validation; cases of one patient stay together."""
    official: Path | None = None
    """A `splits_final.json` in nnU-Net's form, taken as it is instead of drawing folds."""

    def make(self, cohort: Cohort, has_target: dict[str, bool]) -> Splits:
        """The folds of a cohort; see `splits`."""
        if self.official is None:
            return make_splits(cohort.cases, has_target, num_folds=self.number)
        return read_splits(self.official, cohort.cases, has_target)


def prepare(
    cohort: Cohort, folders: Folders, settings: PlanSettings, *, folds: Folds, dataset_id: int, num_processes: int
) -> Preparation:
    """Bring a composed cohort to where every arm can be trained on it.

    A call that finds its own finished work does nothing; one that finds half of it, after a kill, goes on case by
    case and ends in the same files.

    Raises:
        BackSplitError: a case that cannot be used, by name, before anything is planned.
    """
    folders = folders.activate()
    scheme = scheme_of(cohort)
    dataset = export(cohort, folders, dataset_id=dataset_id)
    address = _address(cohort, settings, folds)
    further = _further_sources(cohort)
    whole = _digest([address, {source: _address(each, settings, folds) for source, each in further.items()}])
    marker = marker_path(folders, dataset)
    if marker.exists() and (done := Preparation(**json.loads(marker.read_text()))).address == whole:
        logger.info("%s is already prepared", dataset)
        return done
    marker.unlink(missing_ok=True)
    checked = _check_cases(cohort, scheme, num_processes)
    for each in further.values():
        _check_cases(each, scheme, num_processes)
    splits = folds.make(cohort, {name: check.has_target for name, check in checked.items()})
    home = folders.preprocessed / dataset
    with output_to(home / "preparation.log"):
        plans = plan(dataset, settings, num_processes=num_processes)
    plans[BLOCK] = {
        "data": address,
        "splits": _digest(splits),
        "plan_settings": settings.to_json(),
        "num_targets": scheme.num_targets,
        "annotated": _annotated(cohort),
        "sources": {source: _annotated(each) for source, each in further.items()},
        "left_right_axis": _left_right_axis(checked.values(), plans["transpose_forward"]),
    }
    write_json(splits, home / "splits_final.json")
    first = home / plans["configurations"][CONFIGURATION]["data_identifier"]
    _preprocess(cohort, plans, first, address, num_processes)
    folders_of_labels = {home / data_identifier(first.name, source): each for source, each in further.items()}
    for folder, each in folders_of_labels.items():
        _preprocess(each, plans, folder, _address(each, settings, folds), num_processes, images=first)
    write_json(plans, home / f"{SHARED_PLANS}.json")
    files = [file for folder in (first, *folders_of_labels) for file in folder.iterdir() if not file.is_symlink()]
    num_bytes = sum(file.stat().st_size for file in files)
    result = Preparation(dataset, len(cohort.cases), len(files), num_bytes, whole)
    write_json(asdict(result), marker)
    return result


def _further_sources(cohort: Cohort) -> dict[str, Cohort]:
    """For each source but the first that the cohort was composed from, the cohort with its labels; the same targets."""
    return {masks.name: _with_labels_of(cohort, masks.name) for masks in cohort.masks[1:]}


def _with_labels_of(cohort: Cohort, source: str) -> Cohort:
    def changed(case: Case) -> Case:
        masks = case.masks_of(source)
        if masks is None:
            raise CohortError(f"{case.name}: no labels composed from {source}; run `backsplit compose` again")
        return replace(case, labels=masks.path, annotated=masks.annotated, masks=())

    return replace(cohort, cases=tuple(map(changed, cohort.cases)), masks=())


def _annotated(cohort: Cohort) -> dict[str, list[str]]:
    """Auxiliaries by case, for the cases that lack some."""
    auxiliaries = scheme_of(cohort).auxiliaries
    return {
        case.name: [name for name in auxiliaries if name in case.annotated]
        for case in cohort.cases
        if case.annotated is not None
    }


def _digest(content: Any) -> str:  # noqa: ANN401  any JSON
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _address(cohort: Cohort, settings: PlanSettings, folds: Folds) -> str:
    """Label files by content, because `compose` may rewrite them; images by size and time, because they are large."""
    official = folds.official and hashlib.sha256(folds.official.read_bytes()).hexdigest()
    files = [
        [
            case.name,
            case.group,
            case.annotated,
            hashlib.sha256(case.labels.read_bytes()).hexdigest() if case.labels else "",
        ]
        + [f"{image}:{image.stat().st_size}:{image.stat().st_mtime_ns}" for image in case.images]
        for case in sorted(cohort.cases, key=lambda case: case.name)
    ]
    names = scheme_of(cohort).names
    return _digest([files, names, cohort.channels, asdict(settings), folds.number, official, version("nnunetv2")])


class _Check(NamedTuple):
    has_target: bool
    left_right_axis: int
    """Of the image's array, `[x, y, z]`: the one along which the patient's left and right lie apart."""


def _check_cases(cohort: Cohort, scheme: LabelScheme, num_processes: int) -> dict[str, _Check]:
    with ThreadPoolExecutor(num_processes) as pool:
        results = pool.map(lambda case: _check_case(case, scheme, cohort.ignore), cohort.cases)
        return {case.name: next(results) for case in track(cohort.cases, "checked")}


def _left_right_axis(checks: Iterable[_Check], transpose_forward: Sequence[int]) -> int | None:
    """The axis of nnU-Net's preprocessed arrays, which are `[z, y, x]` before its transpose; None if cases disagree."""
    axes = {2 - check.left_right_axis for check in checks}
    return list(transpose_forward).index(axes.pop()) if len(axes) == 1 else None


def _check_case(case: Case, scheme: LabelScheme, ignore: int | None) -> _Check:
    """Whether a target is in the case's labels, and how the patient lies in the image.

    Raises:
        BackSplitError: image and labels do not fit each other or the scheme, or a voxel is not a number.
    """
    if case.labels is None:
        raise CohortError(f"{case.name}: no label map; training needs one per case")
    labels = read_labels(case.labels)
    for path in case.images:
        image = read_volume(path)
        if difference := image.grid.difference(labels.grid):
            raise GeometryError(f"{case.name}: image and labels differ: {difference}; both must share one grid")
        if not np.isfinite(image.voxels).all():
            bad = int((~np.isfinite(image.voxels)).sum())
            raise VolumeError(f"{case.name}: {bad} voxels of {path.name} are NaN or infinite; replace them or drop it")
    values = np.unique(labels.voxels)
    num_values = scheme.num_classes + (ignore is not None)
    if values[0] < 0 or values[-1] >= num_values:
        extra = [int(v) for v in values if not 0 <= v < num_values]
        raise LabelError(
            f"{case.name}: label values {extra} are not in the scheme (0 to {scheme.num_classes - 1}); compose again"
        )
    has_target = bool(((values >= 1) & (values <= scheme.num_targets)).any())
    return _Check(has_target, labels.grid.axis_along(PATIENT_LEFT))


def _preprocess(
    cohort: Cohort, plans: Plans, folder: Path, address: str, num_processes: int, *, images: Path | None = None
) -> None:
    """Preprocess the cases of a cohort that are not done, into a folder of nnU-Net's layout.

    Args:
        cohort: the cases.
        plans: shared by all arms.
        folder: for the cases; emptied if it holds those of another address.
        address: of the data.
        num_processes: cases at a time.
        images: folder whose preprocessed images are linked to, so that only labels are new; None makes images too.
    """
    origin = folder.with_name(f"{folder.name}.json")
    if not origin.exists() or json.loads(origin.read_text()) != {"data": address}:
        shutil.rmtree(folder, ignore_errors=True)
        write_json({"data": address}, origin)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):
        leftover.unlink()
    waiting = [case for case in cohort.cases if not (folder / f"{case.name}{CASE_SUFFIXES[-1]}").exists()]
    work = partial(_preprocess_case, plans=plans, dataset_json=describe(cohort), folder=folder, images=images)
    if num_processes == 1:
        for case in track(waiting, "preprocessed"):
            work(case)
        return
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), die_with_parent) as pool:
        results = pool.map(work, waiting)
        for _ in track(waiting, "preprocessed"):
            next(results)


def _preprocess_case(
    case: Case, *, plans: Plans, dataset_json: dict[str, Any], folder: Path, images: Path | None
) -> None:
    manager = PlansManager(plans)
    resampling = plans[BLOCK]["plan_settings"]["resampling"]
    configuration = ResizedBy(manager.get_configuration(CONFIGURATION), resampling, without_images=images is not None)
    unfinished = folder / f".{case.name}"
    try:
        with one_thread():
            DefaultPreprocessor(verbose=False).run_case_save(
                str(unfinished),
                [str(image) for image in case.images],
                str(case.labels),
                manager,
                configuration,
                dataset_json,
            )
    except RuntimeError:  # all that blosc2 says when a disk is full
        raise_system_error(unfinished)
        raise
    if images is not None:
        image = Path(f"{unfinished}{CASE_SUFFIXES[0]}")
        image.unlink()
        image.symlink_to(Path("..") / images.name / f"{case.name}{CASE_SUFFIXES[0]}")
    for suffix in CASE_SUFFIXES:
        Path(f"{unfinished}{suffix}").replace(folder / f"{case.name}{suffix}")
