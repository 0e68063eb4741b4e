"""Every network, from the command line: two epochs, killed in between, resumed, used for prediction."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backsplit import cases
from backsplit.cli import main
from backsplit.experiments.paths import Workspace
from backsplit.volume import read_labels
from studies import compose_phantom, finish, prepare, run, start

SIZES = {
    "unet": (),
    "unet-2d": ("--patch-size", 32, 32, "--features", 4, 8, "--batch-size", 2),
    "resenc-m": ("--features", 4, 8),
    "segresnet": ("--patch-size", 32, 16, 16, "--features", 8),
    "swin-unetr": ("--patch-size", 32, 32, 64, "--features", 12, "--batch-size", 1),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    root = tmp_path_factory.mktemp("networks")
    workspace = Workspace(root / "workspace")
    prepare(compose_phantom(root, num_cases=4), workspace.root)
    compose_phantom(root / "one", num_cases=1)
    return workspace


@pytest.mark.parametrize("network", SIZES)
def test_network_trains_resumes_and_predicts(workspace, network, tmp_path):
    command = ("train", "--arm", "backsplit", "--network", network, "--workspace", workspace.root, *SIZES[network])
    command += ("--epochs", 2, "--iterations", 1, "--device", "cpu")
    process = start(*command)
    while process.poll() is None and not list(workspace.results.glob(f"*/*{network}*/fold_0/checkpoint_latest.pth")):
        if network == "unet" and list(workspace.results.glob("*/*__backsplit__*/fold_0/checkpoint_latest.pth")):
            break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    status, output = finish(*command)
    assert status == 0, output
    name = "backsplit" if network == "unet" else f"backsplit-{network}"
    (fold,) = workspace.results.glob(f"*/*__{name}__*/fold_0")
    log = pd.read_csv(fold / "progress.csv")
    assert list(log["epoch"]) == [0, 1]
    assert np.isfinite(log["train_loss"]).all()
    cohort = workspace.root.parent / "one" / "composed"
    run("predict", name, cohort, tmp_path / "masks", "--workspace", workspace.root, "--no-mirroring")
    for case in cases.read(cohort).cases:
        mask = read_labels(tmp_path / "masks" / f"{case.name}.nii.gz")
        assert mask.grid.difference(read_labels(case.labels).grid) is None
        assert mask.voxels.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arm", "magic"), "unknown arm 'magic'; choose one of binary, backsplit, subset, virtual, partial"),
        (("--arm", "binary", "--network", "vnet"), "unknown network 'vnet'; choose one of unet, unet-2d, resenc-m"),
        (("--arm", "subset", "--auxiliaries", "heart"), "names heart, which the cohort does not have"),
        (("--arm", "binary", "--patch-size", "17", "16", "16"), "does not fit the network's strides"),
        (
            ("--arm", "binary", "--network", "segresnet", "--patch-size", "20", "16", "16"),
            "segresnet: a patch of 20x16x16",
        ),
        (("--arm", "binary", "--network", "segresnet", "--deep-supervision", "on"), "segresnet has one output"),
        (("--arm", "binary", "--patch-size", "16", "16"), "has 2 edges"),
        (("--arm", "binary", "--fold", "9"), "fold 9 does not exist"),
    ],
)
def test_what_cannot_be_trained_is_one_line(workspace, capfd, arguments, message):
    assert main(["train", *arguments, "--workspace", str(workspace.root), "--name", "never", "--epochs", "1"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("backsplit: error: ")
    assert message in error
    assert not list(Path(workspace.results).glob("*/*__never__*/fold_*/*.pth"))
