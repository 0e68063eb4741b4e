"""Killed at any moment, the same command again ends in the same files."""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import blosc2
import pytest
import torch

from backsplit.experiments.paths import Workspace
from studies import TINY_BUDGET, TINY_NETWORK, compose_phantom, finish, prepare, run, start, train


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_phantom(tmp_path_factory.mktemp("resume"), num_cases=6)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("undisturbed"))
    prepare(cohort, workspace.root)
    train(workspace.root, "backsplit")
    return workspace


def kill_when(process, folder: Path, pattern: str, *, number: int) -> None:
    """Kill -9 once `number` files of a pattern exist, at a random moment after."""
    for _ in range(1200):
        if len(list(folder.rglob(pattern))) >= number:
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.communicate()


def contents(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    return {str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest() for path in files}


def content(path: Path) -> bytes:
    """Bytes of a file; of a compressed array, its voxels, because blosc2 lays chunks down in any order."""
    return blosc2.open(str(path))[:].tobytes() if path.suffix == ".b2nd" else path.read_bytes()


def weights(workspace: Workspace) -> dict[str, torch.Tensor]:
    (checkpoint,) = workspace.results.rglob("checkpoint_final.pth")
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"]


PREPARED = ("*.b2nd", "*.pkl", "splits_final.json", "nnUNetPlans.json", "prepared.json")


def test_prepare_killed_at_any_moment_ends_in_the_same_files(cohort, undisturbed, tmp_path):
    command = ("prepare", cohort, "--workspace", tmp_path, *TINY_NETWORK, "--folds", 2, "--processes", 1)
    kill_when(start(*command), tmp_path, "*.pkl", number=random.randint(0, 3))
    status, output = finish(*command)
    assert status == 0, output
    assert contents(tmp_path / "preprocessed", *PREPARED) == contents(undisturbed.preprocessed, *PREPARED)


def test_prepare_goes_on_case_by_case(cohort, undisturbed, tmp_path):
    shutil.copytree(undisturbed.root, tmp_path, dirs_exist_ok=True)
    (marker,) = tmp_path.rglob("prepared.json")
    done = sorted(tmp_path.rglob("*.pkl"))
    for path in (marker, *done[:2]):  # what a kill during the third case leaves, in effect
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in done[2:]}
    prepare(cohort, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished cases must not be done again"
    assert contents(tmp_path / "preprocessed", *PREPARED) == contents(undisturbed.preprocessed, *PREPARED)


def test_a_second_prepare_does_nothing(undisturbed, cohort):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.preprocessed.rglob("*") if path.suffix != ".json"}
    prepare(cohort, undisturbed.root)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_train_goes_on_after_the_last_whole_epoch(cohort, undisturbed, tmp_path):
    prepare(cohort, tmp_path)
    command = ("train", "--arm", "backsplit", "--workspace", tmp_path, *TINY_BUDGET)
    kill_when(start(*command), tmp_path, "checkpoint_latest.pth", number=1)
    workspace = Workspace(tmp_path)
    assert not list(workspace.results.rglob("checkpoint_final.pth")), "the kill came too late to prove anything"
    status, output = finish(*command)
    assert status == 0, output
    assert "resumes after epoch 1" in output
    ours, theirs = weights(workspace), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    (log,) = workspace.results.rglob("progress.csv")
    assert len(log.read_text().splitlines()) == 3


def catches_sigusr1(process: int) -> bool:
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def ask_one_to_stop(training, *, number: int) -> None:
    """Once as many processes of a training catch the signal, send it to the last of them, and to the first of all."""
    for _ in range(1200):
        children = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
        listening = [process for process in (training.pid, *map(int, children)) if catches_sigusr1(process)]
        if len(listening) == number:
            os.kill(training.pid, signal.SIGUSR1)
            os.kill(listening[-1], signal.SIGUSR1)
            return
        assert training.poll() is None, training.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(listening)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_train_stops_after_the_epoch_when_its_time_is_up_and_goes_on(undisturbed, tmp_path, num_processes):
    shutil.copytree(undisturbed.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results"))
    command = ("train", "--arm", "backsplit", "--workspace", tmp_path, *TINY_BUDGET, "--gpus", num_processes)
    training = start(*command)
    ask_one_to_stop(training, number=num_processes)
    output, _ = training.communicate(timeout=200)
    assert training.returncode == 1, output
    assert "backsplit, fold 0: stopped after epoch 1 of 2, as SIGUSR1 asked" in output.splitlines()[-1]
    if num_processes == 1:
        status, output = finish(*command)
        assert status == 0, output
        assert "resumes after epoch 1" in output
        ours, theirs = weights(Workspace(tmp_path)), weights(undisturbed)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_predict_goes_on_and_writes_the_same_bytes(undisturbed, tmp_path):
    output = tmp_path / "masks"
    cohort = json_cohort(undisturbed)
    command = ("predict", "backsplit", cohort, output, "--workspace", undisturbed.root, "--no-mirroring")
    kill_when(start(*command), output, "[!.]*.nii.gz", number=1)
    first = {path: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    assert finish(*command)[0] == 0
    assert all(path.stat().st_mtime_ns == modified for path, modified in first.items())
    run("predict", "backsplit", cohort, tmp_path / "undisturbed", "--workspace", undisturbed.root, "--no-mirroring")
    assert len(list(output.glob("*.nii.gz"))) == 6
    assert contents(output, "[!.]*.nii.gz") == contents(tmp_path / "undisturbed", "*.nii.gz")


def json_cohort(workspace: Workspace) -> Path:

    return Path(json.loads(workspace.preparation.read_text())["cohort"])


def test_a_finished_training_is_left_alone_and_other_settings_are_refused(undisturbed):
    (checkpoint,) = undisturbed.results.rglob("checkpoint_final.pth")
    modified = checkpoint.stat().st_mtime_ns
    train(undisturbed.root, "backsplit")
    assert checkpoint.stat().st_mtime_ns == modified
    status, output = finish("train", "--arm", "backsplit", "--workspace", undisturbed.root, *TINY_BUDGET, "--seed", 1)
    assert status == 1
    assert "backsplit.seed 0 then, 1 now" in output.splitlines()[-1]
