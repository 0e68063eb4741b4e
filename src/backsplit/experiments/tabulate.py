"""What a study came to: one table over its data sets and networks, seeds together, with the paper's numbers beside."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from backsplit.evaluation import (
    POLICIES,
    arrange,
    compare,
    paper_numbers,
    read_scores,
    render,
    summarise,
    write_table,
)
from backsplit.experiments.grid import Grid, Group
from backsplit.experiments.workflow.progress import history_of
from backsplit.files import write_json, write_text
from backsplit.nnunet.history import read_history

PACKAGES = ("backsplit", "nnunetv2", "torch", "numpy", "monai", "snakemake")


def tabulate(grid: Grid) -> str:
    """Write `table.md`, `table.csv` and `provenance.json`; return the former.

    Seeds are repeated measures of a case: they are averaged before arms are compared, as `backsplit compare` does.
    """
    parts, rows = [], []
    for data, network in dict.fromkeys((group.data, group.network) for group in grid.groups):
        groups = [group for group in grid.groups if (group.data, group.network) == (data, network)]
        scores = pd.concat([_scores(grid, group) for group in groups], ignore_index=True)
        policy = POLICIES[grid.recipe.metrics.empty_policy]
        summary = summarise(scores, policy)
        tested = pd.DataFrame(columns=["arm", "class", "metric", "p_holm"])
        if len(groups[0].trained) > 1:
            tested = compare(scores, baseline=grid.recipe.baseline, policy=policy)
        layout = arrange(summary, tested, paper=_paper(grid, data, network))
        parts.append(f"## {data}, {network}\n\n{render(layout, 'markdown').strip()}\n")
        rows.append(summary.assign(data=data, network=network))
    text = f"# {grid.recipe.name}\n\n{_conditions(grid)}\n\n" + "\n".join(parts)
    write_text(text, grid.store.table_of(grid.study, "md"))
    write_table(pd.concat(rows, ignore_index=True), grid.store.table_of(grid.study, "csv"))
    write_json(_provenance(grid), grid.store.provenance_of(grid.study))
    return text


def _scores(grid: Grid, group: Group) -> pd.DataFrame:
    return read_scores(grid.store.group(grid.study, group.folder).scores)


def _paper(grid: Grid, data: str, network: str) -> pd.DataFrame | None:
    """What the paper printed for a data set and network, if this package knows it."""
    table, name = grid.recipe.report.paper_table, grid.recipe.data[data].paper_name
    if table is None or name is None:
        return None
    numbers = paper_numbers(table)
    chosen = numbers[(numbers["data_set"] == name) & (numbers["network"] == grid.recipe.networks[network].network)]
    return None if chosen.empty else chosen


def _conditions(grid: Grid) -> str:
    recipe = grid.recipe
    made_up = [name for name, data in recipe.data.items() if data.phantom is not None]
    epochs = sorted({training.epochs for training in grid.trainings})
    text = f"Folds {_listed(recipe.folds)}, seeds {_listed(recipe.seeds)}, epochs {_listed(epochs)}."
    if made_up:
        text += f" Made-up data in place of: {', '.join(made_up)}; its numbers say that the path works, nothing else."
    return text


def _listed(numbers: Any) -> str:  # noqa: ANN401  any sequence
    return " ".join(map(str, numbers))


def _provenance(grid: Grid) -> dict[str, Any]:
    seconds = {training.job: _seconds(training) for training in grid.trainings}
    return {
        "recipe": grid.recipe.content(),
        "commit": _commit(),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": f"{platform.node()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "devices": _devices(),
        "training_seconds": seconds,
        "training_hours": sum(seconds.values()) / 3600,
        "groups": {group.folder: group.trained for group in grid.groups},
    }


def _seconds(training: Any) -> float:  # noqa: ANN401  a Training
    return sum(row["seconds"] for row in read_history(history_of(training)))


def _commit() -> str | None:
    """Of the working copy that this package runs from; None if git is not here, or does not keep this very file."""
    git, here = shutil.which("git"), Path(__file__)
    if git is None:
        return None
    kept = ["ls-files", "--error-unmatch", here.name]
    for words in (kept, ["describe", "--always", "--dirty", "--abbrev=12"]):
        told = subprocess.run([git, *words], cwd=here.parent, capture_output=True, text=True, check=False)  # noqa: S603
        if told.returncode:
            return None
    return told.stdout.strip()


def _devices() -> list[str]:
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] or ["CPU"]
