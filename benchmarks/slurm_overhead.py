"""What a stage costs through the Slurm profile beside the local executor, and the start-up of its two commands.

Run as root, with slurm-wlm and munge installed:  .venv/bin/python benchmarks/slurm_overhead.py

A chain of jobs that do nothing, each waiting for the one before; a stage is from the end of one to the end of the next.
Slurm has one node, on loopback (tests/slurm/cluster.py), and nothing else to do. The parts of a stage: `waiting` from
submission to the start of the job, `working` to its exit status (a second Snakemake runs there), `noticing` until the
next job is submitted.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from backsplit.experiments.slurm.profiles import PROFILE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "slurm"))
from cluster import running_cluster, why_not  # ty: ignore[import-not-found]  it lies with the tests

NUM_STAGES, NUM_STARTS = 8, 20
CHAIN = """
rule all:
    input: "{last}"
rule stage:
    output: "{{number}}"
    input: lambda wildcards: [str(int(wildcards.number) - 1)] if wildcards.number != "0" else []
    shell: "date +%s.%N >{{output}}"
"""
SLURM = ("--profile", str(PROFILE))
LOCAL = ("--cores", "1", "--scheduler", "greedy", "--rerun-triggers", "mtime")


def main() -> None:
    """Print seconds."""
    if reason := why_not():
        sys.exit(reason)
    with running_cluster() as cluster:
        for name, options in (("local", LOCAL), ("Slurm", SLURM)):
            with tempfile.TemporaryDirectory() as folder:
                run_chain(Path(folder), options, cluster.environment)
                tell(f"{name}, seconds a stage", stages(Path(folder)))
                if name == "Slurm":
                    for part, seconds in parts(Path(folder)).items():
                        tell(f"  {part}", seconds)
        with tempfile.TemporaryDirectory() as folder:
            for name, seconds in start_ups(Path(folder), cluster.environment).items():
                tell(name, seconds)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")


def run_chain(folder: Path, options: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run all stages to the end."""
    (folder / "Snakefile").write_text(CHAIN.format(last=NUM_STAGES))
    command = [sys.executable, "-m", "snakemake", *options]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def stages(folder: Path) -> list[float]:
    """Seconds between the ends of jobs that follow each other."""
    ends = [float((folder / str(number)).read_text()) for number in range(NUM_STAGES + 1)]
    return [after - before for before, after in pairwise(ends)]


def parts(folder: Path) -> dict[str, list[float]]:
    """Of each stage, by the times of the files that are written on the way."""
    slurm = folder / "slurm"
    ended = {path.stem: path.stat().st_mtime for path in slurm.glob("*.rc")}
    started, submitted = {}, {}
    for log in slurm.glob("*.log"):
        _, job, name, _, _, when = log.read_text().splitlines()[0].split(maxsplit=5)
        started[job] = datetime.fromisoformat(when).timestamp()
        submitted[job] = (slurm / f"{name.strip('()')}.sh").stat().st_mtime
    jobs = sorted(ended, key=int)
    return {
        "waiting": [started[job] - submitted[job] for job in jobs],
        "working": [ended[job] - started[job] for job in jobs],
        "noticing": [submitted[after] - ended[before] for before, after in pairwise(jobs)],
    }


def start_ups(folder: Path, environment: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of a look at a job that has ended, beside Python that does nothing."""
    (folder / "slurm").mkdir()
    (folder / "slurm" / "1.rc").write_text("0\n")
    commands = {
        "Python that does nothing": [sys.executable, "-c", "pass"],
        "backsplit-slurm status": ["backsplit-slurm", "status", "1"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(NUM_STARTS):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def tell(name: str, seconds: list[float]) -> None:
    """Print median and range."""
    print(f"{name}: {median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
