"""Folds: the cases of a patient stay together, and every fold has cases with a target."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from backsplit.cases import Case
from backsplit.errors import ConfigurationError

SEED = 12345  # nnU-Net's own, so that the folds of a data set without groups are as stable as there

Splits = list[dict[str, list[str]]]


def make_splits(cases: Sequence[Case], has_target: Mapping[str, bool], *, num_folds: int) -> Splits:
    """Training and validation cases of each fold, in nnU-Net's form.

    Args:
        cases: in any order; the result does not depend on it.
        has_target: case name to whether any voxel of a target is in its labels.
        num_folds: 2 or more.

    Raises:
        ConfigurationError: fewer patients than folds, or a fold whose training or validation cases have no target.
    """
    cases = sorted(cases, key=lambda case: case.name)
    names, groups = np.array([case.name for case in cases]), [case.group for case in cases]
    if num_folds < 2 or len(set(groups)) < num_folds:
        raise ConfigurationError(
            f"{len(set(groups))} patients cannot make {num_folds} folds; use --folds with 2 to {len(set(groups))}"
        )
    target = [has_target[case.name] for case in cases]
    if max(sum(target), len(target) - sum(target)) < num_folds:  # the splitter would not try
        raise ConfigurationError(
            f"{sum(target)} cases with a lesion and {len(target) - sum(target)} without cannot make {num_folds} folds; "
            "use fewer --folds or add cases with a lesion"
        )
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # what matters is checked below
        folds = list(splitter.split(names, target, groups))
    splits = [{"train": names[train].tolist(), "val": names[val].tolist()} for train, val in folds]
    _check_targets(splits, has_target, "use fewer --folds or add cases with a lesion")
    return splits


def read_splits(path: Path, cases: Sequence[Case], has_target: Mapping[str, bool]) -> Splits:
    """Folds that somebody else has fixed, such as those of a challenge, in nnU-Net's `splits_final.json`.

    Cases that a fold does not name are neither trained on nor watched there.

    Raises:
        ConfigurationError: not such a file, a case that the cohort lacks, a case or patient on both sides of a fold, or
            a side without a target.
    """
    try:
        splits = [{role: [str(name) for name in fold[role]] for role in ("train", "val")} for fold in _folds(path)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f'{path}: not a file of splits ({error!r}); nnU-Net\'s form is [{{"train": [names], "val": [names]}}, ...]'
        ) from error
    patient = {case.name: case.group for case in cases}
    for number, fold in enumerate(splits):
        unknown = sorted({name for role in fold.values() for name in role} - set(patient))
        if unknown:
            raise ConfigurationError(
                f"{path}: fold {number} names {', '.join(unknown[:3])} ({len(unknown)} in all), which the cohort lacks"
            )
        shared = sorted({patient[name] for name in fold["train"]} & {patient[name] for name in fold["val"]})
        if shared:
            raise ConfigurationError(
                f"{path}: fold {number} trains on and validates with the same patients: {', '.join(shared[:3])}; "
                "their scores would be too good"
            )
    _check_targets(splits, has_target, "mend the file")
    return splits


def _folds(path: Path) -> list[dict[str, list[str]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list) or not content:
        raise ValueError("no list of folds")
    return content


def _check_targets(splits: Splits, has_target: Mapping[str, bool], remedy: str) -> None:
    for fold, split in enumerate(splits):
        for role in ("train", "val"):
            if not any(has_target[name] for name in split[role]):
                raise ConfigurationError(
                    f"fold {fold}: none of its {len(split[role])} {role} cases has a voxel of a target; {remedy}"
                )
