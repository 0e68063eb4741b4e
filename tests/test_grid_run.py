"""Grids that run: order, resuming, one run per store, GPUs shared out, and what is said meanwhile."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pandas as pd
import psutil
import pytest
from rich.console import Console

from backsplit.errors import ConfigurationError
from backsplit.experiments.building import build_grid
from backsplit.experiments.forecast import forecast
from backsplit.experiments.grid import Grid
from backsplit.experiments.jobs import lay_out
from backsplit.experiments.paths import Store
from backsplit.experiments.profiles import cluster_profile, local_profile
from backsplit.experiments.reading import read_recipe
from backsplit.experiments.workflow.driver import RunError, run_grid
from backsplit.experiments.workflow.lifeline import only_run
from backsplit.experiments.workflow.progress import Progress, history_of
from backsplit.nnunet.history import write_history
from studies import TINY_RECIPE, start


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture
def grid(recipe: Path, tmp_path: Path) -> Grid:
    return build_grid(read_recipe(recipe), tmp_path / "store")


def first(grid: Grid, number: int) -> Grid:
    """A grid that ends early: its jobs need no training."""
    return replace(grid, jobs=grid.jobs[:number])


def run_here(grid: Grid) -> Progress:
    view = Progress(grid, Console(file=StringIO()))
    run_grid(grid, local_profile(num_gpus=0, at_a_time=1), extra={}, view=view)
    return view


def test_jobs_run_in_order_once_and_anew_where_something_before_them_is(grid):
    part = first(grid, 2)
    run_here(part)
    converted, composed = (grid.store.marker(job.name) for job in part.jobs)
    manifest = json.loads((grid.store.data(grid.addresses["ct"]).cohort / "cohort.json").read_text())
    assert len(manifest["cases"]) == 4
    before = composed.stat().st_mtime_ns
    run_here(part)
    assert composed.stat().st_mtime_ns == before, "what is done is not done again"
    converted.unlink()
    run_here(part)
    assert composed.stat().st_mtime_ns > converted.stat().st_mtime_ns > before
    assert not grid.store.driver.exists()


def test_a_job_that_fails_is_named_with_its_last_line_and_the_others_are_done(grid):
    convert, compose = grid.jobs[:2]
    wrong = replace(compose, name=f"{compose.name}-wrong", typed=(*compose.typed, "--sources", "none"))
    part = replace(grid, jobs=(convert, wrong, compose))
    view = Progress(part, Console(file=StringIO(), force_terminal=True, width=200))
    words = r"1 jobs failed, 1 are left: compose/.*-wrong: backsplit: error: phantom: no masks called none; .* goes on"
    with pytest.raises(RunError, match=words):
        run_grid(part, local_profile(num_gpus=0, at_a_time=1), extra={}, view=view)
    assert part.is_done(compose)
    console = Console(file=StringIO(), width=200)
    console.print(view.picture())
    shown = console.file.getvalue()
    assert "convert     1        0       0     0" in shown
    assert "compose     1        0       1     0" in shown
    assert f"failed   {wrong.name}: " in shown


def test_the_view_shows_epochs_and_the_time_left(grid):
    training = grid.trainings[0]
    view = Progress(grid, Console(file=StringIO()))
    view.note({"event": "started", "job": training.job})
    home = training.workspace.results / "Dataset001_phantom" / f"Trainer__{training.name}__3d_fullres" / "fold_0"
    write_history([{"epoch": 0.0, "seconds": 90.0}], home / "progress.csv")
    assert history_of(training) == home / "progress.csv"
    console = Console(file=StringIO(), width=200)
    console.print(view.picture())
    assert f"running  {training.job}: epoch 1 of 2, 1:30 left" in console.file.getvalue()


def test_the_forecast_counts_jobs_hours_and_disk(grid, recipe, tmp_path):
    told = forecast(grid)
    assert told.left == {job.kind: sum(job.kind == each.kind for each in grid.jobs) for job in grid.jobs}
    assert told.hours is None
    assert 0 < told.num_bytes < 1e8
    grid.store.marker(grid.trainings[0].job).parent.mkdir(parents=True)
    grid.store.marker(grid.trainings[0].job).touch()
    stated = build_grid(read_recipe(recipe, ["budget.seconds_per_epoch=1800"]), tmp_path / "store")
    assert forecast(stated).hours == 2 * 1800 / 3600, "one of two trainings is done; two epochs are left"
    assert forecast(stated).done == {"train": 1}


def test_no_room_on_the_disk_is_said_before_any_work(recipe, tmp_path):
    huge = build_grid(read_recipe(recipe, ["data.ct.phantom.num_cases=1000000000"]), tmp_path / "store")
    with pytest.raises(ConfigurationError, match=r"tiny: about \d+\.\d GB are needed in .*; make room"):
        forecast(huge)


def test_one_run_per_store_and_a_killed_one_is_cleared_with_a_line(tmp_path, caplog):
    store = Store(tmp_path)
    with only_run(store):
        told = json.loads(store.driver.read_text())
        assert told["pid"] == os.getpid()
        with pytest.raises(ConfigurationError, match=rf"is used by process {os.getpid()} on .*; wait for it, or stop"):
            only_run(store).__enter__()
        held = store.driver.read_text()
    store.driver.write_text(held.replace(str(told["started"]), "1700000000.0"))
    with caplog.at_level("INFO", "backsplit"), only_run(store):
        assert "started 2023-11-14 22:13 UTC) was killed; its lock is cleared" in caplog.text
    store.driver.write_text(json.dumps({**told, "host": "elsewhere"}))
    with pytest.raises(ConfigurationError, match=r"on elsewhere, .*; if that is gone, remove .*driver.json"):
        only_run(store).__enter__()


def test_jobs_end_with_the_run_that_started_them(tmp_path):
    holder = "import sys; from pathlib import Path; from backsplit.experiments.paths import Store\n"
    holder += "from backsplit.experiments.workflow.lifeline import only_run\n"
    holder += "with only_run(Store(Path(sys.argv[1]))) as line: print(line, flush=True); sys.stdin.read()"
    run = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    lifeline = run.stdout.readline().strip()
    waits = "import time; from backsplit.experiments.jobs import die_with_run; die_with_run()\n"
    waits += "print('on', flush=True); time.sleep(50)"
    environment = {**os.environ, "BACKSPLIT_LIFELINE": lifeline}
    job = subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, text=True, env=environment)
    assert job.stdout.readline() == "on\n"
    assert job.poll() is None
    run.kill()
    assert job.wait(timeout=20) == 1
    run.wait()
    run.stdin.close()
    run.stdout.close()
    job.stdout.close()
    with only_run(Store(tmp_path)):
        late = subprocess.run([sys.executable, "-c", waits], env=environment, timeout=60, check=False)
    assert late.returncode == 1, "one that starts when its run is gone ends too, though another run has begun"


def test_every_gpu_goes_to_one_job_at_a_time_and_is_free_after_a_kill(tmp_path):
    lay_out(tmp_path, ["3", "5"])
    takes = "import sys; from backsplit.experiments.jobs import take\n"
    takes += "print(*take(), flush=True); sys.stdin.read()"
    environment = {**os.environ, "BACKSPLIT_GPU_SLOTS": str(tmp_path)}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", takes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    deadline = time.monotonic() + 60
    while sum(_has_line(job) for job in jobs) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    lucky = [job for job in jobs if _has_line(job)]
    (waiting,) = [job for job in jobs if job not in lucky]
    devices = {job.stdout.readline().strip(): job for job in lucky}
    assert set(devices) == {"3", "5"}
    devices["5"].kill()
    assert waiting.stdout.readline().strip() == "5"
    for job in jobs:
        job.kill()
        job.wait()
        job.stdin.close()
        job.stdout.close()


def _has_line(job: subprocess.Popen[str]) -> bool:
    return bool(select.select([job.stdout], [], [], 0)[0])


def scores_of(store: Path) -> pd.DataFrame:
    (path,) = store.glob("studies/*/ct/unet/seed_0/scores/scores.csv")
    return pd.read_csv(path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output of a run, however long it takes."""
    output, _ = process.communicate(timeout=1500)
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_whole_grid_and_the_same_after_kills(recipe, tmp_path):
    """Runner, Snakemake and a training are killed; the same command ends in equal scores and does nothing twice."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    code, output = ended(start("run", recipe, "--workspace", calm, "--device", "cpu"))
    assert code == 0, output
    for victim in ("train", "engine", "run"):
        process = start("run", recipe, "--workspace", rough, "--device", "cpu")
        _kill(process, victim)
        code, output = ended(process)
        assert code != 0, output
        done = {path: path.stat().st_mtime_ns for path in rough.glob("markers/**/*.done")}
    code, output = ended(start("run", recipe, "--workspace", rough, "--device", "cpu"))
    assert code == 0, output
    assert "was killed; its lock is cleared" in output
    for path, when in done.items():
        assert path.stat().st_mtime_ns == when, f"{path} was done twice"
    pd.testing.assert_frame_equal(scores_of(calm), scores_of(rough))
    (study,) = rough.glob("studies/*")
    told = json.loads((study / "provenance.json").read_text())
    assert told["recipe"]["budget"] == {"name": "demo", "epochs": 2, "iterations": 3}
    assert told["training_hours"] > 0
    assert (study / "ct/unet/seed_0/report/index.html").exists()
    assert "| cyst | backsplit |" in (study / "table.md").read_text()


def _kill(process: subprocess.Popen[str], victim: str) -> None:
    """Kill one part of a run once a training has begun."""
    runner, deadline = psutil.Process(process.pid), time.monotonic() + 200
    while time.monotonic() < deadline:
        found = {_role(each): each for each in runner.children(recursive=True)}
        if "train" in found or process.poll() is not None:
            break
        time.sleep(0.2)
    time.sleep(2)
    (runner if victim == "run" else found[victim]).send_signal(signal.SIGKILL)


def _role(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return "gone"
    if "-m" not in words:
        return "shell"
    return "engine" if words[words.index("-m") + 1].endswith("engine") else words[words.index("-m") + 2]


@pytest.mark.slow
def test_a_profile_of_snakemakes_takes_the_jobs_elsewhere(grid, tmp_path):
    """Snakemake's own plugin for clusters, with a cluster of two shell scripts."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    submit, status = folder / "submit.sh", folder / "status.sh"
    submit.write_text(
        f'number=$$\nbash "$1" > {folder}/$number.log 2>&1\necho $? > {folder}/$number.rc\necho $number\n'
    )
    status.write_text(f'[ "$(cat {folder}/$1.rc)" = 0 ] && echo success || echo failed\n')
    commands = {"submit": f"bash {submit}", "status": f"bash {status}"}
    lines = ["executor: cluster-generic", "jobs: 2", "latency-wait: 5", "seconds-between-status-checks: 1"]
    lines += [f"cluster-generic-{name}-cmd: {command}" for name, command in commands.items()]
    lines += ["default-resources:", "  mem_mb: 1234"]
    (folder / "config.yaml").write_text("\n".join(lines))
    part = first(grid, 2)
    view = Progress(part, Console(file=StringIO()))
    run_grid(part, cluster_profile(folder, has_gpus=False), extra={}, view=view)
    assert all(map(part.is_done, part.jobs))
    assert len(list(folder.glob("*.rc"))) == 2, "one submission a job"
    with pytest.raises(ConfigurationError, match=r"no profile .*/none: expected local, or a folder with Snakemake's"):
        cluster_profile(tmp_path / "none", has_gpus=False)
