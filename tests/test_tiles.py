"""Averages over tiles are nnU-Net's own; features averaged first give the same logits."""

from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from backsplit.errors import ModelError
from backsplit.nnunet.heads import take_heads
from backsplit.nnunet.inference import tiled_network
from backsplit.nnunet.models import initialize
from backsplit.nnunet.tiles import TiledNetwork
from backsplit.theory.last_layer import name_of_last_layer
from tinymodels import plans_of, write_model

CHECKPOINT = "checkpoint_final.pth"
PATCH = (8, 16, 12)
SHAPES = ((20, 21, 30), (8, 16, 12), (5, 40, 9), (30, 16, 12))


def write_folds(folder: Path, num_classes: int, *, num_folds: int = 1, axes=None) -> Path:
    labels = {"background": 0, **{f"organ {index}": index for index in range(1, num_classes)}}
    for fold in reversed(range(num_folds)):
        write_model(folder, labels, patch_size=PATCH, seed=fold)
        path = folder / "fold_0" / CHECKPOINT
        torch.save({**torch.load(path), "inference_allowed_mirroring_axes": axes}, path)
        if fold:
            (folder / "fold_0").rename(folder / f"fold_{fold}")
    return folder


def load(model: Path, num_folds: int, step_size: float = 0.5) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        tile_step_size=step_size, device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False
    )
    initialize(predictor, model, range(num_folds), checkpoint=CHECKPOINT)
    return predictor


def volume(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def joined(network: TiledNetwork, image: torch.Tensor, **options) -> torch.Tensor:
    """All slabs, which follow each other without gaps."""
    parts, start = [], 0
    for slab in network.slabs(image, **options):
        assert slab.start == start
        start += slab.values.shape[1]
        logits = network.logits(slab.values.flatten(1))
        parts.append(torch.from_numpy(logits).reshape(-1, *slab.is_covered.shape))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("num_folds", "axes", "step"), [(1, None, 0.5), (1, (0, 2), 0.7), (3, None, 1.0)])
def test_exact_averages_are_nnunets_bit_by_bit(tmp_path, shape, num_folds, axes, step):
    model = write_folds(tmp_path, 3, num_folds=num_folds, axes=axes)
    expected = load(model, num_folds, step).predict_logits_from_preprocessed_data(volume(shape))
    network = tiled_network(load(model, num_folds, step), is_exact=True)
    torch.testing.assert_close(joined(network, volume(shape)), expected.float(), rtol=0, atol=0)


@pytest.mark.parametrize("tiles_at_once", [1, 2, 5])
@pytest.mark.parametrize("num_folds", [1, 2])
def test_features_averaged_first_give_the_same_logits(tmp_path, num_folds, tiles_at_once):
    model = write_folds(tmp_path, 20, num_folds=num_folds, axes=(1,))
    expected = load(model, num_folds).predict_logits_from_preprocessed_data(volume(SHAPES[0]))
    network = tiled_network(load(model, num_folds), tiles_at_once=tiles_at_once)
    assert network.head is not None
    assert network.num_averaged == 4 * num_folds
    inner = (slice(None), *(slice(2, -2) for _ in range(3)))  # nnU-Net's half precision is coarse at the outermost
    torch.testing.assert_close(joined(network, volume(SHAPES[0]))[inner], expected.float()[inner], rtol=0, atol=0.01)


def test_few_classes_are_averaged_as_logits(tmp_path):
    assert tiled_network(load(write_folds(tmp_path, 8), 1)).head is None
    assert tiled_network(load(write_folds(tmp_path, 9), 1)).head is not None
    assert tiled_network(load(write_folds(tmp_path, 9), 1), is_exact=True).head is None


class Ending(nn.Module):
    """A network that does something to its last layer's output."""

    def __init__(self, *, is_last: bool) -> None:
        super().__init__()
        self.trunk, self.head, self.is_last = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 9, 1, bias=False), is_last

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.trunk(image))
        return logits if self.is_last else logits.relu()


def test_only_what_ends_a_network_is_cut_off():
    image = torch.randn(1, 1, 4, 4, 4)
    assert take_heads([Ending(is_last=False)], image, 9) is None
    network = Ending(is_last=True)
    expected = network(image)[0]
    head = take_heads([network], image, 9)
    features = network(image)[0].flatten(1)
    torch.testing.assert_close((head.weight @ features + head.bias[:, None]).reshape(expected.shape), expected)


def test_slices_of_a_2d_network_are_nnunets(tmp_path):
    model = write_folds(tmp_path, 3)
    predictors = [as_2d(load(model, 1)) for _ in range(2)]
    image = volume((3, 20, 13))
    expected = predictors[0].predict_logits_from_preprocessed_data(image)
    network = tiled_network(predictors[1], is_exact=True)
    assert network.patch == (1, 8, 8)
    torch.testing.assert_close(joined(network, image), expected.float(), rtol=0, atol=0)


def as_2d(predictor: nnUNetPredictor) -> nnUNetPredictor:
    """Another network into a predictor: one that sees slices."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 3, 1))
    manager = PlansManager(plans_of(spacing=(1.0, 1.0)))
    configuration, weights = manager.get_configuration("3d_fullres"), [network.state_dict()]
    predictor.manual_initialization(network, manager, configuration, weights, predictor.dataset_json, "", (0,))
    return predictor


def test_tiles_outside_the_body_are_left_out(tmp_path):
    network = tiled_network(load(write_folds(tmp_path, 3), 1, step_size=1.0), is_exact=True)
    image = volume((24, 16, 24))
    wanted = (slice(9, 12), slice(0, 16), slice(0, 3))
    slabs = list(network.slabs(image, wanted=wanted))
    is_covered = torch.cat([slab.is_covered for slab in slabs])
    expected = torch.zeros_like(is_covered)
    expected[8:16, :, :12] = True
    torch.testing.assert_close(is_covered, expected)
    all_tiles = joined(network, image)
    torch.testing.assert_close(joined(network, image, wanted=wanted)[:, expected], all_tiles[:, expected])


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path):
    network = tiled_network(load(write_folds(tmp_path, 3), 1), is_exact=True)
    with torch.no_grad():
        for parameter in network.folds[0].parameters():
            parameter.mul_(1e6)
    with pytest.raises(ModelError, match="not finite, or too large for half precision"):
        list(network.slabs(volume(SHAPES[0])))


def test_looking_for_the_last_layer_leaves_the_network_as_it_was_and_runs_none_of_it():
    image, network = torch.randn(1, 1, 4, 4, 4), Ending(is_last=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.trunk.register_forward_hook(lambda *arguments: seen.append(arguments[2].device.type))
    seen: list[str] = []
    assert name_of_last_layer(network, image, lambda layer: layer.bias is None) == "head"
    assert seen == ["meta"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
