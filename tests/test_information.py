"""Information about a network's weights: closed form and estimates against enumeration and autograd, order, errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.func import functional_call

from backsplit.errors import ConfigurationError, LabelError, ModelError
from backsplit.labels import Coarsening, identity, to_target
from backsplit.learning.networks import segresnet
from backsplit.theory import information as information_of_logits
from backsplit.theory.estimators import directional_information, target_direction, traces
from backsplit.theory.last_layer import (
    Voxels,
    blocks_of,
    find_last_layer,
    information,
    look,
    of_logits,
    target_gradients,
    within_block,
)
from backsplit.theory.variance import check_classes, ridge_of, target_variance
from test_labels import chains, coarsenings, seeds
from tinymodels import build_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # by torch.func itself
]
NUM_FEATURES, NUM_VOXELS = 3, 40


def drawn(num_classes, seed, num_voxels=NUM_VOXELS):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(num_classes, generator.choice([0.3, 1.0, 5.0])), num_voxels).T
    return Voxels(torch.tensor(generator.normal(size=(NUM_FEATURES, num_voxels))), torch.tensor(p))


def informed(voxels, coarsening, finest=None):
    blocks = blocks_of([coarsening, finest or coarsening])
    return information({block: within_block(voxels, block) for block in blocks}, coarsening)


def enumerated(voxels, coarsening):
    """Slow twin: a Kronecker product per voxel."""
    total = 0
    with_one = np.vstack([voxels.features.numpy(), np.ones(voxels.features.shape[1])])
    for p, h in zip(voxels.probabilities.numpy().T, with_one.T, strict=True):
        total = total + np.kron(information_of_logits(p[:, None], coarsening), np.outer(h, h))
    return total


@settings(max_examples=40)
@given(coarsenings(), seeds)
def test_closed_form_is_the_sum_of_kronecker_products(coarsening, seed):
    voxels = drawn(coarsening.num_fine, seed)
    found = informed(voxels, coarsening)
    np.testing.assert_allclose(found, enumerated(voxels, coarsening), atol=1e-10)
    logits = information_of_logits(voxels.probabilities.numpy(), coarsening) * NUM_VOXELS
    np.testing.assert_allclose(of_logits(found, coarsening.num_fine), logits, atol=1e-10)


def test_a_weight_is_a_number_of_voxels():
    voxels, coarsening = drawn(4, 0, 3), Coarsening((0, 1, 0, 0))
    weights = torch.tensor([2.0, 0.0, 3.0], dtype=torch.float64)
    repeated = voxels.where(torch.tensor([0, 0, 2, 2, 2]))
    weighted = Voxels(voxels.features, voxels.probabilities, weights)
    np.testing.assert_allclose(informed(weighted, coarsening), informed(repeated, coarsening), atol=1e-12)
    np.testing.assert_allclose(target_gradients(weighted, 1), target_gradients(repeated, 1), atol=1e-12)


@settings(max_examples=40)
@given(chains(), seeds)
def test_finer_labels_never_raise_the_variance(chain, seed):
    inner, middle, outer = chain
    num_fine = inner.num_fine
    voxels = drawn(num_fine, seed)
    steps = [identity(num_fine), inner, middle @ inner, outer @ middle @ inner]
    known = [informed(voxels, each, identity(num_fine)) for each in steps]
    ridge = ridge_of(known[0]) + 1e-9  # of one class only, nothing is informed about
    gradients = target_gradients(voxels, 0)
    variances = [target_variance(each, gradients, ridge=ridge) for each in known]
    for finer, coarser in pairwise(known):
        assert np.linalg.eigvalsh(finer - coarser).min() > -1e-10
    for low, high in pairwise(variances):
        assert low <= high * (1 + 1e-9)


@settings(max_examples=20)
@given(coarsenings(), seeds)
def test_a_shift_of_all_logits_is_not_informed_about(coarsening, seed):
    found = informed(drawn(coarsening.num_fine, seed), coarsening)
    shift = np.kron(np.ones(coarsening.num_fine), np.random.default_rng(seed).normal(size=NUM_FEATURES + 1))
    np.testing.assert_allclose(found @ shift, 0, atol=1e-10)


@settings(max_examples=20)
@given(seeds)
def test_two_classes_lose_nothing(seed):
    voxels = drawn(2, seed)
    fine, binary = (informed(voxels, each) for each in (identity(2), to_target(num_targets=1, num_fine=2)))
    np.testing.assert_array_equal(fine, binary)


class Tiny(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv3d(2, NUM_FEATURES, 2)
        self.outputs = nn.Conv3d(NUM_FEATURES, num_classes, 1)
        self.double()

    def forward(self, x):
        return self.outputs(torch.tanh(self.features(x)))


@pytest.fixture(scope="module")
def patches():
    return [torch.tensor(np.random.default_rng(seed).normal(size=(2, 2, 3, 3, 2))) for seed in (0, 1)]


COARSENINGS = (identity(4), Coarsening((0, 1, 0, 2)), to_target(num_targets=1, num_fine=4))


def differentiated(network, patches, coarsening):
    """Autograd twin: score of every coarse label of every voxel about all parameters; mean of its square."""
    total, num_voxels = 0, 0
    for patch in patches:
        p = network(patch).softmax(dim=1).transpose(0, 1).reshape(4, -1)
        for voxel in p.T:
            for block in coarsening.blocks:
                mass = voxel[list(block)].sum()
                score = torch.autograd.grad(mass.log(), [*network.parameters()], retain_graph=True)
                score = torch.cat([part.flatten() for part in score])
                total = total + mass.detach() * torch.outer(score, score)
        num_voxels += p.shape[1]
    return (total / num_voxels).numpy()


@pytest.mark.parametrize("coarsening", COARSENINGS)
def test_last_layer_of_a_network_against_autograd(patches, coarsening):
    network = Tiny()
    layer = find_last_layer(network, patches[0])
    assert layer is network.outputs
    seen = [look(network, layer, patch) for patch in patches]
    voxels = Voxels(*(torch.cat([getattr(each, part) for each in seen], 1) for part in ("features", "probabilities")))
    truth = differentiated(network, patches, coarsening)
    first = sum(value.numel() for value in network.features.parameters())
    weights = np.arange(4 * NUM_FEATURES).reshape(4, NUM_FEATURES)
    order = first + np.c_[weights, 4 * NUM_FEATURES + np.arange(4)].ravel()
    np.testing.assert_allclose(
        informed(voxels, coarsening) / voxels.features.shape[1], truth[np.ix_(order, order)], atol=1e-6
    )


def test_all_parameters_against_autograd(patches):
    network = Tiny()
    truths = [differentiated(network, patches, each) for each in COARSENINGS]
    direction = {
        name: torch.tensor(np.random.default_rng(len(name)).normal(size=value.shape))
        for name, value in network.named_parameters()
    }
    u = torch.cat([direction[name].flatten() for name, _ in network.named_parameters()]).numpy()
    exact = directional_information(network, patches, direction, COARSENINGS)
    np.testing.assert_allclose(exact, [u @ truth @ u for truth in truths], rtol=1e-8)
    found = traces(network, patches, COARSENINGS, num_probes=60, seed=0)
    for estimate, truth in zip(found, truths, strict=True):
        assert 0 < estimate.standard_error < 0.2 * np.trace(truth)
        assert abs(estimate.value - np.trace(truth)) < 4 * estimate.standard_error
    assert found[0].value > found[1].value > found[2].value


def test_target_direction_is_the_gradient_of_the_mean_posterior(patches):
    network, where = Tiny(), torch.zeros(2, 2, 2, 1, dtype=torch.float64)
    where[0, 1] = 1
    posterior = network(patches[0]).softmax(dim=1)[:, 1][where > 0].mean()
    expected = torch.autograd.grad(posterior, [*network.parameters()])
    found = target_direction(network, patches[0], 1, where)
    for (name, _), gradient in zip(network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[name], gradient)


def test_networks_of_nnunet_and_monai():
    """A derivative along a direction agrees with differences of the logits; in-place layers do not disturb it."""
    torch.manual_seed(0)
    patch = torch.randn(1, 1, 8, 8, 8).double()
    unet = build_tiny(num_inputs=1, num_classes=3)
    residual = segresnet(1, 3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    for network in (unet.eval().double(), residual.eval().double()):
        layer = find_last_layer(network, patch)
        assert look(network, layer, patch).probabilities.shape == (3, 512)
        direction = {name: torch.randn_like(value) for name, value in network.named_parameters()}
        before = network(patch)
        (found,) = directional_information(network, [patch], direction, [identity(3)])
        assert torch.equal(network(patch), before)
        outputs = []
        for step in (1e-7, -1e-7):
            moved = {name: value.detach() + step * direction[name] for name, value in network.named_parameters()}
            outputs.append(functional_call(network, moved, (patch,), tie_weights=False).detach().reshape(3, -1))
        p, change = network(patch).detach().softmax(1).reshape(3, -1), (outputs[0] - outputs[1]) / 2e-7
        variance = (p * change**2).sum(0) - (p * change).sum(0) ** 2
        assert found == pytest.approx(float(variance.mean()), rel=1e-4)


def test_what_cannot_be_computed_is_said():
    patch = torch.zeros(1, 1, 4, 4, 4)
    with pytest.raises(ModelError, match="does not end in a 1x1 convolution"):
        find_last_layer(nn.Conv3d(1, 2, 3), patch)
    with pytest.raises(ModelError, match="does not end in a 1x1 convolution"):
        find_last_layer(nn.Conv3d(2, 2, 1, groups=2), torch.zeros(1, 2, 4, 4, 4))
    broken = nn.Conv3d(1, 2, 1)
    nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        look(broken, broken, patch)
    with pytest.raises(LabelError, match="outside the classes 0 to 3"):
        within_block(drawn(4, 0), (0, 4))
    with pytest.raises(ConfigurationError, match="2 random directions or more, got 1"):
        traces(Tiny(), [], COARSENINGS, num_probes=1, seed=0)
    with pytest.raises(ConfigurationError, match="above 0; got 0"):
        ridge_of(np.eye(2), share=0)
    with pytest.raises(LabelError, match="singular with a ridge of 1e-30"):
        target_variance(-np.eye(2), np.eye(2), ridge=1e-30)
    never = drawn(3, 0)
    never.probabilities[2] = 0
    with pytest.raises(LabelError, match="gives liver no probability"):
        check_classes(informed(never, identity(3)), ("background", "cyst", "liver"))
