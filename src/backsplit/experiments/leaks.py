"""Scored cases that the models which predicted them have seen in training."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import nnunet_folders, prepared_dataset


def leaked_cases(manifest: Mapping[str, Any], cohort: Cohort) -> list[str]:
    """Names of the predicted cases whose patient or image was in the training of a fold that predicted them.

    Patients are compared within one cohort, since two cohorts may call different patients alike; images by their files.
    Nothing is known, and nobody named, where the model does not lie in the workspace that it was trained in.

    Args:
        manifest: of the predictions.
        cohort: what was predicted.
    """
    trained_in = Workspace(Path(manifest["model"]).parents[2])
    if not trained_in.preparation.exists():
        return []
    dataset, source = prepared_dataset(trained_in)
    splits = json.loads((nnunet_folders(trained_in).preprocessed / dataset / "splits_final.json").read_text())
    prepared = cases.read(source)
    given = Path(manifest["cohort"]).resolve()
    is_same = source.resolve() in (given, given / cases.MANIFEST_NAME)

    def is_seen(case: Case, folds: str) -> bool:
        trained = [prepared.case(name) for name in _trained_on(splits, folds)]
        patients = {each.group for each in trained if is_same}
        return case.group in patients or not _files(trained).isdisjoint(_files([case]))

    return [name for name, folds in manifest["cases"].items() if is_seen(cohort.case(name), folds)]


def _files(some: Iterable[Case]) -> set[Path]:
    return {image.resolve() for case in some for image in case.images}


def _trained_on(splits: list[dict[str, list[str]]], folds: str) -> set[str]:
    """Cases that any of the folds, such as `0+2`, was trained on; `all` is nnU-Net's training without a split."""
    if folds == "all":
        return {name for split in splits for role in split.values() for name in role}
    return {name for fold in folds.split("+") for name in splits[int(fold)]["train"]}
