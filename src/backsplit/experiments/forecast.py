"""What a grid will take: jobs by kind, hours of training, disk."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backsplit import cases
from backsplit.errors import ConfigurationError
from backsplit.experiments.grid import KINDS, Grid, Training
from backsplit.experiments.recipes import Data
from backsplit.experiments.workflow.progress import history_of
from backsplit.learning.networks import NetworkName
from backsplit.nnunet.history import HISTORY_NAME, read_history
from backsplit.nnunet.networks import CONFIGURATION_OF, NetworkSettings
from backsplit.nnunet.parameters import count_parameters

CHECKPOINTS, COPIES, BYTES = 2, 3, 4
"""Files that a training leaves (final, best); weights with two moments of the optimiser in each; of float32."""
GROWTH_OF_IMAGES = 2.0
"""Preprocessed float32 against compressed images on disk: a rule of thumb, as spacing and content decide."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of the jobs that are not done."""

    left: dict[str, int]
    done: dict[str, int]
    """Jobs by kind."""
    hours: float | None
    """Of training, on one device; None where no seconds per epoch are measured or stated."""
    num_bytes: int
    """That preprocessed images and checkpoints will take."""
    free_bytes: int

    def text(self) -> str:
        """For a terminal."""
        lines = [
            f"{kind:9} {self.left.get(kind, 0):5} to do {self.done.get(kind, 0):5} done"
            for kind in KINDS
            if self.left.get(kind, 0) + self.done.get(kind, 0)
        ]
        lines.append(f"{'jobs':9} {sum(self.left.values()):5} to do {sum(self.done.values()):5} done")
        known = "unknown: nothing is measured yet; state budget.seconds_per_epoch"
        hours = known if self.hours is None else f"{self.hours:.1f} device-hours"
        lines.append(f"training  {hours}")
        lines.append(f"disk      about {self.num_bytes / 1e9:.2f} GB, {self.free_bytes / 1e9:.1f} GB are free")
        return "\n".join(lines)


def forecast(grid: Grid) -> Forecast:
    """What is left to do, and what it takes.

    Raises:
        ConfigurationError: the disk has no room for it.
    """
    done = Counter(job.kind for job in grid.jobs if grid.is_done(job))
    left = Counter(job.kind for job in grid.jobs if not grid.is_done(job))
    waiting = [each for each in grid.trainings if not grid.store.marker(each.job).exists()]
    seconds = [_seconds(training, grid) for training in waiting]
    hours = None if None in seconds else sum(each for each in seconds if each is not None) / 3600
    num_bytes = round(sum(_bytes_of_data(grid))) + sum(_bytes_of(training, grid) for training in waiting)
    root = next(folder for folder in (grid.store.root, *grid.store.root.parents) if folder.exists())
    free = shutil.disk_usage(root).free
    if num_bytes > free:
        raise ConfigurationError(
            f"{grid.recipe.name}: about {num_bytes / 1e9:.1f} GB are needed in {root}, {free / 1e9:.1f} GB are free; "
            "make room or use another --workspace"
        )
    return Forecast(dict(left), dict(done), hours, num_bytes, free)


def _seconds(training: Training, grid: Grid) -> float | None:
    """What is left of a training at the speed that is stated, or that was measured on the same data and network."""
    rows = read_history(history_of(training))
    stated = grid.recipe.budget.seconds_per_epoch
    measured = _measured(training.workspace.results, training.network.network)
    per_epoch = stated if stated is not None else measured
    return None if per_epoch is None else per_epoch * (training.epochs - len(rows))


@cache
def _measured(results: Path, network: NetworkName) -> float | None:
    """Mean seconds per epoch of the trainings there are."""
    logs = results.glob(f"*/*__*__{CONFIGURATION_OF[network]}/fold_*/{HISTORY_NAME}")
    seconds = [row["seconds"] for log in logs for row in read_history(log)]
    return sum(seconds) / len(seconds) if seconds else None


def _bytes_of(training: Training, grid: Grid) -> int:
    data = next(data for name, data in grid.recipe.data.items() if training.workspace.root.name == grid.addresses[name])
    features = training.network.features
    if features is None and training.network.network in {"unet", "resenc-m"}:
        features = data.prepare.features
    return CHECKPOINTS * COPIES * BYTES * _parameters(training.network.network, features, len(data.auxiliaries))


@cache
def _parameters(network: NetworkName, features: tuple[int, ...] | None, num_auxiliaries: int) -> int:
    settings = NetworkSettings(features=features)
    return count_parameters(network, num_classes=2 + num_auxiliaries, settings=settings).num_trained


def _bytes_of_data(grid: Grid) -> Iterator[float]:
    for name, data in grid.recipe.data.items():
        if not grid.store.data(grid.addresses[name]).preparation.exists():
            yield _bytes_of_images(data)


def _bytes_of_images(data: Data) -> float:
    if data.phantom is not None:
        return data.phantom.num_cases * data.phantom.size**3 * (BYTES + 2) * 2  # drawn, then preprocessed
    if data.cohort is not None:
        return GROWTH_OF_IMAGES * sum(
            image.stat().st_size for case in cases.read(data.cohort).cases for image in case.images
        )
    return GROWTH_OF_IMAGES * sum(path.stat().st_size for path in Path(data.folder or ".").rglob("*") if path.is_file())
