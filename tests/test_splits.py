"""Folds that keep patients together, and official ones that are taken as they are."""

import json
from pathlib import Path

import pytest

from backsplit.cases import Case
from backsplit.errors import ConfigurationError
from backsplit.nnunet.splits import read_splits

CASES = [
    Case(name=f"case_{number}", images=(Path("/i.nii.gz"),), labels=Path("/l.nii.gz"), group=f"patient_{number // 2}")
    for number in range(6)
]
HAS_TARGET = {case.name: case.name != "case_5" for case in CASES}


def fold(train, val):
    return {"train": [f"case_{number}" for number in train], "val": [f"case_{number}" for number in val]}


def read(tmp_path, content):
    path = tmp_path / "splits_final.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_splits(path, CASES, HAS_TARGET)


def test_official_splits_are_taken_as_they_are(tmp_path):
    official = [fold([0, 1, 2, 3], [4, 5]), fold([4, 5], [2])]
    assert read(tmp_path, official) == official


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "not a file of splits"),
        ([], "not a file of splits"),
        ([{"train": ["case_0"]}], "not a file of splits"),
        ([{"train": ["case_0"], "val": ["case_9"]}], "names case_9"),
        ([fold([0, 2], [1])], "same patients: patient_0"),
        ([fold([0, 1, 2, 3], [5])], "none of its 1 val cases has a voxel of a target"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(tmp_path, content, message):
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="not a file of splits"):
        read_splits(tmp_path / "nowhere.json", CASES, HAS_TARGET)
