"""Kill a grid again and again at random moments, and see whether it ends as if nothing had happened.

Run:  .venv/bin/python benchmarks/kills.py FOLDER [--kills 10] [--seed 0]

A tiny grid (phantom of 32 x 32 x 32 voxels, two arms, two folds) runs once undisturbed. In a second store the same
command is killed (SIGKILL) at random moments: the runner, Snakemake or a training, drawn at random; then it runs to its
end. Printed: what was killed when, jobs that were done and done again, and the largest difference of any score.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

RECIPE = """\
name: kills
data:
  ct:
    phantom: {num_cases: 6, size: 32}
    targets: [cyst]
    auxiliaries: [kidney, liver]
    prepare: {patch_size: [16, 16, 16], features: [4, 8], batch_size: 2, folds: 2}
networks: {unet: }
arms: {binary: , backsplit: }
folds: [0, 1]
budget: {name: demo, epochs: 6, iterations: 10}
predict: {mirroring: false}
metrics: {tolerance_mm: [10]}
report: {page: false}
"""
VICTIMS = ("run", "engine", "train")
LATEST_SHARE = 0.15
"""Of the seconds that the undisturbed run took: how long after a start a kill may come."""


def main() -> None:
    """Run both, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    recipe = options.folder / "kills.yaml"
    recipe.write_text(RECIPE)
    began = time.monotonic()
    if start(recipe, options.folder / "calm").wait():
        raise SystemExit("the undisturbed run failed")
    latest = LATEST_SHARE * (time.monotonic() - began)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    rng, rough = random.Random(options.seed), options.folder / "rough"
    done: dict[Path, int] = {}
    again: set[Path] = set()
    process = start(recipe, rough)
    for number in range(options.kills):
        told = kill(process, rng.choice(VICTIMS), rng.uniform(1, latest))
        again |= {path for path, when in done.items() if path.stat().st_mtime_ns != when}
        done = {path: path.stat().st_mtime_ns for path in rough.glob("markers/**/*.done")}
        print(f"kill {number + 1}: {told}; {len(done)} jobs are done", flush=True)
        if process.poll() is not None:
            process = start(recipe, rough)
    process.wait()
    status = start(recipe, rough).wait()
    again |= {path for path, when in done.items() if path.stat().st_mtime_ns != when}
    ours, theirs = scores(options.folder / "calm"), scores(rough)
    difference = (ours - theirs).abs().max().max()
    same_gaps = bool((ours.isna() == theirs.isna()).all(axis=None))
    print(f"then it ended with status {status}; jobs done twice: {len(again)}", flush=True)
    print(f"{len(ours)} rows of scores, largest difference {difference}, the same are undefined: {same_gaps}")


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "backsplit", "run", str(recipe), "--workspace", str(store), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes], victim: str, seconds: float) -> str:
    """Kill the victim once it lives and so many seconds have gone by; say what was done.

    A run outlives one of its trainings: it does the other jobs, and the next kill is one of the same run.
    """
    began = time.monotonic()
    while process.poll() is None:
        parts = {"run": psutil.Process(process.pid), **parts_of(process)}
        if time.monotonic() - began > seconds and victim in parts:
            parts[victim].send_signal(signal.SIGKILL)
            if victim != "train":
                process.wait()
            return f"{victim} after {time.monotonic() - began:.1f} s"
        time.sleep(0.1)
    return f"{victim} was not there before the end"


def parts_of(process: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """Snakemake as `engine`, and each command of ours by its name."""
    found = {}
    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            words = child.cmdline()
            if "-m" in words:
                module, *rest = words[words.index("-m") + 1 :]
                found["engine" if module.endswith("engine") else (rest or [module])[0]] = child
    except psutil.Error:
        pass
    return found


def scores(store: Path) -> pd.DataFrame:
    """All numbers, by arm, case and class."""
    (path,) = store.glob("studies/*/ct/unet/seed_0/scores/scores.csv")
    table = pd.read_csv(path).set_index(["arm", "case", "class"]).sort_index()
    return table.select_dtypes("number")


if __name__ == "__main__":
    main()
