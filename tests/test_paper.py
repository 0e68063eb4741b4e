"""Recipes of the paper, from nothing to their tables, on small made-up cases."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = ("unet", "resenc-m", "segresnet")
DATA = ("kits23", "panther", "nsclc-radiomics")
SMALL = "phantom.size=32", "phantom.num_cases=10", "prepare.patch_size=[16,16,16]", "prepare.features=[4,8]"


def reproduce(name: str, store: Path, *extra: str) -> str:
    """Run a recipe with one epoch of four iterations; everything that it printed."""
    settings = [f"data.{data}.{each}" for data in DATA for each in SMALL]
    typed = [
        name,
        "--data",
        "phantom",
        "--budget",
        "demo",
        "--folds",
        "0",
        "--workspace",
        str(store),
        "--device",
        "cpu",
    ]
    shorter = ["--at-a-time", "2", "--set", "budget.epochs=1", "budget.iterations=4", *settings, *extra]
    command = [sys.executable, "-m", "backsplit", "reproduce", *typed, *shorter]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
