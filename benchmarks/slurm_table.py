"""Table 1 of the paper, made-up cases, through a real Slurm: a training is cancelled, the same command finishes it.

Run as root, with slurm-wlm and munge installed:

    .venv/bin/python benchmarks/slurm_table.py FOLDER [--whole]

Without `--whole` it is as small as paper_recipes.py has it: one epoch of four iterations, cases of 32 voxels each way.
Slurm has one node, on loopback (tests/slurm/cluster.py), that claims 8 CPUs; four of them go to a job, so that two run
at a time. The profile is that of `backsplit-slurm profile`, but without retries: the first run ends, and leaves undone
what was cancelled and what needs it. FOLDER keeps the store with Slurm's logs, and what each run printed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from paper_recipes import settings

from backsplit.experiments.paths import Store
from backsplit.experiments.slurm.profiles import write_profile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "slurm"))
from cluster import Cluster, running_cluster, why_not  # ty: ignore[import-not-found]  it lies with the tests

TABLE = ("reproduce", "table-1", "--data", "phantom", "--budget", "demo", "--folds", "0", "--device", "cpu")
THREADS = "set-threads:\n" + "".join(
    f"  {kind}: 4\n" for kind in ("convert", "prepare", "train", "predict", "evaluate")
)


def main() -> None:
    """Run, cancel, run again; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--whole", action="store_true")
    told = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    store = Store(told.folder.resolve() / "store")
    profile = Path(write_profile(str(told.folder / "profile")))
    profile.write_text(profile.read_text().replace("retries: 5", "retries: 0") + THREADS)
    command = [sys.executable, "-m", "backsplit", *TABLE, "--profile", str(profile.parent)]
    command += ["--workspace", str(store.root), *([] if told.whole else ["--set", *settings("table-1")])]
    with running_cluster() as cluster:
        run(cluster, command, told.folder / "first.log", is_cancelling=True)
        done = markers(store)
        print(f"done then: {len(done)} jobs, {trainings(done)} of them trainings", flush=True)
        run(cluster, command, told.folder / "second.log", is_cancelling=False)
        now = markers(store)
        print(f"done then: {len(now)} jobs, {trainings(now)} of them trainings")
        print(f"done twice: {sum(now[path] != when for path, when in done.items())}")
    submitted = len(list(store.root.glob("slurm/*.log")))
    print(f"submitted to Slurm: {submitted}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")


def run(cluster: Cluster, command: list[str], log: Path, *, is_cancelling: bool) -> None:
    """Run the command to its end; cancel the first training that runs."""
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=cluster.environment)
        if is_cancelling:
            job = cluster.wait_for_job("bs-train-")
            cluster.run("scancel", job)
            print(f"scancel {job} after {time.perf_counter() - start:.0f} s", flush=True)
        process.wait()
    print(f"exit status {process.returncode} after {(time.perf_counter() - start) / 60:.1f} min ({log})", flush=True)


def markers(store: Store) -> dict[Path, int]:
    """Jobs that are done, and when."""
    return {path: path.stat().st_mtime_ns for path in sorted(store.root.glob("markers/**/*.done"))}


def trainings(done: dict[Path, int]) -> int:
    """How many there are among jobs."""
    return sum("/markers/train/" in str(path) for path in done)


if __name__ == "__main__":
    main()
