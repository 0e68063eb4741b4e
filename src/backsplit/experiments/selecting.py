"""Rank the auxiliary classes of a composed cohort, and keep the choice as a file that `train` takes."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from backsplit.cases import Case, Cohort
from backsplit.errors import BackSplitError, CohortError, ConfigurationError, ParityError
from backsplit.files import write_json
from backsplit.labels import clear_ignored
from backsplit.nnunet.dataset import scheme_of
from backsplit.nnunet.prediction import read_predictions
from backsplit.progress import track
from backsplit.selection import Evidence, Turn, gather, rank
from backsplit.volume import Volume, read_labels


def rank_auxiliaries(
    cohort: Cohort, baseline: Mapping[str, Path], turns: Mapping[str, Turn] | None = None
) -> pd.DataFrame:
    """See `selection.rank`.

    Args:
        cohort: composed, with all candidates as auxiliaries.
        baseline: mask of a binary baseline, by case; cases without one say nothing about false alarms.
        turns: by class, from a fine model; see `experiments.information.turns`.

    Raises:
        CohortError: the cohort is not composed, a case has no labels, or no case has a lesion.
        GeometryError: labels and prediction of a case lie on different grids.
    """
    scheme = scheme_of(cohort)
    if not scheme.auxiliaries:
        raise CohortError(f"{cohort.name}: no auxiliary to choose from; name candidates with `compose --auxiliaries`")
    return rank([_evidence(case, cohort, baseline) for case in track(cohort.cases, "looked at")], scheme, turns)


def _evidence(case: Case, cohort: Cohort, baseline: Mapping[str, Path]) -> Evidence:
    if case.labels is None:
        raise CohortError(f"{case.name}: has no label map; select among auxiliaries on labelled cases")
    try:
        labels, prediction = read_labels(case.labels), None
        (fine,) = clear_ignored(labels.voxels, ignore=cohort.ignore)
        if case.name in baseline:
            prediction = read_labels(baseline[case.name])
            if prediction.grid.difference(labels.grid) is None:
                _, predicted = clear_ignored(labels.voxels, prediction.voxels, ignore=cohort.ignore)
                prediction = Volume(predicted, prediction.grid)
        kept = Volume(fine, labels.grid)
        return gather(kept, scheme_of(cohort), annotated=case.annotated, prediction=prediction)
    except BackSplitError as error:
        raise type(error)(f"{case.name}: {error}") from error


def baseline_masks(folder: Path, manifest: Path) -> dict[str, Path]:
    """Masks of a folder that `backsplit predict` wrote, by case.

    Args:
        folder: of the predictions.
        manifest: of the cohort that they must belong to.

    Raises:
        ParityError: they belong to another cohort, or show all classes.
        ModelError: the folder holds no predictions.
    """
    made = read_predictions(folder)
    if Path(made["cohort"]) != manifest.resolve():
        raise ParityError(f"{folder} holds predictions for {made['cohort']}, not for {manifest}; predict these cases")
    if made["all_classes"]:
        raise ParityError(f"{folder} was predicted with --all-classes; false alarms need target-only masks")
    return {name: folder / f"{name}.nii.gz" for name in made["cases"]}


def write_choice(table: pd.DataFrame, path: Path) -> list[str]:
    """Write the recommended auxiliaries, best first, for `train --arm subset --selection`; return them.

    Raises:
        CohortError: none is recommended.
    """
    chosen = table.loc[table["recommended"], "class"].tolist()
    if not chosen:
        raise CohortError(
            "no auxiliary lies near the lesions, collects false alarms or tells much about the target; train with "
            "all, or bring other classes"
        )
    write_json({"auxiliaries": chosen, "reasons": dict(zip(table["class"], table["reason"], strict=True))}, path)
    return chosen


def read_choice(path: Path) -> tuple[str, ...]:
    """The auxiliaries of a file that `write_choice` wrote.

    Raises:
        ConfigurationError: it is missing, or not such a file.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["auxiliaries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a selection ({error!r}); write one with `backsplit select`") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{path}: 'auxiliaries' should be a list of names, got {names!r}")
    return tuple(names)
