"""Recipes of the paper, from nothing to their tables, on small made-up cases."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from tinyinteractive import write_interactive_model

NETWORKS = ("unet", "resenc-m", "segresnet")
DATA = ("kits23", "panther", "nsclc-radiomics")
SMALL = "phantom.size=32", "phantom.num_cases=10", "prepare.patch_size=[16,16,16]", "prepare.features=[4,8]"


def reproduce(name: str, store: Path, *settings: str, data: Sequence[str] = DATA) -> str:
    """Run a recipe with one epoch of four iterations on some of its data sets; everything that it printed."""
    small = [f"data.{each}.{setting}" for each in data for setting in SMALL]
    typed = [name, "--data", "phantom", *data, "--budget", "demo", "--folds", "0", "--workspace", str(store)]
    shorter = ["--device", "cpu", "--at-a-time", "2", "--set", "budget.epochs=1", "budget.iterations=4"]
    command = [sys.executable, "-m", "backsplit", "reproduce", *typed, *shorter, *small, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(printed: str, study: Path) -> set[str]:
    """Names of the figures that were named, each of them there and not empty."""
    paths = [Path(line) for line in printed.splitlines() if line.startswith(f"{study}/figure-")]
    assert all(path.stat().st_size > 0 for path in paths)
    return {path.name for path in paths}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_table_1_ends_in_its_table_with_the_papers_numbers(tmp_path):
    printed = reproduce("table-1", tmp_path)
    assert re.search(r"^train +18 to do +0 done$", printed, flags=re.MULTILINE)
    for data in DATA:
        for network in NETWORKS:
            (section,) = re.findall(rf"^## {data}, {network}$(.*?)(?=^## |\Z)", printed, flags=re.MULTILINE | re.DOTALL)
            assert "| cyst | binary |" in section
            assert "| cyst | backsplit |" in section
    assert "backsplit, unet, paper's table 1 | 0.457 | 267.3 | 0.600" in printed
    assert len(list(tmp_path.glob("studies/table-1-*/*/*/seed_0/report/index.html"))) == 9
    again = reproduce("table-1", tmp_path)
    assert re.search(r"^jobs +0 to do +72 done$", again, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_table_4_trains_an_organ_model_and_clicks_on_what_it_finds(tmp_path):
    """On AutoPET III's phantom alone: it has all that the other data sets have, and the organ model."""
    model, clicks = tmp_path / "nninteractive", "data.autopet3.masks.clicks"
    write_interactive_model(model, patch_size=(32, 32, 32), features=(4, 8))
    settings = [f"{clicks}.options.model={model}", f"{clicks}.structures=[liver, muscle]", "report.page=false"]
    settings += ["data.autopet3.auxiliaries=[liver, muscle]"]
    settings += ["data.autopet3.phantom.num_cases=5", "data.autopet3.prepare.folds=2"]
    store = tmp_path / "store"
    printed = reproduce("table-4", store, *settings, data=("abdomenatlas", "autopet3"))
    assert re.search(r"^train +5 to do +0 done$", printed, flags=re.MULTILINE)
    for arm in ("binary", "backsplit", "backsplit-7-clicks", "backsplit-10-clicks"):
        assert f"| cyst | {arm} |" in printed
    assert "## autopet3, masks against organs" in printed
    assert "## abdomenatlas, unet" in printed
    (table,) = store.glob("studies/table-4-*/masks.csv")
    assert set(pd.read_csv(table)["masks"]) == {"clicks-7-clicks", "clicks"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_figure_3_ends_in_its_curves(tmp_path):
    store = tmp_path.resolve()
    printed = reproduce("figure-3", store, "arms.finetuned.epochs=2", "report.page=false", data=("kits23",))
    assert re.search(r"^predict +7 to do +0 done$", printed, flags=re.MULTILINE)
    (study,) = store.glob("studies/figure-3-*")
    names = [f"figure-{kind}-kits23-unet-cyst" for kind in ("epochs", "fractions")]
    assert files_of(printed, study) == {f"{name}.{ending}" for name in names for ending in ("png", "svg", "pdf")}
    assert list(pd.read_csv(study / f"{names[0]}.csv")["x"]) == [0, 1, 2]
    assert list(pd.read_csv(study / f"{names[1]}.csv")["x"]) == [0, 0.1, 0.25, 0.5, 1]
