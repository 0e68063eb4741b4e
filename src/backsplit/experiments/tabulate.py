"""What a study came to: one table over its data sets and networks, seeds together, with the paper's numbers beside."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
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
    read_table,
    render,
    summarise,
    write_table,
)
from backsplit.evaluation.layout import Entry, Layout
from backsplit.experiments.grid import Grid, Group
from backsplit.experiments.workflow.progress import history_of
from backsplit.files import write_json, write_text
from backsplit.nnunet.history import read_history
from backsplit.sources.check import summarise_check

PACKAGES = ("backsplit", "nnunetv2", "torch", "numpy", "monai", "snakemake")


def tabulate(grid: Grid) -> str:
    """Write `table.md`, `table.csv`, `masks.csv` where masks are checked, and `provenance.json`; return the first.

    Seeds are repeated measures of a case: they are averaged before arms are compared, as `backsplit compare` does.
    """
    parts, rows = list(_checked(grid)), []
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
    if rows:
        write_table(pd.concat(rows, ignore_index=True), grid.store.table_of(grid.study, "csv"))
    write_json(_provenance(grid), grid.store.provenance_of(grid.study))
    return text


def _checked(grid: Grid) -> Iterator[str]:
    """A table for each data set with masks that are checked, and all of them as a file."""
    tables = [
        summarise_check(read_table(check.table)).assign(data=check.data, masks=check.masks, reference=check.reference)
        for check in grid.checks
    ]
    if not tables:
        return
    whole = pd.concat(tables, ignore_index=True)
    write_table(whole, grid.store.masks_of(grid.study))
    for data, reference in dict.fromkeys((check.data, check.reference) for check in grid.checks):
        yield _table_of_masks(whole[(whole["data"] == data) & (whole["reference"] == reference)], data, reference)


def _table_of_masks(table: pd.DataFrame, data: str, reference: str) -> str:
    best = table.groupby("structure")["mean_dice"].transform("max").where(table.duplicated("structure", keep=False))
    rows = [
        (
            Entry(row["structure"]),
            Entry(row["masks"]),
            Entry(f"{row['num_cases'] - row['num_undefined']}"),
            Entry(_decimals(row["mean_dice"]), is_best=row["mean_dice"] == top),
            Entry(_decimals(row["sd_dice"])),
        )
        for (_, row), top in zip(table.iterrows(), best, strict=True)
    ]
    caption = f"Mean and SD over the cases where Dice is defined; {table['num_undefined'].sum()} values are not."
    layout = Layout(("Structure", "Masks", "Cases", "Dice \N{UPWARDS ARROW}", "SD"), tuple(rows), caption)
    return f"## {data}, masks against {reference}\n\n{render(layout, 'markdown').strip()}\n"


def _decimals(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


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
    if not epochs:
        text = "Nothing is trained."
    if made_up:
        text += f" Made-up data in place of: {', '.join(made_up)}; its numbers say that the path works, nothing else."
    return text if recipe.report.note is None else f"{text} {recipe.report.note}"


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
