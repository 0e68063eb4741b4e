"""One training on several devices is the training on one: here two CPU processes that talk by gloo."""

import pandas as pd
import pytest

from backsplit.cli import main
from backsplit.experiments.paths import Workspace
from studies import compose_phantom, prepare, run

TWENTY_STEPS = ("--device", "cpu", "--epochs", 20, "--iterations", 1, "--precision", "float32", "--optimizer", "adamw")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    root = tmp_path_factory.mktemp("processes")
    workspace = Workspace(root / "workspace")
    prepare(compose_phantom(root, num_cases=6), workspace.root)
    return workspace


@pytest.mark.parametrize("arm", ["backsplit", "partial"])
def test_two_processes_have_the_losses_of_one_with_the_whole_batch(workspace, arm):
    arguments = ("train", "--arm", arm, "--workspace", workspace.root, *TWENTY_STEPS)
    arguments += ("--fraction", 0.5) if arm == "partial" else ()
    run(*arguments, "--name", f"{arm}-one")
    run(*arguments, "--name", f"{arm}-two", "--gpus", 2)
    one, two = (
        pd.read_csv(next(workspace.results.glob(f"*/*__{arm}-{name}__*/fold_0/progress.csv")))
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 20
    for column in ("train_loss", "cross_entropy_auxiliary", "dice_target", "validation_loss", "pseudo_dice_target"):
        assert (one[column] - two[column]).abs().max() < 1e-4, column


def test_an_error_of_a_process_is_one_line(workspace, capfd):
    run("train", "--arm", "binary", "--workspace", workspace.root, "--device", "cpu", "--epochs", 1, "--iterations", 1)
    arguments = ["finetune", "binary", "--features", "4", "12", "--epochs", "1", "--gpus", "2", "--device", "cpu"]
    assert main([*arguments, "--workspace", str(workspace.root), "--name", "never"]) == 1
    assert "is of another architecture" in capfd.readouterr().err.splitlines()[-1]


def test_the_first_process_says_how_far_it_is(workspace, capfd):
    run(
        "train",
        "--arm",
        "binary",
        "--workspace",
        workspace.root,
        "--device",
        "cpu",
        "--epochs",
        1,
        "--iterations",
        1,
        "--gpus",
        2,
        "--name",
        "told",
    )
    assert capfd.readouterr().err.count("told, fold 0: epoch 1 of 1") == 1


def test_a_batch_that_cannot_be_shared_is_one_line(workspace, capfd):
    command = ["train", "--arm", "binary", "--workspace", str(workspace.root), "--device", "cpu", "--gpus", "3"]
    assert main(command) == 1
    assert "a batch of 2 cannot be shared by 3 processes" in capfd.readouterr().err
