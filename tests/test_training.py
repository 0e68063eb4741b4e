"""What a training leaves behind, whatever the arm: a model that predicts targets, logs, a picture, a record."""

import json

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.experiments.paths import Workspace
from backsplit.labels import LabelScheme
from backsplit.volume import Volume, read_labels, write_volume
from studies import AUXILIARIES, TINY_BUDGET, compose_phantom, prepare, run, train

SIDES = ("kidney_left", "kidney_right")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """Two targets, kidneys by side, and two cases that are not annotated for bowel."""
    root = tmp_path_factory.mktemp("training")
    drawn = cases.read(compose_phantom(root, num_cases=6))
    composed = tuple(_with_sides(case, number, root / "sides") for number, case in enumerate(drawn.cases))
    scheme = LabelScheme(("cyst", "liver"), (*SIDES, "bowel"))
    cohort = Cohort("sides", drawn.channels, tuple(enumerate(scheme.names)), composed, scheme)
    cases.write(cohort, root / "sides")
    workspace = Workspace(root / "workspace")
    prepare(root / "sides", workspace.root)
    return workspace


def _with_sides(case: Case, number: int, folder) -> Case:
    """Phantom labels (cyst, kidney, liver, bowel) as (cyst, liver, kidney_left, kidney_right, bowel)."""
    assert AUXILIARIES == ("kidney", "liver", "bowel")
    labels = read_labels(case.labels)
    table = np.array([0, 1, 3, 2, 5], dtype=np.uint8)
    voxels = table[labels.voxels]
    voxels[: voxels.shape[0] // 2][voxels[: voxels.shape[0] // 2] == 3] = 4
    is_partial = number < 2
    if is_partial:
        voxels[voxels == 5] = 0
    path = folder.resolve() / "labels" / f"{case.name}.nii.gz"
    write_volume(Volume(voxels, labels.grid), path)
    annotated = SIDES if is_partial else None
    return Case(case.name, case.images, path, case.group, annotated)


def log_of(workspace: Workspace, name: str) -> pd.DataFrame:
    (path,) = workspace.results.glob(f"*/*__{name}__*/fold_0/progress.csv")
    return pd.read_csv(path)


@pytest.mark.parametrize(
    ("arguments", "name", "classes"),
    [
        (("--arm", "binary"), "binary", ["cyst", "liver"]),
        (("--arm", "backsplit"), "backsplit", ["cyst", "liver", "kidney", "bowel"]),
        (("--arm", "backsplit", "--sides", "keep", "--name", "sided"), "sided", ["cyst", "liver", *SIDES, "bowel"]),
        (("--arm", "subset", "--auxiliaries", "bowel"), "subset-bowel", ["cyst", "liver", "bowel"]),
        (("--arm", "virtual"), "virtual", ["cyst", "liver", "virtual"]),
        (("--arm", "partial", "--fraction", 0.4), "partial-40", ["cyst", "liver", "kidney", "bowel"]),
        (("--arm", "backsplit", "--loss", "curriculum"), "backsplit-curriculum", ["cyst", "liver", "kidney", "bowel"]),
        (
            ("--arm", "backsplit", "--deep-supervision", "off", "--name", "single"),
            "single",
            ["cyst", "liver", "kidney", "bowel"],
        ),
    ],
)
def test_every_arm_trains_and_predicts_the_targets(workspace, tmp_path, arguments, name, classes):
    run("train", *arguments, "--workspace", workspace.root, *TINY_BUDGET)
    log = log_of(workspace, name)
    assert [column.removeprefix("pseudo_dice_class_") for column in log if "_class_" in column] == classes
    assert np.isfinite(log[["train_loss", "validation_loss", "seconds_per_iteration"]]).all(axis=None)
    cohort = json.loads(workspace.preparation.read_text())["cohort"]
    run("predict", name, cohort, tmp_path, "--workspace", workspace.root, "--no-mirroring")
    for mask in tmp_path.glob("*.nii.gz"):
        assert read_labels(mask).voxels.max() <= 2


def test_annealed_weights_fall_and_the_log_says_so(workspace):
    run("train", "--arm", "backsplit", "--loss", "annealed", "--workspace", workspace.root, *TINY_BUDGET)
    assert list(log_of(workspace, "backsplit-annealed")["auxiliary_weight"]) == [1.0, 0.5]


def test_the_log_is_also_a_picture_and_tensorboard_events(workspace):
    train(workspace.root, "backsplit", "--name", "logged")
    (fold,) = workspace.results.glob("*/*__logged__*/fold_0")
    assert (fold / "progress.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(fold / "tensorboard")).Reload()
    logged = [event.value for event in events.Scalars("train_loss")]
    np.testing.assert_allclose(logged, log_of(workspace, "logged")["train_loss"], rtol=1e-6)


def test_the_record_names_what_each_training_case_knows(workspace):
    train(workspace.root, "partial", "--fraction", 0, "--name", "none")
    (fold,) = workspace.results.glob("*/*__none__*/fold_0")
    annotated = json.loads((fold / "annotation.json").read_text())["annotated"]
    assert annotated
    assert not any(annotated.values())
    assert (log_of(workspace, "none")["cross_entropy_auxiliary"] == 0).all()
