"""Run a grid: write down what is to be done, start Snakemake, follow it, say what came of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import yaml

from backsplit.errors import BackSplitError
from backsplit.experiments.grid import Grid, Job
from backsplit.experiments.jobs import LIFELINE, SLOTS, lay_out, visible_devices
from backsplit.experiments.profiles import Profile
from backsplit.experiments.workflow.lifeline import only_run
from backsplit.experiments.workflow.progress import Progress, last_lines
from backsplit.files import write_json, write_text

ENGINE = "backsplit.experiments.workflow.engine"
COMMAND = (sys.executable, "-m", "backsplit")
WITH_ONE_CORE = ("compose", "compare", "report")
MOST_CORES = 8
"""Of a job that works on several cases at once."""

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
"""A user's own: with them in force, the data sets of a store would share one folder of results."""


class RunError(BackSplitError, RuntimeError):
    """Jobs of a grid failed."""


def run_grid(grid: Grid, profile: Profile, *, extra: Mapping[str, Sequence[str]], view: Progress) -> None:
    """Do all jobs that are not done.

    Args:
        grid: what to do.
        profile: where.
        extra: by kind, words that change how a job runs and not what it makes, such as `--device cpu`.
        view: is told what happens.

    Raises:
        ConfigurationError: another run is at work in the store.
        RunError: jobs failed, after all that does not need them was done.
    """
    with only_run(grid.store) as lifeline:
        lay_out_study(grid)
        waiting = [job for job in grid.jobs if not grid.is_done(job)]
        told = {**_told(grid, profile, extra), "lifeline": str(lifeline)}
        write_json(told, grid.store.grid)
        if waiting:
            _follow(grid, _environment(grid, profile, lifeline), view)
    failed = [job for job in grid.jobs if not grid.is_done(job)]
    if failed:
        raise RunError(_failure(grid, view))


def lay_out_study(grid: Grid) -> None:
    """Write the recipe as it is run, and name its arms: each is a link to predictions that recipes share."""
    recipe = yaml.safe_dump(grid.recipe.content(), sort_keys=False, allow_unicode=True)
    write_text(recipe, grid.store.recipe_of(grid.study))
    for group in (*grid.groups, *grid.kept):
        workspace = grid.store.group(grid.study, group.folder)
        workspace.predictions.mkdir(parents=True, exist_ok=True)
        for arm, folder in group.predicted.items():
            link = workspace.predictions_of(arm)
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(folder, workspace.predictions))


def _told(grid: Grid, profile: Profile, extra: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What `engine` and the Snakefile read."""
    jobs = [
        {
            "name": job.name,
            "typed": [*job.typed, *extra.get(job.kind, ())],
            "needs": job.needs,
            "once": job.once,
            "threads": _threads_of(job, profile),
            "gpus": min(1, profile.gpus) if job.uses_gpu else 0,
        }
        for job in grid.jobs
    ]
    store = grid.store
    places = {"root": str(store.root), "logs": str(store.log("x").parent), "folder": str(Path.cwd())}
    return {**places, "command": COMMAND, "jobs": jobs, "arguments": profile.arguments}


def _threads_of(job: Job, profile: Profile) -> int:
    if job.uses_gpu:
        return profile.threads
    return 1 if job.kind in WITH_ONE_CORE else min(MOST_CORES, profile.cores)


def _environment(grid: Grid, profile: Profile, lifeline: Path) -> dict[str, str]:
    """All but nnU-Net's folders; and what ties jobs to this run and to GPUs, where they run on this machine."""
    environment = {name: value for name, value in os.environ.items() if name not in NNUNET_FOLDERS}
    if not profile.outlives_driver:
        environment[LIFELINE] = str(lifeline)
        if profile.gpus:
            lay_out(grid.store.gpu_slots, visible_devices(profile.gpus))
            environment[SLOTS] = str(grid.store.gpu_slots)
    return environment


def _follow(grid: Grid, environment: dict[str, str], view: Progress) -> None:
    """Start Snakemake and tell the view what happens, until it ends."""
    store = grid.store
    with store.engine_log.open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", ENGINE, str(store.grid)]
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
        )
        with _ended(process), view.shown():
            for event in _events(process):
                view.note(event)
                view.refresh()


def _events(process: subprocess.Popen[str]) -> Generator[dict[str, str] | None]:
    """What Snakemake tells, as it tells it; None once a second, to look at the clock."""
    queue: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            queue.put(line)
        queue.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = queue.get(timeout=1)
        except Empty:
            if process.poll() is not None:
                return  # killed: its jobs hold the other end of the pipe for as long as they live
            yield None
            continue
        if line is None:
            return
        with contextlib.suppress(ValueError):  # something else that a plugin printed
            yield json.loads(line)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Generator[None]:
    """Leave no Snakemake behind: a Ctrl-C is passed on, once, to it and its jobs, and then they have some seconds."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left: jobs on this machine, if it was killed
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _failure(grid: Grid, view: Progress) -> str:
    failed = [job for job in view.failed if not grid.store.marker(job).exists()]
    left = sum(not grid.is_done(job) for job in grid.jobs)
    if not failed:
        return f"Snakemake ended early, {left} jobs are left; the same command goes on ({grid.store.engine_log})"
    told = "; ".join(f"{job}: {last_lines(grid.store.log(job), 1)} ({grid.store.log(job)})" for job in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"{len(failed)} jobs failed, {left} are left: {told}{more}; the same command goes on"
