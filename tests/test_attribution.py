"""The ladder from stock nnU-Net to an arm: what each rung trains on, what it adds, and the table of its steps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backsplit import cases
from backsplit.cli import main
from backsplit.evaluation import holm, read_scores
from backsplit.experiments.attribution import (
    LABELS,
    LOSS,
    PATCHES,
    RUNGS,
    STATISTICS,
    STOCK,
    Site,
    build_ladder,
    prepare_stock,
)
from backsplit.experiments.paths import Workspace
from backsplit.experiments.study import nnunet_folders, prepared_dataset, remember_preparation
from backsplit.learning.losses import LossWeights
from backsplit.nnunet.arms import Arm, ArmSettings, Budget, check_parity, plans_of_arm
from backsplit.nnunet.folders import Folders
from backsplit.nnunet.networks import NetworkSettings
from backsplit.nnunet.plans import PlanSettings
from backsplit.nnunet.training import Prepared, open_prepared
from backsplit.volume import read_labels, read_volume
from studies import compose_phantom, prepare, run

SHORTEST = ("--epochs", 1, "--iterations", 1, "--workers", 0, "--device", "cpu")
LADDER = ("train", "--arm", "backsplit", "--attribution", "--no-mirroring", *SHORTEST)
TRAINED = (STOCK, STATISTICS, LABELS, LOSS)


def climb(workspace: Workspace, *extra: object) -> int:
    return main([str(argument) for argument in (*LADDER, "--workspace", workspace.root, *extra)])


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Workspace:
    root = tmp_path_factory.mktemp("attribution")
    workspace = Workspace(root / "workspace")
    prepare(compose_phantom(root, num_cases=4), workspace.root)
    assert climb(workspace) == 0
    run("evaluate", "--workspace", workspace.root, "--tolerance-mm", 10)
    run("compare", "--attribution", "--workspace", workspace.root)
    return workspace


def site_of(workspace: Workspace) -> Site:
    folders = nnunet_folders(workspace)
    return Site(folders, open_prepared(folders, prepared_dataset(workspace)[0]))


def models(study: Workspace) -> dict[str, Path]:
    found = [*study.results.glob("*/*__ladder-*"), *study.stock.results.glob("*/*__ladder-*")]
    return {folder.name.split("__")[1]: folder for folder in found}


def plans_of(study: Workspace, rung: str) -> dict:
    return json.loads((models(study)[rung] / "plans.json").read_text())


def intensities(plans: dict) -> dict:
    return plans["foreground_intensity_properties_per_channel"]["0"]


def test_stock_statistics_are_those_of_the_targets_alone(study):
    cohort = cases.read(prepared_dataset(study)[1])
    pairs = [(read_volume(case.images[0]).voxels, read_labels(case.labels).voxels) for case in cohort.cases]
    for rung, last_class in ((STOCK, 1), (STATISTICS, 4)):
        seen = np.concatenate([image[(labels > 0) & (labels <= last_class)] for image, labels in pairs])
        told = intensities(plans_of(study, rung))
        assert (told["min"], told["max"]) == pytest.approx((seen.min(), seen.max())), "nnU-Net samples all voxels often"
    assert intensities(plans_of(study, STATISTICS)) == intensities(plans_of(study, LOSS))
    assert intensities(plans_of(study, STATISTICS))["std"] > 2 * intensities(plans_of(study, STOCK))["std"]


def test_stock_labels_hold_targets_where_the_shared_ones_do(study):
    for path in (study.stock.target_cohort / "labels").glob("*.nii.gz"):
        fine = read_labels(study.root.parent / "composed" / "labels" / path.name).voxels
        assert ((fine == 1) == read_labels(path).voxels).all()


def test_folds_and_overrides_of_the_plan_are_equal(study):
    stock, shared = site_of(study.stock), site_of(study)
    files = [next(site.folders.preprocessed.glob("*/splits_final.json")) for site in (stock, shared)]
    assert len({file.read_text() for file in files}) == 1
    blocks = [site.prepared.plans["backsplit"] for site in (stock, shared)]
    assert blocks[0]["splits"] == blocks[1]["splits"]
    recorded = [PlanSettings.from_json(block["plan_settings"]) for block in blocks]
    assert recorded == [PlanSettings((16, 16, 16), 2, (4, 8))] * 2


def test_rungs_on_shared_data_are_a_fair_comparison(study):
    assert set(models(study)) == set(TRAINED)
    for rung in (LABELS, LOSS):
        check_parity(plans_of(study, STATISTICS), plans_of(study, rung))


def test_every_rung_predicts_the_same_held_out_cases(study):
    (splits,) = study.preprocessed.glob("*/splits_final.json")
    held_out = json.loads(splits.read_text())[0]["val"]
    for rung in TRAINED:
        assert sorted(path.name for path in study.predictions_of(rung).glob("*.gz")) == [
            f"{name}.nii.gz" for name in sorted(held_out)
        ]


def test_a_second_call_trains_nothing(study):
    files = [path for root in (study.root, study.stock.root) for path in root.rglob("*.pth")]
    files += list(study.stock.preprocessed.rglob("*.b2nd")) + list(study.predictions.rglob("*.nii.gz"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert climb(study) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert set(study.root.rglob("*.pth")) <= set(files)


def test_a_rung_is_compared_with_the_rung_before_it(study):
    table = pd.read_csv(study.attribution)
    steps = table[["arm", "baseline", "adds"]].drop_duplicates().to_numpy().tolist()
    assert steps == [
        [STATISTICS, STOCK, "shared intensity statistics"],
        [LABELS, STATISTICS, "labels of backsplit, loss paper"],
        [LOSS, LABELS, "loss target-first"],
    ]
    assert list(table["metric"]) == ["dice", "hd95_mm", "nsd_10mm"] * 3
    dice = read_scores(study.scores).groupby("arm")["dice"].mean()
    expected = [dice[arm] - dice[baseline] for arm, baseline, _ in steps]
    np.testing.assert_allclose(table.query("metric == 'dice'")["mean_difference"], expected, atol=1e-8)
    np.testing.assert_allclose(table["p_holm"], holm(table["p_wilcoxon"].to_numpy()))


def test_what_is_left_out_is_told(study, capsys):
    run("compare", "--attribution", "--workspace", study.root)
    assert f"{PATCHES} is left out: it is {STATISTICS}, because the stock plan has the same" in capsys.readouterr().out


def test_rungs_stay_out_of_other_comparisons(study, tmp_path, capfd):
    compare = ("compare", "--workspace", tmp_path / "copy")
    workspace = Workspace(Path(shutil.copytree(study.root, tmp_path / "copy")))
    assert main([*map(str, compare), "--baseline", STOCK]) == 1
    assert f"no arm '{STOCK}' to compare with; predicted arms are none" in capfd.readouterr().err
    for arm in ("binary", "virtual"):
        run("train", "--arm", arm, "--workspace", workspace.root, *SHORTEST)
        run("predict", arm, "--workspace", workspace.root, "--no-mirroring", "--device", "cpu")
    run("evaluate", "--workspace", workspace.root, "--tolerance-mm", 10)
    run(*compare)
    assert set(pd.read_csv(workspace.comparison)["arm"]) == {"virtual"}
    run("report", workspace.root)
    assert STATISTICS in workspace.report.read_text()


@pytest.fixture(scope="module")
def planned(study, tmp_path_factory) -> Prepared:
    """The cohort of the study with nnU-Net's own plan."""
    workspace = Workspace(tmp_path_factory.mktemp("planned"))
    cohort = prepared_dataset(study)[1]
    run("prepare", cohort, "--workspace", workspace.root, "--folds", 2, "--processes", 1, "--normalisation", "stock")
    return site_of(workspace).prepared


def top_of(prepared: Prepared, **changes) -> ArmSettings:
    return ArmSettings(Arm("backsplit"), prepared.scheme, Budget(1, 1, 1), **changes)


@pytest.mark.parametrize("network", ["unet", "resenc-m"])
def test_with_unequal_plans_patches_are_a_rung_of_their_own(study, planned, network):
    shared = site_of(study)
    top = top_of(shared.prepared, network=network, network_settings=NetworkSettings(deep_supervision=False))
    ladder = build_ladder(top, shared, Site(shared.folders, planned))
    assert tuple(rung.name for rung in ladder.rungs) == RUNGS
    plans = [plans_of_arm(rung.site.prepared.plans, rung.settings) for rung in ladder.rungs]
    sizes = [next(iter(each["configurations"].values())) for each in plans]
    keys = ("patch_size", "batch_size", "architecture")
    assert [sizes[0][key] for key in keys] == [sizes[1][key] for key in keys] != [sizes[2][key] for key in keys]
    assert intensities(plans[0]) != intensities(plans[1]) == intensities(plans[2])
    for other in plans[3:]:
        check_parity(plans[2], other)


def test_sides_kept_apart_switch_mirroring_off_from_the_third_rung_on(study):
    shared, stock = site_of(study), site_of(study.stock)
    ladder = build_ladder(top_of(shared.prepared, sides="keep"), shared, stock)
    assert [rung.settings.sides for rung in ladder.rungs] == ["merge", "merge", "keep", "keep", "keep"]


@pytest.mark.parametrize(("weight", "is_left_out"), [(None, True), (0.1, False)])
def test_the_papers_loss_is_no_rung_of_its_own(study, weight, is_left_out):
    shared, stock = site_of(study), site_of(study.stock)
    ladder = build_ladder(top_of(shared.prepared, loss="paper", auxiliary_weight=weight), shared, stock)
    assert (LOSS in ladder.left_out) == is_left_out
    assert ladder.rungs[-2 + is_left_out].settings.loss == "paper"


def test_all_losses_are_one_for_binary_rungs():
    of_binary = [LossWeights.preset(loss, num_targets=2, num_classes=3) for loss in ("paper", "target-first")]
    assert of_binary[0].target_dice == of_binary[1].target_dice == 1


def test_only_arms_without_auxiliaries_train_on_stock_data(study, planned, capfd):
    assert planned.scheme.names == ("background", "cyst")
    assert main(["train", "--arm", "backsplit", "--workspace", str(study.stock.root), *map(str, SHORTEST)]) == 1
    assert "needs auxiliary classes and the cohort has none" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (("--arm", "binary"), "--attribution leads to an arm with more classes than targets and background"),
        (("--name", "mine"), "--attribution names its rungs and chooses --sampling itself"),
        (("--sampling", "any"), "--attribution names its rungs and chooses --sampling itself"),
        (("--fold", 7), "fold 7 does not exist"),
        (("--seed", 3), "was trained with other settings (backsplit.seed 0 then, 3 now)"),
    ],
)
def test_what_cannot_be_a_ladder_is_one_line(study, capfd, extra, told):
    assert climb(study, *extra) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("backsplit: error: ")
    assert told in error


def test_no_ladder_and_no_scores_are_told_apart(study, tmp_path, capfd):
    assert main(["compare", "--attribution", "--workspace", str(tmp_path)]) == 1
    assert "no ladder is trained" in capfd.readouterr().err
    elsewhere = Workspace(tmp_path)
    elsewhere.ladder.write_text(study.ladder.read_text())
    elsewhere.predictions.mkdir()
    (elsewhere.predictions / STOCK).symlink_to(study.predictions_of(STOCK))
    elsewhere.scores.parent.mkdir()
    elsewhere.scores.write_text(study.scores.read_text())
    assert main(["compare", "--attribution", "--workspace", str(tmp_path)]) == 1
    assert f"no scores of {STATISTICS}, {LABELS}, {LOSS}" in capfd.readouterr().err


def test_a_workspace_of_an_earlier_version_is_named(study, tmp_path, capfd):
    shared = site_of(study)
    (plans,) = study.preprocessed.glob("*/nnUNetPlans.json")
    kept = plans.read_text()
    content = json.loads(kept)
    del content["backsplit"]["plan_settings"]
    plans.write_text(json.dumps(content))
    try:
        assert climb(study) == 1
    finally:
        plans.write_text(kept)
    assert "prepared by a version of BackSplit without --attribution" in capfd.readouterr().err
    assert site_of(study) == shared


def test_in_nnunets_own_folders_the_stock_data_set_has_a_free_number(study, tmp_path, monkeypatch):
    own = Folders(*(tmp_path / role for role in ("raw", "preprocessed", "results")))
    for role in ("raw", "preprocessed"):
        shutil.copytree(study.root / role, getattr(own, role))
    for role in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{role}", str(getattr(own, role)))
    workspace = Workspace(tmp_path / "workspace")
    workspace.root.mkdir()
    shutil.copy(study.preparation, workspace.preparation)
    for _ in range(3):
        site = prepare_stock(workspace, site_of(workspace), num_processes=1)
        assert site.folders == own
        assert site.prepared.name == "Dataset002_phantom-targets"
        assert {path.name for path in own.raw.iterdir()} == {"Dataset001_phantom", "Dataset002_phantom-targets"}
        remember_preparation(workspace.stock, site.prepared.name, workspace.stock.target_cohort)  # as if interrupted
