"""Fine-tuning starts where the binary model stopped: same target posterior, same target map, any stock checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backsplit.cli import main
from backsplit.errors import ModelError
from backsplit.experiments.paths import Workspace
from backsplit.nnunet.start import grow, read_checkpoint
from backsplit.volume import read_labels
from studies import TINY_BUDGET, compose_phantom, prepare, run, train


class Network(nn.Module):
    """A backbone and two outputs, as with deep supervision."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Conv3d(1, 5, 3)
        self.heads = nn.ModuleList([nn.Conv3d(5, num_classes, 1) for _ in range(2)])

    def forward(self, image):
        return [head(self.backbone(image)) for head in self.heads]


@settings(max_examples=30)
@given(num_targets=st.integers(1, 3), num_auxiliaries=st.integers(0, 6), seed=st.integers(0, 1000))
def test_pooled_posterior_is_that_of_the_trained_network(num_targets, num_auxiliaries, seed):
    torch.manual_seed(seed)
    coarse, fine = Network(1 + num_targets), Network(1 + num_targets + num_auxiliaries)
    rows = (*range(num_targets + 1), *[0] * num_auxiliaries)
    fine.load_state_dict(grow(coarse.state_dict(), fine.state_dict(), origin=Path("model.pth"), rows=rows))
    image = torch.randn(2, 1, 6, 6, 6)
    for old, new in zip(coarse(image), fine(image), strict=True):
        rest = torch.cat((new[:, :1], new[:, num_targets + 1 :]), 1).logsumexp(1, keepdim=True)
        torch.testing.assert_close(torch.cat((rest, new[:, 1 : num_targets + 1]), 1), old, atol=1e-5, rtol=1e-5)


def test_targets_are_found_by_name_whatever_their_order():
    coarse, fine = Network(3), Network(4)
    grown = grow(coarse.state_dict(), fine.state_dict(), origin=Path("model.pth"), rows=(0, 2, 1, 0))
    torch.testing.assert_close(grown["heads.0.weight"], coarse.heads[0].weight[[0, 2, 1, 0]])


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_another_architecture_is_named(change):
    trained, fresh = Network(2).state_dict(), Network(4).state_dict()
    if change == "missing":
        del trained["backbone.bias"]
    elif change == "extra":
        trained["more.weight"] = torch.zeros(1)
    else:
        trained["backbone.weight"] = torch.zeros(6, 1, 3, 3, 3)
    with pytest.raises(ModelError, match="is of another architecture"):
        grow(trained, fresh, origin=Path("model.pth"), rows=(0, 1, 0, 0))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"network_weights": {}, "other": Bomb()}, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match="safe to load"):
        read_checkpoint(tmp_path / "checkpoint.pth")
    assert not (tmp_path / "ran").exists()
    assert read_checkpoint(tmp_path / "checkpoint.pth", allow_unsafe=True)["network_weights"] == {}
    assert (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Workspace:
    root = tmp_path_factory.mktemp("finetuning")
    workspace = Workspace(root / "workspace")
    prepare(compose_phantom(root, num_cases=6), workspace.root)
    train(workspace.root, "binary", "--learning-rate", 0.05)
    return workspace


def predict(workspace, model, output, *extra):
    cohort = json.loads(workspace.preparation.read_text())["cohort"]
    run("predict", model, cohort, output, "--workspace", workspace.root, "--no-mirroring", "--rule", "pooled", *extra)
    return [read_labels(path).voxels for path in sorted(output.glob("*.nii.gz"))]


def test_before_the_first_step_the_target_map_is_that_of_the_binary_model(study, tmp_path):
    still = ("--learning-rate", 1e-12, "--epochs", 1, "--iterations", 1, "--precision", "float32", "--name", "still")
    run("finetune", "binary", "--workspace", study.root, "--device", "cpu", "--optimizer", "adamw", *still)
    before = predict(study, "binary", tmp_path / "before")
    after = predict(study, "still", tmp_path / "after")
    assert any(labels.any() for labels in before), "an empty map would prove nothing"
    for one, other in zip(before, after, strict=True):
        assert np.mean(one != other) < 1e-3, "averages are half precision, so that near ties may fall the other way"


def test_finetuning_keeps_checkpoints_on_request_and_goes_on(study):
    run("finetune", "binary", "--workspace", study.root, *TINY_BUDGET, "--keep-every", 1)
    (fold,) = study.results.glob("*/*__finetuned-backsplit__*/fold_0")
    assert {path.name for path in fold.glob("checkpoint_*.pth")} == {
        "checkpoint_best.pth",
        "checkpoint_epoch_0001.pth",
        "checkpoint_epoch_0002.pth",
        "checkpoint_final.pth",
    }
    assert len(json.loads((fold / "start.json").read_text())["sha256"]) == 64
    assert (fold / "progress.csv").read_text().splitlines()[1].split(",")[1] == "0.001"


def test_a_checkpoint_of_stock_nnunet_is_a_start(study, tmp_path):
    (model,) = study.results.glob("*/*__binary__*")
    stock = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copytree(model, stock)
    plans = json.loads((stock / "plans.json").read_text())
    del plans["backsplit"]
    (stock / "plans.json").write_text(json.dumps(plans))
    run("finetune", stock, "--workspace", study.root, *TINY_BUDGET, "--name", "from-stock")
    cohort = json.loads(study.preparation.read_text())["cohort"]
    elsewhere = tmp_path / "workspace"
    run("prepare", cohort, "--workspace", elsewhere, "--folds", 2, "--processes", 1, "--like", stock)
    path = stock / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), "other": Path}, path)  # a class is no plain value
    assert main(["finetune", str(stock), "--workspace", str(elsewhere), *map(str, TINY_BUDGET)]) == 1
    run("finetune", stock, "--workspace", elsewhere, *TINY_BUDGET, "--trust")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no arm 'nowhere' is trained"),
        (("binary", "--fold", "1"), "no checkpoint"),
        (("binary", "--features", "4", "12"), "is of another architecture"),
        (("binary", "--arm", "binary"), "fine-tuning needs an arm with more classes"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(study, capfd, arguments, message):
    assert main(["finetune", *arguments, "--workspace", str(study.root), "--name", "never", *TINY_BUDGET]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("backsplit: error: ")
    assert message in error
    assert not list(study.results.glob("*/*__never__*/fold_*/checkpoint_*.pth"))
