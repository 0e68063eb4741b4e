"""Every recipe of the paper, from nothing to its table, on small made-up cases: that the path runs, not that it helps.

Run:  python benchmarks/paper_recipes.py STORE docs/recipes-run.md [--nninteractive MODEL] [--only NAME...]

One epoch of four iterations, fold 0, phantoms of 32 voxels. The recipes share STORE, so that what one has made is not
made again for the next; a second call does what is missing. MODEL is a folder as nnInteractive downloads it;
without, clicks go to a tiny network of the same layout with random weights.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from backsplit.experiments.reproducing import PHANTOM, names, recipe_of_paper
from backsplit.files import write_json, write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tinyinteractive import write_interactive_model  # ty: ignore[import-not-found]  it lies with the tests

SMALL = ("phantom.size=32", "phantom.num_cases=10", "prepare.patch_size=[16,16,16]", "prepare.features=[4,8]")
TEXT = """# One pass of all recipes of the paper

Written by `benchmarks/paper_recipes.py` ({machine}, {cores} cores): made-up cases of 32 voxels, one epoch of four
iterations, fold 0. It shows that each recipe runs to its table or figure; its scores mean nothing. Recipes share what
they can: jobs that an earlier one had done are not done again. Clicks went to {clicks}.

| recipe | jobs done now | already done | trainings now | rows of its tables | figures | minutes |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
{left}"""


def settings(name: str, model: Path | None = None) -> list[str]:
    """What makes a recipe small; `model` is what clicks go to, where it has any."""
    data = recipe_of_paper(name, [PHANTOM], [], has_ours=False).data
    small = [f"data.{each}.{setting}" for each in data for setting in SMALL]
    clicked = [each for each, entry in data.items() if "clicks" in entry.masks]
    models = [f"data.{each}.masks.clicks.options.model={model}" for each in clicked]
    return ["budget.epochs=1", "budget.iterations=4", *small, *models]


def run(name: str, store: Path, model: Path) -> str:
    """Run one recipe; its row of the log.

    Raises:
        RuntimeError: it failed.
    """
    where = ["--data", PHANTOM, "--budget", "demo", "--folds", "0", "--workspace", str(store), "--device", "cpu"]
    command = [sys.executable, "-m", "backsplit", "reproduce", name, *where, "--at-a-time", "2"]
    start = time.perf_counter()
    ended = subprocess.run([*command, "--set", *settings(name, model)], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{name}: {ended.stdout}{ended.stderr}")
    minutes = (time.perf_counter() - start) / 60
    jobs, trainings = (re.search(rf"^{kind} +(\d+) to do +(\d+) done$", ended.stdout, re.MULTILINE) for kind in KINDS)
    assert jobs
    lines = ended.stdout.splitlines()
    rows = [line for line in lines if line.startswith("| ") and "paper's table" not in line]
    num_rows = sum(not line.startswith(("| ---", "| Class", "| Structure")) for line in rows)
    num_figures = sum(bool(re.search(r"figure-[^/]*\.pdf$", line)) for line in lines)
    num_trained = trainings[1] if trainings else 0
    return f"| `{name}` | {jobs[1]} | {jobs[2]} | {num_trained} | {num_rows} | {num_figures} | {minutes:.1f} |"


KINDS = ("jobs", "train")


def main() -> None:
    """Run all, then write the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--nninteractive", type=Path)
    parser.add_argument("--only", nargs="+", default=names())
    told = parser.parse_args()
    model = told.nninteractive or told.store / "tiny-nninteractive"
    if not model.exists():
        write_interactive_model(model)
    kept = told.store / "rows.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for name in told.only:
        if name not in rows:
            rows[name] = run(name, told.store, model.resolve())
            print(rows[name], flush=True)
            write_json(rows, kept)
            write_text(text_of(rows, is_tiny=told.nninteractive is None), told.log)


def text_of(rows: dict[str, str], *, is_tiny: bool) -> str:
    """The log."""
    left = [name for name in names() if name not in rows]
    return TEXT.format(
        machine=platform.machine(),
        cores=os.cpu_count(),
        rows="\n".join(rows[name] for name in names() if name in rows),
        clicks="a tiny network with random weights" if is_tiny else "nnInteractive's weights",
        left=f"\nNot run yet: {', '.join(left)}.\n" if left else "",
    )


if __name__ == "__main__":
    main()
