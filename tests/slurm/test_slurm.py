"""The profile on a real Slurm: what is cancelled, killed or cut off is finished, and nothing is done twice."""

import json
import os
import re
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

from studies import compose_phantom, prepare

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
        self.profile = PROFILE

    def start(self, *arguments: object, snakefile: Path = SNAKEFILE) -> subprocess.Popen[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--profile", self.profile]
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
        output, _ = driver.communicate(timeout=900)
        return driver.returncode, output

    @property
    def runs(self) -> list[list[str]]:
        """Job, what it was, and its GPU, in the order of their starts."""
        log = self.folder / "runs.txt"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def kill(self, driver: subprocess.Popen[str], *, when: int) -> str:
        """Kill -9 a driver once so many trainings have started, and free the directory; what it said."""
        self.wait_for_trainings(when)
        os.killpg(driver.pid, signal.SIGKILL)
        output, _ = driver.communicate()
        assert self.finish("--unlock")[0] == 0
        return output

    def leave_exit_statuses_of_another_cluster(self) -> None:
        """As if jobs of these numbers had failed an hour ago."""
        (self.folder / "slurm").mkdir()
        for number in range(1, 300):
            left = self.folder / f"slurm/{number}.rc"
            left.write_text("1\n")
            os.utime(left, 2 * (time.time() - 3600,))

    def live_jobs(self) -> list[str]:
        return self.cluster.run("squeue", "--noheader", "--format=%i", "--states=PENDING,RUNNING").stdout.split()

    def status(self, job: str) -> str:
        """What the profile's command says."""
        command = ["backsplit-slurm", "status", job]
        environment = self.cluster.environment
        return subprocess.check_output(command, cwd=self.folder, env=environment, text=True).strip()

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


def test_all_jobs_run_with_what_the_profile_says_each_training_with_one_gpu(grid):
    grid.profile = grid.folder / "mine"
    grid.profile.mkdir()
    config = (PROFILE / "config.yaml").read_text()
    (grid.profile / "config.yaml").write_text(config.replace("# slurm_", "slurm_"))
    grid.leave_exit_statuses_of_another_cluster()
    status, output = grid.finish("--config", "seconds=2")
    assert status == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE
    gpus = [gpu for _, what, *gpu in grid.runs if what.startswith("train")]
    assert len(gpus) == 3
    assert all(len(gpu) == 1 and gpu[0] in {"0", "1", "2"} for gpu in gpus), gpus
    assert (grid.folder / "report.txt").read_text().split() == ["0", "1", "2"]
    jobs = {what: job for job, what, *_ in grid.runs}
    told = grid.cluster.run("scontrol", "show", "job", jobs["train-1"]).stdout
    expected = ("Partition=gpu ", "Account=my-project ", "Features=a100 ", "TimeLimit=1-00:00:00 ", "mem=48000M,")
    assert all(words in told for words in (*expected, "NumCPUs=1 ", "TresPerJob=gres:gpu:1\n")), told
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_new_drivers_adopt_the_jobs_of_one_that_was_killed(grid):
    """Three that run and one that waits for a GPU; then one that ends while there is no driver."""
    options = ("--config", "seconds=12", "folds=4")
    grid.kill(grid.start(*options), when=3)
    assert len(grid.live_jobs()) == 4
    second = grid.start(*options)
    output = grid.kill(second, when=4)
    assert output.count("goes on as job") == 4
    while grid.live_jobs():
        time.sleep(0.5)
    status, output = grid.finish(*options)
    assert status == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE + Counter({"train-3": 1}), output
    assert len({job for job, *_ in grid.runs}) == len(grid.runs)


@pytest.mark.slow
def test_what_failed_is_submitted_again_as_often_as_said(grid):
    (grid.folder / "fail-1").touch()
    status, output = grid.finish("--config", "seconds=0", "--retries", 1)
    assert status == 1, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE + Counter({"train-1": 1, "report": -1})


@pytest.mark.slow
def test_the_driver_waits_for_a_controller_that_is_away(grid):
    driver = grid.start("--config", "seconds=6")
    grid.wait_for_trainings(3)
    grid.cluster.stop_controller()
    time.sleep(15)  # the trainings end meanwhile, and the report is to be submitted
    grid.cluster.start_controller()
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output
    assert Counter(what for _, what, *_ in grid.runs) == ONCE, output


@pytest.mark.slow
def test_an_interrupted_driver_cancels_its_jobs(grid):
    driver = grid.start("--config", "seconds=60")
    jobs = grid.wait_for_trainings(3)
    time.sleep(5)  # Snakemake may lose a Ctrl-C that comes while it submits
    os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C on a terminal does
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1, output
    states = {
        job: grid.cluster.run("squeue", "--states=all", "--noheader", "--format=%T", f"--jobs={job}").stdout.strip()
        for job in jobs.values()
    }
    assert set(states.values()) <= {"CANCELLED", "COMPLETING"}, states


def test_a_job_counts_as_running_until_it_is_known_to_have_ended(grid):
    (grid.folder / "slurm").mkdir()
    job = grid.cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60").stdout.strip()
    assert (grid.status(job), grid.status("999999")) == ("running", "failed")
    grid.cluster.stop_controller()
    assert (grid.status(job), grid.status("999999")) == ("running", "running")
    grid.cluster.start_controller()
    grid.cluster.run("scancel", job)
    (grid.folder / "slurm/queue").unlink()  # what it said is not old enough yet
    assert grid.status(job) == "failed"


def test_what_slurm_refuses_is_one_line(grid):
    job = {"type": "single", "rule": "a", "output": ["b"], "threads": 1, "resources": {"slurm_partition": "none"}}
    (grid.folder / "job.sh").write_text(f"# properties = {json.dumps(job)}\n")
    command = ["backsplit-slurm", "submit", "job.sh"]
    environment = grid.cluster.environment
    ended = subprocess.run(command, cwd=grid.folder, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("backsplit-slurm: error: sbatch said: ")
    assert "invalid partition specified: none" in line


@pytest.mark.slow
def test_a_training_is_told_of_its_limit_and_goes_on_in_another_job(grid):
    """A training without end is stopped twice, by itself; test_resume shows that one with an end gets there."""
    workspace = grid.folder / "workspace"
    prepare(compose_phantom(grid.folder, num_cases=4), workspace)
    snakefile = Path(__file__).with_name("training.smk")
    status, output = grid.finish("--config", f"workspace={workspace}", "--retries", 1, snakefile=snakefile)
    assert status == 1, output
    by_job = {int(path.stem.partition("-")[2]): path.read_text() for path in grid.folder.glob("slurm/train-*.log")}
    first, second = (by_job[job] for job in sorted(by_job))
    stopped = r"backsplit, fold 0: stopped after epoch (\d+) of 100000, as SIGUSR1 asked"
    (last_of_first,) = re.findall(stopped, first)
    (last_of_second,) = re.findall(stopped, second)
    assert f"backsplit, fold 0 resumes after epoch {last_of_first}\n" in second
    assert int(last_of_second) > int(last_of_first)
    (history,) = workspace.rglob("progress.csv")
    assert len(history.read_text().splitlines()) == 1 + int(last_of_second)
