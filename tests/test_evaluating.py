"""Scoring a workspace: resumable, in workers, and every fault named before any table is written."""

import json
from dataclasses import replace

import numpy as np
import pytest

from backsplit import cases
from backsplit.cli import main
from backsplit.evaluation import LESION_COLUMNS, UNDEFINED, Scoring, read_scores, read_table, write_rows
from backsplit.experiments.evaluating import evaluate
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import evaluated_policy
from backsplit.nnunet.arms import BLOCK
from backsplit.volume import Volume, read_labels, write_volume
from studies import compose_phantom


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    return compose_phantom(tmp_path_factory.mktemp("phantom"), num_cases=3)


@pytest.fixture
def study(composed, tmp_path):
    """Predictions of two arms as `predict` leaves them: the reference, and it shifted by a voxel."""
    cohort, workspace = cases.read(composed), Workspace(tmp_path / "study")
    for arm, shift in (("binary", 1), ("backsplit", 0)):
        folder = workspace.predictions_of(arm)
        for case in cohort.cases:
            labels = read_labels(case.labels)
            mask = (np.roll(labels.voxels, shift, axis=0) == 1).astype(np.uint8)
            write_volume(Volume(mask, labels.grid), folder / f"{case.name}.nii.gz")
        model = tmp_path / f"model-{arm}"
        model.mkdir()
        (model / "plans.json").write_text(json.dumps({"configurations": {}, BLOCK: {"seed": 3}}))
        told = {"arm": arm, "model": str(model), "cohort": str(composed), "rule": "argmax", "all_classes": False}
        told |= {"cases": {case.name: "0" for case in cohort.cases}}
        (folder / "predictions.json").write_text(json.dumps(told))
    return workspace


def scored(study, **options):
    return evaluate(study, scoring=Scoring((2.0,)), policy=UNDEFINED, **options)


def mask_of(study, arm="binary", number=0):
    return sorted(study.predictions_of(arm).glob("*.nii.gz"))[number]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_scores_are_those_of_the_masks(study, num_processes):
    summary = scored(study, num_processes=num_processes).set_index("arm")
    table = read_scores(study.scores)
    assert len(table) == 6
    assert set(table["seed"]) == {"3"}
    whole = table[(table["arm"] == "backsplit") & (table["reference_ml"] > 0)]
    assert (whole["dice"] == 1).all()
    assert (whole["hd95_mm"] == 0).all()
    assert summary.loc["binary", "mean_dice"] < 1
    assert study.lesions.exists()


def test_no_lesion_anywhere_still_gives_a_table_of_lesions(study, composed):
    for case in cases.read(composed).cases:
        for arm in ("binary", "backsplit"):
            mask = study.predictions_of(arm) / f"{case.name}.nii.gz"
            volume = read_labels(mask)
            write_volume(Volume(volume.voxels * 0, volume.grid), mask)
    scored(study)
    lesions = read_table(study.lesions)
    assert set(lesions["detected"]) <= {"no"}
    write_rows([], study.lesions, columns=LESION_COLUMNS)
    assert list(read_table(study.lesions)) == list(LESION_COLUMNS)


def test_a_case_is_scored_once_until_its_mask_or_the_scoring_changes(study):
    def records():
        return {path: path.stat().st_mtime_ns for path in study.score_records.rglob("*.json")}

    scored(study)
    before, table = records(), study.scores.read_bytes()
    scored(study)
    assert records() == before
    assert study.scores.read_bytes() == table
    changed = mask_of(study)
    volume = read_labels(changed)
    write_volume(Volume(volume.voxels * 0, volume.grid), changed)
    scored(study)
    again = [path for path, time in records().items() if before[path] != time]
    assert [path.stem for path in again] == [changed.name.removesuffix(".nii.gz")]
    evaluate(study, scoring=Scoring((2.0,), min_lesion_voxels=5), policy=UNDEFINED)
    assert all(time != before[path] for path, time in records().items())


def test_all_faults_are_named_and_no_table_is_written(study, capsys):
    missing, other, wrong = (mask_of(study, number=number) for number in range(3))
    volume = read_labels(other)
    missing.unlink()
    write_volume(Volume(volume.voxels[1:], _cut(volume.grid)), other)
    write_volume(Volume(volume.voxels * 0 + 4, volume.grid), wrong)
    write_volume(volume, study.predictions_of("backsplit") / "stranger.nii.gz")
    write_volume(Volume(volume.voxels * np.float32(0.5) + np.float32(0.25), volume.grid), mask_of(study, "backsplit"))
    assert main(["evaluate", "--tolerance-mm", "2", "--jobs", "1", "--workspace", str(study.root)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "5 of 6 masks cannot be scored, so no table is written" in told
    for part in (
        f"binary: {missing.name.removesuffix('.nii.gz')}: no prediction",
        "reference and prediction differ: shape",
        "has the label 4, expected 0 to 1 (cyst)",
        "backsplit: stranger: is not among the cases that were predicted",
        "are not whole numbers",
    ):
        assert part in told
    assert not study.scores.exists()


def test_regions_and_a_stated_penalty_on_the_command_line(study, capsys):
    command = ["evaluate", "--tolerance-mm", "2", "--jobs", "1", "--workspace", str(study.root)]
    assert main([*command, "--empty-policy", "penalty", "--penalty-mm", "300", "--regions", "lesion=cyst"]) == 0
    assert "one empty: Dice 0, NSD 0, HD95 300.0 mm" in capsys.readouterr().out
    table = read_scores(study.scores).set_index("class")
    assert table.loc["lesion", "dice"].tolist() == table.loc["cyst", "dice"].tolist()
    assert evaluated_policy(study).distance_one_empty == 300


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--penalty-mm", "300"], "--penalty-mm needs --empty-policy penalty, not undefined"),
        (["--regions", "mass"], "--regions takes name=target+target, got 'mass'"),
        (["--regions", "mass=cyst+liver"], "region mass = cyst + liver: expected a new name, and classes among cyst"),
    ],
)
def test_choices_that_make_no_sense_are_one_line(study, capsys, arguments, told):
    assert main(["evaluate", "--tolerance-mm", "2", "--workspace", str(study.root), *arguments]) == 1
    assert told in capsys.readouterr().err.splitlines()[-1]


def _cut(grid):
    return replace(grid, shape=(grid.shape[0] - 1, *grid.shape[1:]))


def test_predictions_for_another_cohort(study, composed, capsys):
    manifest = study.predictions_of("binary") / "predictions.json"
    manifest.write_text(manifest.read_text().replace(str(composed), str(composed.parent / "other")))
    assert main(["evaluate", "--tolerance-mm", "2", "--workspace", str(study.root)]) == 1
    assert "arms differ in the cohort of their predictions" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["0"], ["1", "1"], ["-3"]])
def test_tolerances_that_make_no_sense(study, capsys, arguments):
    assert main(["evaluate", "--tolerance-mm", *arguments, "--workspace", str(study.root)]) == 1
    assert "--tolerance-mm" in capsys.readouterr().err
