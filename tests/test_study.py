"""The whole path, from images to a page, and what makes its comparison fair."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from backsplit import cases
from backsplit.cli import main
from backsplit.cli.main import COMMANDS
from backsplit.cli.page import inputs_of
from backsplit.errors import ParityError
from backsplit.experiments.paths import Workspace
from backsplit.nnunet.arms import check_parity
from backsplit.report.likelihoods import write_level_sets
from backsplit.volume import read_labels, read_volume
from studies import AUXILIARIES, compose_phantom, prepare, run, train


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both arms trained, predicted, scored, compared and reported."""
    root = tmp_path_factory.mktemp("study")
    cohort = compose_phantom(root, num_cases=8)
    workspace = Workspace(root / "workspace")
    prepare(cohort, workspace.root)
    before = fingerprint(workspace.preprocessed)
    for arm in ("binary", "backsplit"):
        train(workspace.root, arm)
        run("predict", arm, "--workspace", workspace.root, "--no-mirroring")
    assert fingerprint(workspace.preprocessed) == before, "training must not add to, or change, what all arms share"
    run("evaluate", "--workspace", workspace.root, "--tolerance-mm", "10")
    run("compare", "--workspace", workspace.root)
    run("report", workspace.root)
    return workspace


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def model_of(study: Workspace, arm: str) -> Path:
    (model,) = study.results.glob(f"*/*__{arm}__*")
    return model


def test_one_preprocessed_copy_serves_all_arms(study):
    (marker,) = study.preprocessed.glob("*/prepared.json")
    told = json.loads(marker.read_text())
    (folder,) = (path for path in marker.parent.iterdir() if path.is_dir())
    files = list(folder.iterdir())
    assert told["num_files"] == len(files) == 3 * told["num_cases"] == 24
    assert told["num_bytes"] == sum(path.stat().st_size for path in files)
    assert not list(study.raw.rglob("*.nii.gz")), "images stay where they are"


def test_predictions_hold_targets_alone_on_the_grid_of_the_image(study):
    cohort = cases.read(study.root.parent / "composed")
    predicted = sorted(study.predictions_of("backsplit").glob("*.nii.gz"))
    assert len(predicted) == 4
    for path in predicted:
        labels = read_labels(path)
        image = read_volume(cohort.case(path.name.removesuffix(".nii.gz")).images[0])
        assert labels.grid.difference(image.grid) is None
        assert set(np.unique(labels.voxels)) <= {0, 1}


def test_held_out_cases_are_those_that_the_fold_left_out(study):
    (splits,) = study.preprocessed.glob("*/splits_final.json")
    validation = json.loads(splits.read_text())[0]["val"]
    scores = pd.read_csv(study.scores)
    assert sorted(scores[scores["arm"] == "binary"]["case"]) == sorted(validation)
    assert sorted(scores[scores["arm"] == "backsplit"]["case"]) == sorted(validation)


def test_page_and_tables_name_both_arms(study):
    page = study.report.read_text()
    assert "backsplit" in page
    assert "binary" in page
    assert list(pd.read_csv(study.comparison)["metric"]) == ["dice", "hd95_mm", "nsd_10mm"]


def test_figures_lie_beside_the_page_with_the_level_sets_that_fisher_drew(study):
    drawn = study.information_of("backsplit") / "likelihoods"
    probabilities = np.array([[0.2, 0.5], [0.5, 0.3], [0.3, 0.2]])
    write_level_sets(probabilities, np.ones(2), target=(1, "cyst"), other=(2, "kidney"), path=drawn)
    run("report", study.root, "--figures")
    names = {path.name for path in (study.report.parent / "figures").iterdir()}
    assert {"curve-train_loss.pdf", "spread-cyst.png", "likelihoods-backsplit.svg"} <= names


def test_training_log_has_a_row_per_epoch_and_the_parts_of_the_loss(study):
    log = pd.read_csv(model_of(study, "backsplit") / "fold_0" / "progress.csv")
    assert list(log["epoch"]) == [0, 1]
    assert np.isfinite(log).all(axis=None)
    total = (
        log["cross_entropy_target"]
        + 0.3 * log["cross_entropy_auxiliary"]
        - log["dice_target"]
        - 0.3 * log["dice_auxiliary"]
    )
    np.testing.assert_allclose(log["train_loss"], total, atol=1e-6)


def test_stock_nnunet_runs_the_checkpoint_and_finds_the_same_classes(study, tmp_path):
    model, cohort = model_of(study, "backsplit"), cases.read(study.root.parent / "composed")
    images = tmp_path / "images"
    images.mkdir()
    case = cohort.cases[0]
    shutil.copy(case.images[0], images / f"{case.name}_0000.nii.gz")
    (tmp_path / "backsplit.py").write_text("raise ImportError('this environment has no backsplit')")
    command = [Path(sys.executable).with_name("nnUNetv2_predict_from_modelfolder"), "-i", images, "-m", model]
    command += ["-o", tmp_path / "stock", "-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=200, env=environment)
    run("predict", model, images, tmp_path / "ours", "--all-classes", "--no-mirroring", "--device", "cpu")
    theirs = read_labels(tmp_path / "stock" / f"{case.name}.nii.gz")
    ours = read_labels(tmp_path / "ours" / f"{case.name}.nii.gz")
    assert len(np.unique(ours.voxels)) > 1, "an untrained-looking map would prove nothing"
    np.testing.assert_array_equal(ours.voxels, theirs.voxels)
    labels = json.loads((model / "dataset.json").read_text())["labels"]
    assert list(labels) == ["background", "cyst", *AUXILIARIES]


def test_a_shared_model_predicts_the_same(study, tmp_path):
    model, cohort = model_of(study, "backsplit"), cases.read(study.root.parent / "composed")
    images = tmp_path / "images"
    images.mkdir()
    case = cohort.cases[0]
    shutil.copy(case.images[0], images / f"{case.name}_0000.nii.gz")
    run("export", model, tmp_path / "model.zip")
    run("import", tmp_path / "model.zip", tmp_path / "imported")
    for source, output in ((model, "ours"), (tmp_path / "imported", "theirs")):
        run("predict", source, images, tmp_path / output, "--all-classes", "--no-mirroring", "--device", "cpu")
    masks = [read_labels(tmp_path / name / f"{case.name}.nii.gz").voxels for name in ("ours", "theirs")]
    np.testing.assert_array_equal(*masks)
    run("export", model, tmp_path / "stock.zip", "--nnunet")
    (tmp_path / "backsplit.py").write_text("raise ImportError('this environment has no backsplit')")
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **folders}
    binaries = Path(sys.executable).parent
    install = [binaries / "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "stock.zip"]
    subprocess.run(list(map(str, install)), check=True, capture_output=True, timeout=200, env=environment)
    (dataset,) = (tmp_path / "results").iterdir()
    predict = [
        binaries / "nnUNetv2_predict",
        "-d",
        dataset.name,
        "-c",
        "3d_fullres",
        "-i",
        images,
        "-o",
        tmp_path / "stock",
    ]
    predict += ["-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    subprocess.run(list(map(str, predict)), check=True, capture_output=True, timeout=200, env=environment)
    np.testing.assert_array_equal(read_labels(tmp_path / "stock" / f"{case.name}.nii.gz").voxels, masks[0])


def test_a_checkpoint_names_the_stock_trainer_and_nothing_of_ours(study):
    checkpoint = model_of(study, "binary") / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    assert content["trainer_name"] == "nnUNetTrainer"
    heads = [value for key, value in content["network_weights"].items() if "seg_layers" in key and "weight" in key]
    assert {head.shape[0] for head in heads} == {2}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", 5, "backsplit.seed"),
        ("sampling", "any", "backsplit.sampling"),
        ("splits", "others", "backsplit.splits"),
        ("budget", {"epochs": 9, "iterations": 3, "validation_iterations": 1}, "backsplit.budget.epochs"),
        ("data", "others", "backsplit.data"),
    ],
)
def test_comparison_of_arms_under_unequal_conditions_is_refused(study, tmp_path, capfd, key, value, named):
    copy = tmp_path / "workspace"
    shutil.copytree(study.root, copy)
    (plans_file,) = copy.glob("results/*/*__backsplit__*/plans.json")
    plans = json.loads(plans_file.read_text())
    plans["backsplit"][key] = value
    plans_file.write_text(json.dumps(plans))
    manifest = copy / "predictions" / "backsplit" / "predictions.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"model": str(plans_file.parent)}))
    assert main(["compare", "--workspace", str(copy)]) == 1
    assert named in capfd.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        ("configurations", "3d_fullres", "batch_size"),
        ("foreground_intensity_properties_per_channel", "0", "mean"),
    ],
)
def test_parity_covers_plan_and_intensity_statistics(study, path):

    plans, other = (json.loads((model_of(study, arm) / "plans.json").read_text()) for arm in ("binary", "backsplit"))
    check_parity(plans, other)
    part = other
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] += 1
    with pytest.raises(ParityError, match=path[-1]):
        check_parity(plans, other)


def test_page_says_what_is_not_fair_and_what_prediction_took(study, tmp_path):
    fair = inputs_of(study)
    assert fair.warnings == []
    assert fair.information == {}
    assert {arm for arm, seconds in fair.prediction_seconds.items() if seconds > 0} == {"binary", "backsplit"}
    copy = Workspace(tmp_path / "workspace")
    shutil.copytree(study.root, copy.root)
    copy.lost_information_of("backsplit").mkdir(parents=True)
    (plans_file,) = copy.results.glob("*/*__backsplit__*/plans.json")
    plans = json.loads(plans_file.read_text())
    plans["backsplit"]["seed"] = 5
    plans_file.write_text(json.dumps(plans))
    manifest = copy.predictions_of("backsplit") / "predictions.json"
    made = json.loads(manifest.read_text())
    by_another_fold = dict.fromkeys(made["cases"], "1")  # the cases that fold 0 left out are what fold 1 was trained on
    manifest.write_text(json.dumps(made | {"model": str(plans_file.parent), "cases": by_another_fold}))
    unfair = inputs_of(copy)
    parity, leak = unfair.warnings
    assert "backsplit.seed (0 against 5)" in parity
    assert leak.startswith(f"backsplit was trained on patients of 4 cases that it is scored on ({min(by_another_fold)}")
    assert unfair.information == {"backsplit": copy.lost_information_of("backsplit")}


def test_every_command_has_help_with_an_example(capfd):

    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command.__name__.lower(), "--help"])
        assert stop.value.code == 0
        assert "Example: backsplit" in capfd.readouterr().out


def test_scores_of_some_folds_and_predictions_under_another_name(study, tmp_path, capfd):
    assert main(["evaluate", "--folds", "1", "--tolerance-mm", "10", "--workspace", str(study.root)]) == 1
    assert "no case was predicted by the models of folds [1]" in capfd.readouterr().err
    run("predict", "binary", "--into", "elsewhere", "--workspace", study.root, "--no-mirroring")
    elsewhere, usual = study.predictions_of("elsewhere"), study.predictions_of("binary")
    other = Workspace(tmp_path)
    other.predictions.mkdir()
    for name, folder in (("one", elsewhere), ("two", usual)):
        other.predictions_of(name).symlink_to(folder)
    run("evaluate", "--folds", "0", "--tolerance-mm", "10", "--workspace", tmp_path)
    scores = pd.read_csv(other.scores).set_index(["case", "class"]).sort_index()
    one, two = (scores[scores["arm"] == name]["dice"] for name in ("one", "two"))
    pd.testing.assert_series_equal(one, two)
    assert len(one) == 4
    shutil.rmtree(elsewhere)


def test_an_arm_of_a_workspace_is_a_source_of_masks(study, tmp_path):
    cohort = shutil.copytree(study.root.parent / "drawn", tmp_path / "drawn")
    typed = [
        "--source",
        "nnunet",
        "--model",
        "backsplit",
        "--workspace",
        study.root,
        "--name",
        "ours",
        "--no-mirroring",
    ]
    run("annotate", cohort, *typed, "--structures", "kidney", "liver", "--device", "cpu")
    annotated = cases.read(cohort)
    assert annotated.mask_set("ours").structures == ("kidney", "liver")
    assert all(case.masks_of("ours").path.exists() for case in annotated.cases)
