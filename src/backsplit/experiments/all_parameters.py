"""What labels tell about all parameters of a trained arm, estimated on patches around lesions."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from backsplit.cases import Cohort
from backsplit.errors import CohortError
from backsplit.experiments.looking import border_of, coarsenings_of
from backsplit.nnunet.features import LabelledCase, TrainedNetwork, read_labelled
from backsplit.progress import track
from backsplit.theory.estimators import directional_information, target_direction, traces

NUM_PATCHES = 8
SEED = 0


def of_all_parameters(trained: TrainedNetwork, cohort: Cohort, *, num_probes: int) -> pd.DataFrame:
    """Estimate the information about all parameters on one patch around lesions of the first cases that have any.

    Returns:
        One row per set of labels: `trace`, mean over voxels, and its `standard_error` over random directions;
        `lost`, share of the fine trace; `target_direction`, the information along the direction that moves the
        posterior of the first target at its border most, of unit length.

    Raises:
        CohortError: no case has a voxel of the first target.
        ConfigurationError: fewer than 2 random directions.
    """
    found = list(_patches(trained, cohort))
    if not found:
        raise CohortError(f"{cohort.name}: no case has a voxel of {trained.scheme.targets[0]}")
    patches, coarsenings = [patch for patch, _ in found], coarsenings_of(trained.scheme)
    estimates = traces(trained.network, patches, list(coarsenings.values()), num_probes=num_probes, seed=SEED)
    total: dict[str, Tensor] = {}
    for patch, border in track(found, "differentiated"):
        gradient = target_direction(trained.network, patch, 1, border)
        total = {name: value + total.get(name, 0) for name, value in gradient.items()}
    length = math.sqrt(sum(float((value.cpu().double() ** 2).sum()) for value in total.values()))
    unit = {name: value / length for name, value in total.items()}
    along = directional_information(trained.network, patches, unit, list(coarsenings.values()))
    return pd.DataFrame(
        {
            "labels": list(coarsenings),
            "trace": [each.value for each in estimates],
            "standard_error": [each.standard_error for each in estimates],
            "lost": [1 - each.value / estimates[0].value for each in estimates],
            "target_direction": along,
            "num_patches": len(found),
            "num_probes": num_probes,
        }
    )


def _patches(trained: TrainedNetwork, cohort: Cohort) -> Iterator[tuple[Tensor, Tensor]]:
    """A patch as the network takes it, and the border of the first target in it; not more than `NUM_PATCHES`."""
    number = 0
    for case in cohort.cases:
        seen = read_labelled(trained, case, ignore=cohort.ignore)
        border = border_of(seen.labels, 1)
        if border.any():
            number += 1
            yield _patch_around(border, seen, trained)
        if number == NUM_PATCHES:
            return


def _patch_around(
    border: Bool[np.ndarray, "z y x"], seen: LabelledCase, trained: TrainedNetwork
) -> tuple[Tensor, Tensor]:
    """Cut out a patch around the border voxel that is closest to the middle of all, padded with zeros."""
    network, places = trained.model.network, np.argwhere(border)
    middle = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()]
    edges = np.array(network.patch)
    starts = np.clip(middle - edges // 2, 0, np.maximum(0, np.array(border.shape) - edges))
    cut = tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
    patch, where = torch.zeros(1, len(seen.volume), *edges), torch.zeros(1, *edges)
    inside = tuple(slice(0, length) for length in border[cut].shape)
    patch[0, :, *inside] = seen.volume[:, *cut]
    where[0, *inside] = torch.from_numpy(border[cut]).float()
    patch, where = patch.reshape(*patch.shape[:2], *network.patch_size), where.reshape(1, *network.patch_size)
    return patch.to(network.device), where.to(network.device)
