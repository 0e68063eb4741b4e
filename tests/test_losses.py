"""The split loss against nnU-Net's own loss, against a slow twin and binary training, and by its laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch._subclasses.fake_tensor import FakeTensorMode

import distributed_loss
from backsplit.errors import LabelError
from backsplit.labels import LabelScheme, coarsening_of_case
from backsplit.learning import LossParts, LossWeights, SplitLoss, marginal, voxelgroups

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


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), num_targets=st.integers(1, 3), num_auxiliaries=st.integers(1, 5))
def test_without_auxiliary_weights_it_is_binary_training_on_pooled_logits(seed, num_targets, num_auxiliaries):
    fine, labels = sample(seed, num_classes=num_targets + 1 + num_auxiliaries, shape=SHAPES[3])
    rest = torch.cat((fine[:, :1], fine[:, num_targets + 1 :]), dim=1).logsumexp(1, keepdim=True)
    pooled = torch.cat((rest, fine[:, 1 : num_targets + 1]), dim=1)
    merged = torch.where(labels > num_targets, 0, labels)
    loss = SplitLoss(num_targets=num_targets, weights=LossWeights(0.0, 1.0, 0.0), batch_dice=False)
    ours = loss(fine, labels).total(loss.weights)
    assert ours.item() == pytest.approx(nnunet_loss(batch_dice=False)(pooled, merged).item(), abs=1e-6)


@settings(max_examples=30)
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


# --- voxels that nobody annotated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("num_targets", "num_classes"), [(1, 2), (1, 5), (2, 6)])
def test_ignored_voxels_take_no_part_as_in_nnunet(num_targets, num_classes, batch_dice):
    logits, labels = sample(1, num_classes=num_classes, shape=SHAPES[3])
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.3] = num_classes
    labels[0, :, :4] = num_classes
    weights = LossWeights.preset("paper", num_targets=num_targets, num_classes=num_classes)
    loss = SplitLoss(num_targets=num_targets, weights=weights, batch_dice=batch_dice, ignore=num_classes)
    ours = loss(logits, labels).total(weights)
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    stock = DC_and_CE_loss(dice, {}, ignore_label=num_classes, dice_class=MemoryEfficientSoftDiceLoss)
    theirs = stock(logits, labels)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (ours_gradient,) = torch.autograd.grad(ours, logits)
    (theirs_gradient,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours_gradient, theirs_gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("num_ignored_samples", [1, 2])
def test_samples_that_are_ignored_whole_leave_finite_losses(num_ignored_samples):
    logits, labels = sample(1, num_classes=4, shape=SHAPES[2])
    labels[:num_ignored_samples] = 4
    loss = SplitLoss(num_targets=1, weights=LossWeights(0.3, 1, 0.3), batch_dice=False, ignore=4)
    total = loss(logits, labels).total(loss.weights)
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()
    assert not gradient[:num_ignored_samples].any()


def test_nothing_to_ignore_is_the_plain_loss():
    logits, labels = sample(1, num_classes=4, shape=SHAPES[2])
    plain, with_ignore = (
        SplitLoss(num_targets=1, weights=LossWeights(0.3, 1, 0.3), batch_dice=False, ignore=ignore)(logits, labels)
        for ignore in (None, 4)
    )
    torch.testing.assert_close(torch.stack(plain), torch.stack(with_ignore))


# --- partial annotation -------------------------------------------------------------------------------------------


def problem(*, num_targets, num_auxiliaries, seed, batch=2, shape=(4, 5)):
    """Double-precision logits, labels, and which auxiliaries each sample tells apart, at random."""
    num_classes = 1 + num_targets + num_auxiliaries
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn((batch, num_classes, *shape), generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (batch, 1, *shape), generator=generator)
    annotated = torch.rand((batch, num_classes), generator=generator) < 0.5
    annotated[:, : num_targets + 1] = True
    return logits.requires_grad_(), labels, annotated


problems = st.builds(
    problem, num_targets=st.integers(1, 3), num_auxiliaries=st.integers(0, 4), seed=st.integers(0, 10**6)
)


def split(num_targets, *, batch_dice=False, scale_weights=(1.0,)):
    return SplitLoss(
        num_targets=num_targets, weights=LossWeights(0.3, 1, 0.7), scale_weights=scale_weights, batch_dice=batch_dice
    )


def coarsenings(annotated, num_targets):
    scheme = LabelScheme(
        tuple(f"target {k}" for k in range(num_targets)),
        tuple(f"auxiliary {k}" for k in range(annotated.shape[1] - 1 - num_targets)),
    )
    names = ([name for name, known in zip(scheme.names, row, strict=True) if known] for row in annotated.tolist())
    return [coarsening_of_case(scheme, known) for known in names]


def twin(logits, labels, annotated, *, num_targets, batch_dice):
    """The parts by their definition: probabilities pooled over the blocks of each case, one-hot labels."""
    entropies, one_hots, pooled, known = [], [], [], []
    for sample, label, coarsening in zip(logits, labels, coarsenings(annotated, num_targets), strict=True):
        fine = sample.double().softmax(0).flatten(1)
        coarse_of = torch.tensor(coarsening.parent)
        coarse = torch.zeros(coarsening.num_coarse, fine.shape[1], dtype=fine.dtype).index_add(0, coarse_of, fine)
        merged = coarse_of[label.flatten()]
        own = coarse.gather(0, merged[None])[0]
        rest = coarse[0] + coarse[num_targets + 1 :].sum(0)
        is_rest = (merged == 0) | (merged > num_targets)
        entropies.append((-torch.where(is_rest, rest, own).log(), -torch.where(is_rest, own / rest, 1.0).log()))
        is_known = torch.tensor([coarsening.blocks[parent] == (k,) for k, parent in enumerate(coarsening.parent)])
        is_known[: num_targets + 1] = True
        known.append(is_known)
        pooled.append(coarse[coarse_of])
        one_hots.append(torch.nn.functional.one_hot(merged, coarsening.num_coarse).T[coarse_of])
    target, auxiliary = (torch.stack(part).mean() for part in zip(*entropies, strict=True))
    probabilities, one_hot, known = torch.stack(pooled), torch.stack(one_hots), torch.stack(known).double()
    sums = [(part * known[..., None]).sum(-1) for part in (probabilities * one_hot, probabilities, one_hot)]
    if batch_dice:
        sums, known = [part.sum(0, keepdim=True) for part in sums], known.sum(0, keepdim=True).clamp_max(1)
    overlap, predicted, reference = sums
    dice = (2 * overlap + 1e-5) / (predicted + reference + 1e-5)
    known, dice_auxiliary = known[:, num_targets + 1 :], dice[:, num_targets + 1 :]
    means = [row[is_known > 0].mean() for row, is_known in zip(dice_auxiliary, known, strict=True) if is_known.any()]
    zero = target.new_zeros(())
    return LossParts(target, auxiliary, dice[:, 1 : num_targets + 1].mean(), sum(means, zero) / len(dice))


def gradient(parts, logits):
    weights = (1.0, 0.3, -1.0, -0.7)
    (found,) = torch.autograd.grad(sum(w * p for w, p in zip(weights, parts, strict=True)), logits)
    return found


@pytest.mark.parametrize("batch_dice", [False, True])
@settings(max_examples=40)
@given(sample=problems, num_targets=st.integers(1, 3))
def test_partial_annotation_is_the_likelihood_of_what_is_annotated(batch_dice, sample, num_targets):
    logits, labels, annotated = sample
    num_targets = min(num_targets, logits.shape[1] - 1)
    annotated[:, : num_targets + 1] = True
    ours = split(num_targets, batch_dice=batch_dice)(logits, labels, annotated)
    theirs = twin(logits, labels, annotated, num_targets=num_targets, batch_dice=batch_dice)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits), atol=1e-12, rtol=1e-8)


@settings(max_examples=20)
@given(sample=problems)
def test_annotated_for_everything_is_the_plain_loss(sample):
    logits, labels, annotated = sample
    told, plain = (split(1)(logits, labels, known) for known in (torch.ones_like(annotated), None))
    assert told == plain
    assert torch.equal(gradient(told, logits), gradient(plain, logits))


@settings(max_examples=20)
@given(sample=problems)
def test_a_batch_is_the_mean_of_its_samples(sample):
    logits, labels, annotated = sample
    together = torch.stack(split(1)(logits, labels, annotated))
    alone = [torch.stack(split(1)(*(part[i : i + 1] for part in sample))) for i in range(len(logits))]
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


@settings(max_examples=20)
@given(sample=problems, num_targets=st.integers(1, 3))
def test_annotated_for_no_auxiliary_is_binary_training_on_pooled_logits(sample, num_targets):
    fine, labels, annotated = sample
    num_targets = min(num_targets, fine.shape[1] - 1)
    annotated[:] = torch.arange(fine.shape[1]) <= num_targets
    rest = torch.cat((fine[:, :1], fine[:, num_targets + 1 :]), dim=1).logsumexp(1, keepdim=True)
    pooled = torch.cat((rest, fine[:, 1 : num_targets + 1]), dim=1)
    loss = split(num_targets)
    ours, binary = loss(fine, labels, annotated), loss(pooled, torch.where(labels > num_targets, 0, labels))
    torch.testing.assert_close(torch.stack(ours), torch.stack(binary))
    torch.testing.assert_close(gradient(ours, fine), gradient(binary, fine))
    assert (ours.cross_entropy_auxiliary, ours.dice_auxiliary) == (0, 0)


@settings(max_examples=20)
@given(sample=problems)
def test_classes_of_one_block_are_told_apart_by_nothing(sample):
    logits, labels, annotated = sample
    annotated[:, 2:] = False
    found, probabilities = gradient(split(1)(logits, labels, annotated), logits), logits.softmax(1).detach()
    block = [0, *range(2, logits.shape[1])]
    of_block = found[:, block].sum(1, keepdim=True) * probabilities[:, block] / probabilities[:, block].sum(1, True)
    torch.testing.assert_close(found[:, block], of_block)


def test_a_head_that_no_sample_annotates_is_background_with_two_logits():
    logits, labels, annotated = problem(num_targets=1, num_auxiliaries=3, seed=0)
    annotated[:] = torch.tensor([True, True, True, True, False])
    labels = labels.clamp_max(3)
    pooled = torch.cat((logits[:, [0, 4]].logsumexp(1, keepdim=True), logits[:, 1:4]), dim=1)
    torch.testing.assert_close(
        torch.stack(split(1)(logits, labels, annotated)), torch.stack(split(1)(pooled, labels, None))
    )


def test_annotation_that_does_not_fit_is_named():
    logits, labels, annotated = problem(num_targets=1, num_auxiliaries=3, seed=0)
    with pytest.raises(LabelError, match=r"shape \(2, 4\); 2 samples of 5 classes need \(2, 5\)"):
        split(1)(logits, labels, annotated[:, :4])
    annotated[1, 1] = False
    with pytest.raises(LabelError, match=r"leaves out background or a target \(classes 0 to 1\)"):
        split(1)(logits, labels, annotated)


# --- the gradient by hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("num_targets", "num_auxiliaries"), [(1, 0), (3, 0), (1, 3), (2, 2)])
def test_gradient_is_that_of_finite_differences(num_targets, num_auxiliaries, batch_dice):
    logits, labels, annotated = problem(
        num_targets=num_targets, num_auxiliaries=num_auxiliaries, seed=1, batch=3, shape=(2, 3)
    )
    loss = split(num_targets, batch_dice=batch_dice)
    assert torch.autograd.gradcheck(lambda x: tuple(loss(x, labels)), logits)
    assert torch.autograd.gradcheck(lambda x: tuple(loss(x, labels, annotated)), logits)


@pytest.mark.parametrize("num_auxiliaries", [0, 3])
@pytest.mark.parametrize("certainty", [40.0, 400.0])
def test_certain_networks_have_finite_losses_and_gradients(num_auxiliaries, certainty):
    logits, labels, annotated = problem(num_targets=1, num_auxiliaries=num_auxiliaries, seed=2)
    exact = (logits.detach() * certainty).requires_grad_()
    single = exact.detach().float().requires_grad_()
    for known in (None, annotated):
        parts, expected = split(1)(single, labels, known), split(1)(exact, labels, known)
        torch.testing.assert_close(torch.stack(parts).double(), torch.stack(expected), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient(parts, single).double(), gradient(expected, exact), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("num_auxiliaries", [0, 4])
def test_volumes_that_take_several_pieces_are_summed_whole(num_auxiliaries):
    logits, labels, annotated = problem(
        num_targets=1, num_auxiliaries=num_auxiliaries, seed=3, shape=(61, 47, 53), batch=2
    )
    single = logits.detach().float().requires_grad_()
    ours = split(1)(single, labels, annotated)
    theirs = twin(logits, labels, annotated, num_targets=1, batch_dice=False)
    torch.testing.assert_close(torch.stack(ours).double(), torch.stack(theirs), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient(ours, single).double(), gradient(theirs, logits), atol=1e-10, rtol=1e-4)


@pytest.mark.parametrize("num_auxiliaries", [0, 3])
def test_order_in_memory_does_not_matter(num_auxiliaries):
    logits, labels, annotated = problem(num_targets=1, num_auxiliaries=num_auxiliaries, seed=4, shape=(3, 4, 5))
    expected = split(1)(logits, labels, annotated)
    of_expected = gradient(expected, logits)
    last = logits.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    turned = logits.detach().transpose(2, 4).contiguous().transpose(2, 4).requires_grad_()
    for other in (last, turned):
        parts = split(1)(other, labels, annotated)
        torch.testing.assert_close(torch.stack(parts), torch.stack(expected))
        torch.testing.assert_close(gradient(parts, other), of_expected)


@pytest.mark.parametrize("num_auxiliaries", [0, 3])
def test_gradient_has_the_type_of_the_logits_also_under_autocast(num_auxiliaries):
    logits, labels, _ = problem(num_targets=1, num_auxiliaries=num_auxiliaries, seed=5)
    half = logits.detach().bfloat16().requires_grad_()
    exact = half.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        parts = split(1)(half, labels)
        found = gradient(parts, half)
    assert found.dtype == torch.bfloat16
    expected = split(1)(exact, labels)
    assert parts == expected
    torch.testing.assert_close(found, gradient(expected, exact).bfloat16())


def test_deep_supervision_with_partial_annotation_weighs_the_outputs():
    _, _, annotated = problem(num_targets=1, num_auxiliaries=3, seed=6)
    pairs = [problem(num_targets=1, num_auxiliaries=3, seed=i, shape=(8 // 2**i, 4))[:2] for i in range(3)]
    logits, labels = (list(part) for part in zip(*pairs, strict=True))
    together = split(1, scale_weights=(0.7, 0.3, 0.0))(logits, labels, annotated)
    first, second = (torch.stack(split(1)(*pair, annotated)) for pair in pairs[:2])
    torch.testing.assert_close(torch.stack(together), 0.7 * first + 0.3 * second)


@pytest.mark.parametrize("label", [-1, 5])
@pytest.mark.parametrize("num_auxiliaries", [0, 3])
def test_a_label_without_a_class_is_refused(label, num_auxiliaries):
    logits, labels, _ = problem(num_targets=1, num_auxiliaries=num_auxiliaries, seed=7)
    labels[0, 0, 0, 0] = label
    with pytest.raises(IndexError, match="out of range"):
        split(1)(logits, labels)


def test_there_is_no_second_derivative():
    logits, labels, _ = problem(num_targets=1, num_auxiliaries=2, seed=8)
    (first,) = torch.autograd.grad(split(1)(logits, labels).cross_entropy_target, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()


def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(distributed_loss.one_process, (str(tmp_path),), nprocs=2)
    (first, of_first), (second, of_second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    whole, of_whole = distributed_loss.loss_and_gradient(slice(None))
    torch.testing.assert_close((first + second) / 2, whole)
    torch.testing.assert_close((of_first + of_second) / 2, of_whole)


@pytest.fixture
def fresh_tables():
    """Class tables that no other test meets."""
    yield
    for cached in (voxelgroups.sample_classes, marginal._lanes):
        cached.cache_clear()


@pytest.mark.parametrize("num_auxiliaries", [0, 3])
def test_a_gpu_is_never_waited_for(num_auxiliaries, fresh_tables):
    """Tensors without values stand for a GPU's: to read one on the host is an error."""
    logits, labels, annotated = problem(num_targets=1, num_auxiliaries=num_auxiliaries, seed=9)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits, labels = (mode.from_tensor(tensor) for tensor in (logits, labels))
        for known in (None, annotated):
            parts = split(1, batch_dice=True)(logits, labels, known)
            assert gradient(parts, logits).shape == logits.shape
