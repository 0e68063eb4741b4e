"""Folds: the cases of a patient stay together, and every fold has cases with a target."""

import warnings
from collections.abc import Mapping, Sequence

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
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # what matters is checked below
        folds = list(splitter.split(names, target, groups))
    splits = [{"train": names[train].tolist(), "val": names[val].tolist()} for train, val in folds]
    for fold, split in enumerate(splits):
        for role in ("train", "val"):
            if not any(has_target[name] for name in split[role]):
                raise ConfigurationError(
                    f"fold {fold}: none of its {len(split[role])} {role} cases has a voxel of a target; "
                    "use fewer --folds or add cases with a lesion"
                )
    return splits
