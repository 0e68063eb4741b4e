"""The profile on a real Slurm: what is cancelled, killed or cut off is finished, and nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from backsplit.experiments.slurm.profiles import PROFILE

sys.path.insert(0, str(Path(__file__).parent))
from cluster import Cluster, running_cluster, why_not

SNAKEFILE = Path(__file__).with_name("Snakefile")


@pytest.fixture(scope="module")
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


class Grid:
    """The grid of the Snakefile in a working directory, and drivers that run it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def start(self, *arguments: object, snakefile: Path = SNAKEFILE) -> subprocess.Popen[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--profile", PROFILE]
        return subprocess.Popen(
            [*map(str, [*snakemake, *arguments])],
            cwd=self.folder,
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *arguments: object, **options) -> tuple[int, str]:
        driver = self.start(*arguments, **options)
        output, _ = driver.communicate(timeout=200)
        return driver.returncode, output

    @property
    def runs(self) -> list[list[str]]:
        """Job, what it was, and its GPU, in the order of their starts."""
        log = self.folder / "runs.txt"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def wait_for_trainings(self, number: int) -> dict[str, str]:
        """Job of each training that has started, once there are so many."""
        for _ in range(600):
            started = {what: job for job, what, *_ in self.runs if what.startswith("train")}
            if len(started) == number:
                return started
            time.sleep(0.1)
        raise AssertionError(self.runs)


@pytest.fixture
def grid(cluster, tmp_path) -> Grid:
    return Grid(cluster, tmp_path)


ONCE = Counter({"plan": 1, "train-0": 1, "train-1": 1, "train-2": 1, "report": 1})


def test_all_jobs_run_each_with_a_gpu_of_its_own(grid):
    status, output = grid.finish("--config", "seconds=2")
    assert status == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE
    assert {gpu for _, what, *gpu in grid.runs if what.startswith("train") for gpu in gpu} == {"0", "1", "2"}
    assert (grid.folder / "report.txt").read_text().split() == ["0", "1", "2"]
    jobs = {what: job for job, what, *_ in grid.runs}
    assert f"job {jobs['train-1']} (bs-train-" in (grid.folder / f"slurm/train.1-{jobs['train-1']}.log").read_text()


def test_nothing_listens_beyond_loopback(cluster):
    listening = subprocess.run(
        ["ss", "--tcp", "--listening", "--numeric", "--no-header"], capture_output=True, text=True, check=True
    )
    ours = [
        line.split()[3]
        for line in listening.stdout.splitlines()
        if line.split()[3].endswith(tuple(f":{port}" for port in cluster.ports))
    ]
    assert len(ours) == 2
    assert all(address.startswith("127.0.0.1:") for address in ours), ours


def test_a_cancelled_job_is_the_only_one_that_runs_again(grid):
    driver = grid.start("--config", "seconds=8", "--retries", 0)
    jobs = grid.wait_for_trainings(3)
    grid.cluster.run("scancel", jobs["train-1"])
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 1, output
    assert sorted(path.name for path in (grid.folder / "done").iterdir()) == ["0", "2"]
    status, output = grid.finish("--config", "seconds=1")
    assert status == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE + Counter({"train-1": 1})


def test_a_new_driver_adopts_the_jobs_of_one_that_was_killed(grid):
    driver = grid.start("--config", "seconds=12")
    jobs = grid.wait_for_trainings(3)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert grid.finish("--unlock")[0] == 0
    status, output = grid.finish("--config", "seconds=12")
    assert status == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE, output
    assert all(f"external jobid '{job}'" in output for job in jobs.values())


def test_what_failed_is_submitted_again_as_often_as_said(grid):
    (grid.folder / "fail-1").touch()
    status, output = grid.finish("--config", "seconds=0", "--retries", 1)
    assert status == 1, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE + Counter({"train-1": 1, "report": -1})


def test_the_driver_waits_for_a_controller_that_is_away(grid):
    driver = grid.start("--config", "seconds=6")
    grid.wait_for_trainings(3)
    grid.cluster.stop_controller()
    time.sleep(15)  # the trainings end meanwhile, and the report is to be submitted
    grid.cluster.start_controller()
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE, output


def test_an_interrupted_driver_cancels_its_jobs(grid):
    driver = grid.start("--config", "seconds=60")
    jobs = grid.wait_for_trainings(3)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1, output
    states = {
        job: grid.cluster.run("squeue", "--states=all", "--noheader", "--format=%T", f"--jobs={job}").stdout.strip()
        for job in jobs.values()
    }
    assert set(states.values()) <= {"CANCELLED", "COMPLETING"}, states
