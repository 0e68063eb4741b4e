"""What labels tell about a trained arm over a cohort: by class, by pair of classes, and about the target."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from backsplit.cases import Cohort
from backsplit.errors import CohortError, ConfigurationError, ParityError
from backsplit.experiments.looking import Looked, Sums, coarsenings_of, look_at_case
from backsplit.experiments.looking_records import REGIONS, read_record, write_record
from backsplit.files import stamps
from backsplit.labels import Coarsening, LabelScheme, identity, into_background, to_target
from backsplit.nnunet.dataset import scheme_of
from backsplit.nnunet.features import TrainedNetwork
from backsplit.progress import track
from backsplit.selection import Turn, forward_greedy
from backsplit.theory import lost_by_class, lost_by_pair
from backsplit.theory.last_layer import Matrix, blocks_of, information, of_logits, within_block
from backsplit.theory.variance import check_classes, ridge_of, target_variance

VERSION = 1  # of a record
PER = 1000
"""Voxels; information of one is a small number."""


def look_at_cohort(trained: TrainedNetwork, cohort: Cohort, folder: Path, *, step_size: float) -> Looked:
    """Look at every case that has not been looked at, and sum up; maps and records go to `folder`.

    Args:
        trained: an arm that tells auxiliaries apart.
        cohort: composed with the scheme that the arm was trained on.
        folder: `maps/<case>.nii.gz` holds the information that binary labels lose, `records/<case>.npz` the sums.
        step_size: distance between tiles as a share of the patch.

    Raises:
        ParityError: arm and cohort have different schemes.
        CohortError: no case has a voxel of a target.
        ConfigurationError: a step that is no share.
        BackSplitError: as `read_labelled` and `tiles`.
    """
    if not 0 < step_size <= 1:
        raise ConfigurationError(f"--step-size is a share of the patch, above 0 to 1; got {step_size}")
    check_schemes(trained, cohort)
    model = _stamp_of(trained)
    total: Looked | None = None
    for case in track(cohort.cases, f"{trained.arm.name}: looked at"):
        record, lost_map = folder / "records" / f"{case.name}.npz", folder / "maps" / f"{case.name}.nii.gz"
        stamp = json.dumps([VERSION, model, cohort.ignore, step_size, stamps(case.files)])
        looked = read_record(record, stamp) if lost_map.exists() else None
        if looked is None:
            looked = look_at_case(trained, case, lost_map, step_size=step_size, ignore=cohort.ignore)
            write_record(looked, record, stamp)
        total = looked if total is None else total.plus(looked)
    if total is None or not sum(total.num_border):
        raise CohortError(f"{cohort.name}: no case has a voxel of a target, so there is no border to look at")
    return total


def check_schemes(trained: TrainedNetwork, cohort: Cohort) -> None:
    """Refuse a cohort of other classes than the arm was trained on.

    Raises:
        ParityError: names both.
    """
    theirs, ours = scheme_of(cohort), trained.arm.scheme
    if theirs != ours:
        raise ParityError(
            f"{trained.arm.name} was trained on {', '.join(ours.names)}, cohort {cohort.name} has "
            f"{', '.join(theirs.names)}; compose it with the same classes in the same order"
        )


def _stamp_of(trained: TrainedNetwork) -> list[str]:
    """What tells a training from another."""
    digest = hashlib.sha256()
    for name, value in trained.network.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return [trained.arm.name, digest.hexdigest()]


def by_class(looked: Looked, scheme: LabelScheme) -> pd.DataFrame:
    """Information about the logits, mean over 1000 voxels, split over classes and over pairs of classes.

    Classes: the part of a class in the trace, $p_k (1 - p_k)$; binary labels tell `fine` minus `lost`. Pairs: another
    split of the same traces, $2 p_j p_k$ for fine labels and $2 p_j p_k / q$ for what merging the pair loses.

    Returns:
        `region` (image, border), `class`, `other` (empty for a class alone), `fine`, `lost`.
    """
    rows = []
    for region in REGIONS:
        fine, lost = (matrix * PER for matrix in _fine_and_lost(getattr(looked, region), scheme))
        single = zip(scheme.names, lost_by_class(fine), lost_by_class(lost), strict=True)
        rows += [(region, name, "", *values) for name, *values in single]
        fine_pairs, lost_pairs = lost_by_pair(fine), lost_by_pair(lost)
        for j, k in zip(*np.triu_indices(scheme.num_classes, 1), strict=True):
            rows.append((region, scheme.names[j], scheme.names[k], fine_pairs[j, k], lost_pairs[j, k]))
    return pd.DataFrame(rows, columns=["region", "class", "other", "fine", "lost"])


def _fine_and_lost(sums: Sums, scheme: LabelScheme) -> tuple[Matrix, Matrix]:
    """Information about the logits, mean over voxels; and what binary labels lose of it."""
    size = scheme.num_classes
    binary = to_target(num_targets=scheme.num_targets, num_fine=size)
    fine, told = (
        of_logits(information(sums.within, each), size) / sums.num_voxels for each in (identity(size), binary)
    )
    return fine, fine - told


def by_coarsening(looked: Looked, scheme: LabelScheme, *, ridge_share: float) -> pd.DataFrame:
    """What each set of labels loses, and the variance of the target's posterior that it leaves.

    Returns:
        One row per target and coarsening: `lost_image` and `lost_border`, shares of the fine information about the
        logits; `lost_last_layer`, share of that about the last layer; `variance`, of the target's posterior at its
        border, from one labelled voxel; `ratio`, to that of fine labels; `ridge`, and the numbers of voxels. A target
        without border voxels has no variance (NaN).

    Raises:
        LabelError: a class that the model never takes for possible, or a ridge below rounding.
    """
    coarsenings = coarsenings_of(scheme)
    known = {name: information(looked.image.within, each) for name, each in coarsenings.items()}
    fine = known["fine"]
    check_classes(fine, scheme.names)
    ridge = ridge_of(fine, share=ridge_share) / looked.image.num_voxels
    rows = []
    for target, gradients, number in zip(scheme.targets, looked.gradients, looked.num_border, strict=True):
        variances = {
            name: target_variance(each / looked.image.num_voxels, gradients / number, ridge=ridge) if number else np.nan
            for name, each in known.items()
        }
        for name, each in coarsenings.items():
            row: dict[str, object] = {"target": target, "labels": name}
            row |= {f"lost_{region}": _lost_share(getattr(looked, region), each) for region in REGIONS}
            row |= {"lost_last_layer": 1 - np.trace(known[name]) / np.trace(fine)}
            row |= {"variance": variances[name], "ratio": variances[name] / variances["fine"], "ridge": ridge}
            rows.append(row | {"num_voxels": looked.image.num_voxels, "num_border": number})
    return pd.DataFrame(rows)


def _lost_share(sums: Sums, coarsening: Coarsening) -> float:
    size = coarsening.num_fine
    fine, told = (np.trace(of_logits(information(sums.within, each), size)) for each in (identity(size), coarsening))
    return float(1 - told / fine)


def turns(looked: Looked, trained: TrainedNetwork, *, ridge_share: float) -> dict[str, Turn]:
    """Take up auxiliaries one after the other, the one that lowers the target's variance most first.

    A walk on the lattice of coarsenings from targets alone to all classes. Information is that of the sampled voxels.

    Returns:
        By auxiliary of the cohort; those that the arm merges with each other share a turn, those that it merges into
        background have none.

    Raises:
        LabelError: as `by_coarsening`.
    """
    scheme = trained.scheme
    check_classes(information(looked.image.within, identity(scheme.num_classes)), scheme.names)
    within = {}

    def known(coarsening: Coarsening) -> Matrix:
        missing = [block for block in blocks_of([coarsening]) if block not in within]
        within.update({block: within_block(looked.sample, block) for block in missing})
        return information(within, coarsening) / looked.image.num_voxels

    ridge = ridge_of(known(identity(scheme.num_classes)), share=ridge_share)
    gradients = sum(looked.gradients[1:], looked.gradients[0]) / sum(looked.num_border)

    def variance(kept: Sequence[str]) -> float:
        merged = [scheme.index(name) for name in scheme.auxiliaries if name not in kept]
        coarsening = into_background(merged, num_fine=scheme.num_classes)
        return target_variance(known(coarsening), gradients, ridge=ridge)

    by_index = {scheme.index(turn.name): turn for turn in forward_greedy(scheme.auxiliaries, variance)}
    arm = trained.arm
    indices = {name: arm.coarsening.parent[arm.scheme.index(name)] for name in arm.scheme.auxiliaries}
    return {name: by_index[index] for name, index in indices.items() if index in by_index}
