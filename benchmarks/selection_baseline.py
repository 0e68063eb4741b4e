"""How `backsplit select --baseline` ranks the phantom's auxiliaries once the baseline is trained for long.

Run:  OMP_NUM_THREADS=1 python benchmarks/selection_baseline.py STUDIES docs/selection-baseline.md

For each seed a binary arm is trained as the demo trains, for more iterations, and predicts the cases that its fold left
out; these and their labels are what `select` sees. What is finished in STUDIES is not done again.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from phantom_study import markdown, score_trainings, train_typed, training_data
from selection_study import held_out_masks

from backsplit import cases
from backsplit.evaluation import read_table
from backsplit.experiments.paths import Workspace
from backsplit.experiments.selecting import rank_auxiliaries
from backsplit.files import write_text

SEEDS, ITERATIONS = (0, 1, 2), 2000
TEXT = """# Where a trained baseline's false alarms lie

Written by `benchmarks/selection_baseline.py`: the phantom of `backsplit demo`, a binary arm trained for {iterations}
iterations, seeds {seeds} (mean Dice on {test} unseen cases {dice}). The ranking of
`backsplit select --baseline` from the {train} training cases and the masks of the {held_out} that the fold left out; of
the ten auxiliaries those that reach a score of 0.01. A false alarm is a component of the mask that shares no voxel with
a cyst; `false_alarms` is the share of their volume in or beside a class. It counts where it is above `volume`, the
class's share of all that is no target.

{tables}

Means over the seeds:

{means}

The kidney, which holds the cysts, comes first for {num_first} of {num_seeds} seeds. The bowel, where most of the fluid
lies that is no cyst, is above the liver for {num_above} of {num_seeds} seeds; ranked by the {test} unseen cases and
their masks, for {num_above_unseen} of {num_seeds}, with these shares of the false alarms:

{unseen}

Most voxels of false alarms lie in fat, which is background, and touch a loop of bowel; counted by the class that they
lie in, as an earlier version of this table was, they did not show the bowel at all.
"""


def ranking(root: Path, seed: int) -> pd.DataFrame:
    """The table of one seed."""
    workspace, composed = training_data(root, seed)
    score_trainings(workspace, [("binary", train_typed("binary", ITERATIONS))], root, seed)
    return rank_auxiliaries(cases.read(composed), held_out_masks(workspace, composed))


def shown(table: pd.DataFrame) -> str:
    """The rows that say something."""
    columns = ["rank", "class", "score", "contact", "containment", "false_alarms", "volume"]
    return markdown(table.loc[table["score"] >= 0.01, columns].round(3).astype(str))


def unseen_ranking(root: Path, seed: int) -> pd.DataFrame:
    """The table of one seed, from the cases that no arm of it was trained or stopped on."""
    cohort, folder = cases.read(root / "test" / "composed"), Workspace(root / f"seed_{seed}").predictions_of("binary")
    return rank_auxiliaries(cohort, {case.name: folder / f"{case.name}.nii.gz" for case in cohort.cases})


def _num_above(tables: Iterable[pd.DataFrame]) -> int:
    return sum(_score(table, "bowel") > _score(table, "liver") for table in tables)


def _alarms(table: pd.DataFrame) -> dict[str, str]:
    """Share of the false alarms of the classes that have most."""
    shares = table.set_index("class")["false_alarms"].sort_index()
    return {name: f"{shares[name]:.3f}" for name in ("kidney", "bowel", "liver", "spleen", "muscle")}


def _score(table: pd.DataFrame, name: str) -> float:
    return float(table.loc[table["class"] == name, "score"].iloc[0])


def main(root: Path, path: Path) -> None:
    """Train what is missing, rank, write."""
    tables = {seed: ranking(root, seed) for seed in SEEDS}
    unseen = {seed: unseen_ranking(root, seed) for seed in SEEDS}
    means = pd.concat(tables.values()).groupby("class").mean(numeric_only=True).reset_index()
    means = means.sort_values("score", ascending=False, ignore_index=True)
    dice = [read_table(Workspace(root / f"seed_{seed}").summary)["mean_dice"].iloc[0] for seed in SEEDS]
    composed = cases.read(root / "seed_0" / "train" / "composed")
    told = {
        "iterations": ITERATIONS,
        "seeds": ", ".join(map(str, SEEDS)),
        "dice": ", ".join(f"{each:.2f}" for each in dice),
        "train": len(composed.cases),
        "held_out": len(list((root / "seed_0" / "held-out").glob("*.nii.gz"))),
        "means": shown(means.assign(rank=range(1, len(means) + 1))),
        "num_first": sum(table["class"][0] == "kidney" for table in tables.values()),
        "num_above": _num_above(tables.values()),
        "num_above_unseen": _num_above(unseen.values()),
        "unseen": markdown(pd.DataFrame([{"seed": seed, **_alarms(table)} for seed, table in unseen.items()])),
        "test": len(cases.read(root / "test" / "composed").cases),
        "num_seeds": len(tables),
        "tables": "\n\n".join(f"Seed {seed}:\n\n{shown(table)}" for seed, table in tables.items()),
    }
    write_text(TEXT.format(**told), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
