"""The tour of the README on real MR, with fewer cases and a shorter budget."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from backsplit.experiments.paths import Workspace
from studies import TINY_BUDGET, TINY_NETWORK, link_hippocampus, run

README = Path(__file__).parents[1] / "README.md"
NUM_CASES = 8


@pytest.fixture
def hippocampus(real_data: Path, tmp_path: Path) -> Path:
    return link_hippocampus(real_data, tmp_path / "Task04_Hippocampus", NUM_CASES)


def tour() -> list[list[str]]:
    section = README.read_text().partition("## Tour")[2].partition("\n## ")[0]
    return [shlex.split(line)[1:] for line in re.findall(r"^    (backsplit .*)$", section, flags=re.MULTILINE)]


SHORTER = {
    "prepare": [*TINY_NETWORK, "--folds", "2", "--processes", "1"],
    "train": [*TINY_BUDGET],
    "predict": ["--no-mirroring"],
}


def test_the_tour_runs_as_it_stands_in_the_readme(hippocampus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, *arguments in tour():
        kept = arguments[: arguments.index("--features")] if name == "prepare" else arguments
        kept = kept[: kept.index("--budget")] if "--budget" in kept else kept
        run(name, *kept, *SHORTER.get(name, []))
    workspace = Workspace()
    scores = pd.read_csv(workspace.scores)
    assert set(scores["arm"]) == {"binary", "backsplit"}
    assert set(scores["class"]) == {"Anterior"}
    assert len(scores) == NUM_CASES
    assert (scores["reference_ml"] > 0).all()
    assert workspace.report.stat().st_size > 100_000
    assert hippocampus.is_dir()
