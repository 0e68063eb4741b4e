"""The split loss against nnU-Net's own loss, against binary training, and by its laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from backsplit.learning import LossWeights, SplitLoss

SHAPES = {2: (24, 20), 3: (12, 10, 8)}


def sample(seed, *, num_classes, shape, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, num_classes, *shape), generator=generator) * scale
    return logits.requires_grad_(), torch.randint(num_classes, (2, 1, *shape), generator=generator).short()


def nnunet_loss(*, batch_dice):
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)


def paper_loss(*, num_targets, num_classes, batch_dice, scale_weights=(1.0,)):
    weights = LossWeights.preset("paper", num_targets=num_targets, num_classes=num_classes)
    return SplitLoss(num_targets=num_targets, weights=weights, scale_weights=scale_weights, batch_dice=batch_dice)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("num_targets", "num_classes"), [(1, 2), (1, 7), (3, 8)])
def test_paper_preset_is_the_loss_of_nnunet(dimensions, num_targets, num_classes, batch_dice):
    logits, labels = sample(0, num_classes=num_classes, shape=SHAPES[dimensions])
    loss = paper_loss(num_targets=num_targets, num_classes=num_classes, batch_dice=batch_dice)
    ours = loss(logits, labels).total(loss.weights)
    theirs = nnunet_loss(batch_dice=batch_dice)(logits, labels)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (ours_gradient,) = torch.autograd.grad(ours, logits)
    (theirs_gradient,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours_gradient, theirs_gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_supervision_weighs_scales_as_nnunet_does(dimensions):
    shape, scale_weights = SHAPES[dimensions], (4 / 7, 2 / 7, 1 / 7, 0.0)
    pairs = [sample(i, num_classes=5, shape=[n // 2**i + 1 for n in shape]) for i in range(4)]
    logits, labels = [list(part) for part in zip(*pairs, strict=True)]
    loss = paper_loss(num_targets=1, num_classes=5, batch_dice=False, scale_weights=scale_weights)
    theirs = DeepSupervisionWrapper(nnunet_loss(batch_dice=False), scale_weights)(logits, labels)
    assert loss(logits, labels).total(loss.weights).item() == pytest.approx(theirs.item(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num_targets=st.integers(1, 3), num_auxiliaries=st.integers(1, 5))
def test_without_auxiliary_weights_it_is_binary_training_on_pooled_logits(seed, num_targets, num_auxiliaries):
    fine, labels = sample(seed, num_classes=num_targets + 1 + num_auxiliaries, shape=SHAPES[3])
    rest = torch.cat((fine[:, :1], fine[:, num_targets + 1 :]), dim=1).logsumexp(1, keepdim=True)
    pooled = torch.cat((rest, fine[:, 1 : num_targets + 1]), dim=1)
    merged = torch.where(labels > num_targets, 0, labels)
    loss = SplitLoss(num_targets=num_targets, weights=LossWeights(0.0, 1.0, 0.0), batch_dice=False)
    ours = loss(fine, labels).total(loss.weights)
    assert ours.item() == pytest.approx(nnunet_loss(batch_dice=False)(pooled, merged).item(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num_targets=st.integers(1, 3), num_auxiliaries=st.integers(0, 5))
def test_chain_rule_adds_up_to_the_fine_cross_entropy(seed, num_targets, num_auxiliaries):
    logits, labels = sample(seed, num_classes=num_targets + 1 + num_auxiliaries, shape=SHAPES[2])
    parts = SplitLoss(num_targets=num_targets, weights=LossWeights(1, 1, 1), batch_dice=False)(logits, labels)
    fine = torch.nn.functional.cross_entropy(logits, labels[:, 0].long())
    assert (parts.cross_entropy_target + parts.cross_entropy_auxiliary).item() == pytest.approx(fine.item(), abs=1e-6)
    assert parts.cross_entropy_auxiliary.item() >= -1e-7
    assert all(0 <= part.item() <= 1 for part in parts[2:])


def test_a_confident_correct_answer_costs_nothing_but_the_dice_reward():
    labels = torch.tensor([[[[0, 1], [2, 3]]]])
    logits = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1) * 100.0
    loss = SplitLoss(num_targets=1, weights=LossWeights(1, 1, 1), batch_dice=False)
    assert [part.item() for part in loss(logits, labels)] == pytest.approx([0, 0, 1, 1], abs=1e-5)


def test_half_precision_logits_are_scored_in_single_precision():
    logits, labels = sample(3, num_classes=4, shape=SHAPES[3])
    loss = SplitLoss(num_targets=1, weights=LossWeights(0.3, 1, 0.3), batch_dice=False)
    half = logits.detach().bfloat16()
    assert loss(half, labels).cross_entropy_target.dtype == torch.float32
    assert loss(half, labels) == loss(half.float(), labels)
