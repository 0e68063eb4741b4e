"""Samples drawn by number: the same whoever draws them, and told what their case is annotated for."""

import json
from pathlib import Path

import pytest
import torch

from backsplit.experiments.paths import Workspace
from backsplit.nnunet.arms import Arm, ArmSettings, Budget, dataset_json_of_arm, plans_of_arm
from backsplit.nnunet.folders import Folders
from backsplit.nnunet.loader import Stream
from backsplit.nnunet.trainer import BackSplitTrainer, RunSettings
from backsplit.nnunet.training import Prepared, open_prepared
from studies import compose_phantom, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    root = tmp_path_factory.mktemp("loader")
    workspace = Workspace(root / "workspace")
    prepare(compose_phantom(root, num_cases=6), workspace.root)
    folders = Folders(workspace.raw, workspace.preprocessed, workspace.results).activate()
    return open_prepared(folders, json.loads(workspace.preparation.read_text())["dataset"])


def trainer_of(prepared, kind="backsplit", **changes) -> BackSplitTrainer:
    arm = Arm(kind, **{key: changes.pop(key) for key in ("fraction", "missing") if key in changes})
    settings = ArmSettings(arm, prepared.scheme, Budget(2, 3, 1), **changes)
    plans = plans_of_arm(prepared.plans, settings)
    trainer = BackSplitTrainer(plans, "3d_fullres", 0, dataset_json_of_arm(prepared.dataset_json, settings), CPU)
    trainer.initialize()
    return trainer


def draw(trainer, *, count, epoch=0, workers=0):
    trainer.current_epoch, trainer.run_settings = epoch, RunSettings(CPU, num_workers=workers)
    training, _ = trainer.get_dataloaders()
    return [next(training) for _ in range(count)]


def assert_same(batches, others):
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one["data"], other["data"])
        assert all(torch.equal(a, b) for a, b in zip(one["target"], other["target"], strict=True))


def test_batches_depend_on_their_number_alone(prepared):
    from_start = draw(trainer_of(prepared), count=5)
    assert_same(from_start, draw(trainer_of(prepared), count=5, workers=1))
    assert_same(from_start[3:], draw(trainer_of(prepared), count=2, epoch=1))


def test_arms_see_the_same_patches_under_their_own_labels(prepared):
    fine, binary = (draw(trainer_of(prepared, kind), count=2) for kind in ("backsplit", "binary"))
    for one, other in zip(fine, binary, strict=True):
        assert torch.equal(one["data"], other["data"])
        assert torch.equal(one["target"][0] == 1, other["target"][0] == 1)
        assert other["target"][0].max() <= 1


def test_processes_share_a_batch_without_changing_it(prepared):
    whole = draw(trainer_of(prepared), count=2)
    shares = []
    for rank in (0, 1):
        trainer = trainer_of(prepared)
        trainer.local_rank, trainer.num_ranks = rank, 2
        shares.append(draw(trainer, count=2))
    joined = [
        {
            "data": torch.cat([one["data"], other["data"]]),
            "target": [torch.cat(pair) for pair in zip(one["target"], other["target"], strict=True)],
        }
        for one, other in zip(*shares, strict=True)
    ]
    assert_same(whole, joined)


def test_forced_samples_are_those_of_nnunet():
    for batch_size in range(1, 9):
        stream = Stream(seed=0, number=0, batch_size=batch_size, oversample=0.33)
        stock = [not sample < round(batch_size * (1 - 0.33)) for sample in range(batch_size)]
        assert [stream.is_forced(sample) for sample in stream.samples] == stock


def test_forced_patches_hold_the_target(prepared):
    for batch in draw(trainer_of(prepared), count=4):
        assert (batch["target"][0][1] == 1).any()


def test_partial_cases_say_so_and_naive_ones_call_it_background(prepared):
    full, marginal, naive = (
        draw(trainer_of(prepared, kind, **changes), count=6)
        for kind, changes in (
            ("backsplit", {}),
            ("partial", {"fraction": 0.4}),
            ("partial", {"fraction": 0.4, "missing": "naive"}),
        )
    )
    told = torch.cat([batch["annotated"] for batch in marginal])
    assert told[:, :2].all()
    assert 0 < told[:, 2:].all(1).sum() < len(told)
    for complete, unknown, merged in zip(full, marginal, naive, strict=True):
        assert torch.equal(complete["target"][0], unknown["target"][0])
        assert complete["annotated"].all()
        assert merged["annotated"].all()
        for sample, kept in enumerate(unknown["annotated"]):
            labels = complete["target"][0][sample]
            expected = labels if kept.all() else torch.where(labels == 1, labels, torch.zeros_like(labels))
            assert torch.equal(merged["target"][0][sample], expected)


def test_the_drawn_cases_are_written_down(prepared):
    trainer = trainer_of(prepared, "partial", fraction=0.4, seed=3)
    trainer.get_dataloaders()
    written = json.loads((Path(trainer.output_folder) / "annotation.json").read_text())
    assert (written["fraction"], written["seed"]) == (0.4, 3)
    assert sorted(map(len, written["annotated"].values())) == [0, 3, 3][-len(written["annotated"]) :]


def test_sides_kept_apart_are_not_mirrored(prepared):
    merged, kept = trainer_of(prepared), trainer_of(prepared, sides="keep")
    assert merged.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == (0, 1, 2)
    assert kept.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == (0, 1)
    assert kept.inference_allowed_mirroring_axes == (0, 1)
