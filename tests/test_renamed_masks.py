"""Structures under other names, so that they can be compared and composed."""

import numpy as np
import pandas as pd
import pytest

from backsplit import cases
from backsplit.cli import main
from backsplit.volume import read_labels
from studies import run

DRAWN = ("--num-cases", 2, "--size", 32)


@pytest.fixture
def cohort(tmp_path):
    run("convert", "phantom", tmp_path / "drawn", *DRAWN)
    return tmp_path / "drawn"


def test_a_structure_is_filed_and_checked_under_its_new_name(cohort):
    """Liver called kidney is compared with the kidney: they have no voxel in common."""
    source = ("annotate", cohort, "--source", "labels", "--structures", "liver", "spleen")
    run(*source, "--name", "plain")
    run(*source, "--name", "other", "--rename", "liver=kidney", "--check", "labels")
    annotated = cases.read(cohort)
    assert annotated.mask_set("other").structures == ("kidney", "spleen")
    for case in annotated.cases:
        plain, other = (read_labels(case.masks_of(name).path).voxels for name in ("plain", "other"))
        np.testing.assert_array_equal(plain, other)
    table = pd.read_csv(cohort / "masks" / "other" / "check-labels.csv").groupby("structure")["dice"]
    assert table.max()["kidney"] == 0
    assert table.min()["spleen"] == 1
    assert "kidney" in (cohort / "masks" / "other" / f"{annotated.cases[0].name}.json").read_text()


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("liver", "--rename takes old=new, got liver"),
        ("heart=kidney", "--rename heart: the source gives liver, spleen; rename one of these"),
        ("liver=spleen", "--rename would call several structures spleen; give each a name of its own"),
    ],
)
def test_names_that_cannot_be_given_are_refused(cohort, pair, words, capfd):
    typed = ["annotate", str(cohort), "--source", "labels", "--structures", "liver", "spleen", "--rename", pair]
    assert main(typed) == 1
    assert words in capfd.readouterr().err
    assert not (cohort / "masks").exists()
