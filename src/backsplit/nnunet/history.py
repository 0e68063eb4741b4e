"""The log of a training: one row per epoch, and the clock that times it."""

import csv
import time
from pathlib import Path

from backsplit.files import replacing

HISTORY_NAME = "progress.csv"
SECONDS_BETWEEN_PLOTS = 30.0

HistoryRow = dict[str, float]


def read_history(path: Path) -> list[HistoryRow]:
    """Rows of a log, oldest first; none if there is no log yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def write_history(rows: list[HistoryRow], path: Path) -> None:
    """Write all rows, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


class Clock:
    """Times the epochs of one process of a training."""

    def __init__(self, *, first_epoch: int, num_epochs: int) -> None:
        self.first_epoch = first_epoch
        self.num_epochs = num_epochs
        self.started = self.epoch_started = self.plotted = time.monotonic()

    def start_epoch(self) -> None:
        """Mark the beginning of an epoch."""
        self.epoch_started = time.monotonic()

    def seconds_of_epoch(self) -> float:
        """Since the epoch began."""
        return time.monotonic() - self.epoch_started

    def seconds_left(self, num_done: int) -> float:
        """Until the last epoch, at the mean speed of this process; `num_done` counts epochs of earlier ones too."""
        per_epoch = (time.monotonic() - self.started) / max(1, num_done - self.first_epoch)
        return per_epoch * (self.num_epochs - num_done)

    def is_time_to_plot(self) -> bool:
        """Whether the last plot is old enough; a plot takes about a second, which short epochs cannot spare."""
        if time.monotonic() - self.plotted < SECONDS_BETWEEN_PLOTS:
            return False
        self.plotted = time.monotonic()
        return True
