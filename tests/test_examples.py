"""The recipes in `examples/`."""

from pathlib import Path

import pandas as pd
import pytest

from backsplit.experiments.building import build_grid
from backsplit.experiments.paths import Store
from backsplit.experiments.reading import read_recipe
from studies import link_hippocampus, start

EXAMPLES = Path(__file__).parents[1] / "examples"
NUM_CASES = 6


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_an_example_runs_as_soon_as_it_is_told_where_the_data_lies(name, tmp_path):
    data = name.partition("-")[0]
    recipe = read_recipe(EXAMPLES / f"{name}.yaml", [f"data.{data}.folder={tmp_path}"])
    assert list(recipe.data) == [data]
    grid = build_grid(recipe, tmp_path / "store")
    assert len(grid.trainings) == len(recipe.folds) * len(recipe.arms)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_mr_to_the_final_table(real_data, tmp_path):
    """Six cases, two folds, four steps a training."""
    folder = link_hippocampus(real_data, tmp_path / "Task04_Hippocampus", NUM_CASES)
    plan = "data.hippocampus.prepare={patch_size: [16, 16, 16], features: [4, 8], folds: 2}"
    smaller = ("folds=[0, 1]", "budget.epochs=2", "budget.iterations=2", "report.page=false", plan)
    store = Store(tmp_path / "store")
    where = ("--workspace", store.root, "--device", "cpu", "--at-a-time", 2)
    settings = ("--set", f"data.hippocampus.folder={folder}", *smaller)
    process = start("run", EXAMPLES / "hippocampus.yaml", *where, *settings)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    (scores,) = store.root.glob("studies/*/hippocampus/unet/seed_0/scores/scores.csv")
    assert pd.read_csv(scores).groupby("arm")["case"].nunique().to_dict() == {"backsplit": 6, "binary": 6}
    assert "| Anterior | backsplit |" in output
    assert "Folds 0 1, seeds 0, epochs 2." in output
