"""The log of a training, one row per epoch: CSV, TensorBoard events and a picture; and the clock that times it."""

import csv
import time
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from backsplit.files import replacing

HISTORY_NAME, PICTURE_NAME, EVENTS_NAME = "progress.csv", "progress.png", "tensorboard"
PANELS = {
    "loss": ("train_loss", "validation_loss"),
    "parts of the loss": ("cross_entropy_target", "cross_entropy_auxiliary", "dice_target", "dice_auxiliary"),
    "pseudo-Dice": ("pseudo_dice_",),
    "learning rate": ("learning_rate",),
}
"""Title of each panel of the picture, and the beginnings of the columns that it shows."""

HistoryRow = dict[str, float]


class History:
    """What has been logged so far; every row is on disk before the next epoch starts."""

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        """Take up the log of an interrupted training; what it logged after its last checkpoint is dropped."""
        self.folder = folder
        self.rows = [row for row in read_history(folder / HISTORY_NAME) if row["epoch"] < first_epoch]
        self._events = SummaryWriter(str(folder / EVENTS_NAME), purge_step=first_epoch)

    def append(self, row: HistoryRow) -> None:
        """Add an epoch."""
        self.rows.append(row)
        write_history(self.rows, self.folder / HISTORY_NAME)
        for name, value in row.items():
            self._events.add_scalar(_tag(name), value, int(row["epoch"]))
        self._events.flush()
        draw_history(self.rows, self.folder / PICTURE_NAME)

    def close(self) -> None:
        """Close the event file."""
        self._events.close()


def _tag(column: str) -> str:
    for group in ("pseudo_dice", "cross_entropy", "dice"):
        if column.startswith(f"{group}_"):
            return f"{group}/{column.removeprefix(f'{group}_')}"
    return column


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


def draw_history(rows: list[HistoryRow], path: Path) -> None:
    """Draw the curves of a log as PNG, whole or not at all."""
    figure = Figure(figsize=(10, 6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in rows]
    for axes, (title, beginnings) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name in (name for name in rows[0] if name.startswith(beginnings)):
            axes.plot(epochs, [row[name] for row in rows], label=name, marker="." if len(rows) == 1 else None)
        axes.set(title=title, xlabel="epoch")
        axes.legend(fontsize=6)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


class Clock:
    """Times the epochs of one process of a training."""

    def __init__(self, *, first_epoch: int, num_epochs: int) -> None:
        self.first_epoch = first_epoch
        self.num_epochs = num_epochs
        self.started = self.epoch_started = time.monotonic()
        self.seconds_of_training = 0.0
        """From the start of the epoch to the end of its last optimiser step."""

    def start_epoch(self) -> None:
        """Mark the beginning of an epoch."""
        self.epoch_started = time.monotonic()

    def stop_training(self) -> None:
        """Mark the end of the epoch's optimiser steps."""
        self.seconds_of_training = self.seconds_of_epoch()

    def seconds_of_epoch(self) -> float:
        """Since the epoch began."""
        return time.monotonic() - self.epoch_started

    def seconds_left(self, num_done: int) -> float:
        """Until the last epoch, at the mean speed of this process; `num_done` counts epochs of earlier ones too."""
        per_epoch = (time.monotonic() - self.started) / max(1, num_done - self.first_epoch)
        return per_epoch * (self.num_epochs - num_done)
