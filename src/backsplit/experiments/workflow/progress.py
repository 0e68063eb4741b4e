"""The whole grid in one view: done, running, failed, left."""

import contextlib
import logging
from collections import Counter
from collections.abc import Generator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from backsplit.experiments.grid import KINDS, Grid, Training
from backsplit.nnunet.history import HISTORY_NAME, read_history
from backsplit.progress import format_duration

logger = logging.getLogger(__name__)
MOST_ROWS = 12
"""Running or failed jobs that are shown one by one."""


class Progress:
    """What is known of a run: from Snakemake's events, and from the logs that trainings write epoch by epoch."""

    def __init__(self, grid: Grid, console: Console | None = None) -> None:
        self._grid = grid
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._trainings = {training.job: training for training in grid.trainings}
        self._done = {job.name for job in grid.jobs if grid.is_done(job)}
        self.running: list[str] = []
        self.failed: list[str] = []

    def note(self, event: dict[str, str] | None) -> None:
        """Take in what Snakemake told; a line each where there is no terminal."""
        if event is None or "job" not in event:
            return
        job, what = event["job"], event["event"]
        if job in self.running:
            self.running.remove(job)
        if what == "started":
            self.running.append(job)
        elif what == "finished":
            self._done.add(job)
        elif what == "failed" and job not in self.failed:
            self.failed.append(job)
        if not self._console.is_terminal:
            logger.info("%s %s (%d of %d done)", what, job, len(self._done), len(self._grid.jobs))

    def refresh(self) -> None:
        """Draw the view anew."""
        if self._live is not None:
            self._live.update(self.picture())

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """Show the view while the block runs, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(self.picture(), console=self._console, refresh_per_second=4) as self._live:
            yield
            self.refresh()
        self._live = None

    def picture(self) -> Group:
        """The view as it is now."""
        table = Table(box=None, pad_edge=False)
        for column in ("", "done", "running", "failed", "left"):
            table.add_column(column, justify="left" if not column else "right")
        names = [job.name for job in self._grid.jobs]
        for kind in KINDS:
            of_kind = [name for name in names if name.startswith(f"{kind}/")]
            if of_kind:
                counts = Counter(map(self._state, of_kind))
                table.add_row(kind, *(str(counts[state]) for state in ("done", "running", "failed", "left")))
        lines = [f"running  {job}{self._epoch(job)}" for job in self.running[:MOST_ROWS]]
        lines += [f"failed   {job}: {self._log_end(job)}" for job in self.failed[:MOST_ROWS]]
        return Group(table, *map(Text, lines))

    def _state(self, job: str) -> str:
        if job in self._done:
            return "done"
        return "running" if job in self.running else "failed" if job in self.failed else "left"

    def _epoch(self, job: str) -> str:
        training = self._trainings.get(job)
        rows = [] if training is None else read_history(history_of(training))
        if training is None or not rows:
            return ""
        done = int(rows[-1]["epoch"]) + 1
        seconds = sum(row["seconds"] for row in rows) / len(rows) * (training.epochs - done)
        return f": epoch {done} of {training.epochs}, {format_duration(seconds)} left"

    def _log_end(self, job: str) -> str:
        return last_lines(self._grid.store.log(job), 3)


def history_of(training: Training) -> Path:
    """The log of a training; a path that does not exist where it has not begun."""
    pattern = f"*/*__{training.name}__*/fold_{training.fold}/{HISTORY_NAME}"
    return next(training.workspace.results.glob(pattern), training.workspace.results / HISTORY_NAME)


def last_lines(log: Path, number: int) -> str:
    """The last lines of a log that are not empty."""
    if not log.exists():
        return "no log"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-number:]) or "nothing was printed"
