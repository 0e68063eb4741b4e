"""Networks by name: what each is built from, takes and is optimised with; nnU-Net and MONAI are the reference."""

import contextlib
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from backsplit.cli import main
from backsplit.errors import ConfigurationError
from backsplit.learning.networks import FROM_MONAI, NETWORKS, has_deep_supervision
from backsplit.learning.optimisation import Optimisation, learning_rate_at, optimisation_of, optimizer_of, scheduler_of
from backsplit.nnunet.networks import CONFIGURATION_OF, NetworkSettings, configuration_of
from backsplit.nnunet.parameters import KITS23, build, count_parameters
from backsplit.nnunet.precision import is_safe_in_bfloat16_on_cpu

VOLUMES, SLICES = KITS23["configurations"].values()
PREPROCESSED = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
}
PLANS = {
    "dataset_name": "Dataset001_test",
    "label_manager": "LabelManager",
    "configurations": {"3d_fullres": VOLUMES | PREPROCESSED, "2d": SLICES | PREPROCESSED},
}
TINY = {
    "unet": NetworkSettings(patch_size=(8, 16, 16), features=(4, 8)),
    "unet-2d": NetworkSettings(patch_size=(16, 16), features=(4, 8)),
    "resenc-m": NetworkSettings(patch_size=(8, 16, 16), features=(4, 8)),
    "segresnet": NetworkSettings(patch_size=(8, 16, 16), features=(8,)),
    "swin-unetr": NetworkSettings(patch_size=(32, 32, 64), features=(12,)),
}
NUM_CLASSES = 5


def tiny(network):
    return configuration_of(network, PLANS, TINY[network])


# --- configurations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_all_networks_train_on_the_same_files_and_no_argument_changes(network):
    before = deepcopy(PLANS)
    name, configuration = tiny(network)
    assert name == CONFIGURATION_OF[network]
    assert before == PLANS
    assert configuration == json.loads(json.dumps(configuration)), "JSON types only"
    assert {key: configuration[key] for key in PREPROCESSED} == PREPROCESSED
    assert configuration["spacing"] == VOLUMES["spacing"]
    assert configuration["batch_dice"] == (network == "unet-2d")


@pytest.mark.parametrize("network", ["unet", "resenc-m", "segresnet", "swin-unetr"])
def test_networks_are_compared_at_equal_input(network):
    _, configuration = configuration_of(network, PLANS, NetworkSettings())
    assert (configuration["patch_size"], configuration["batch_size"]) == ([128, 128, 128], 2)
    _, configuration = configuration_of(network, PLANS, NetworkSettings(batch_size=7))
    assert configuration["batch_size"] == 7


def test_without_changes_the_unets_are_as_nnunet_planned_them():
    assert configuration_of("unet", PLANS, NetworkSettings())[1] == PLANS["configurations"]["3d_fullres"]
    assert configuration_of("unet-2d", PLANS, NetworkSettings())[1] == PLANS["configurations"]["2d"]


def test_a_slice_is_halved_by_its_own_spacing():
    _, configuration = configuration_of("unet-2d", PLANS, NetworkSettings(patch_size=(128, 32)))
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1], [2, 2], [2, 2], [2, 2], [2, 1]]
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 512]


def test_residual_encoder_has_the_blocks_of_nnunets_planner():
    _, configuration = configuration_of("resenc-m", PLANS, NetworkSettings())
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 3, 4, 6, 6, 6]
    assert kwargs["n_conv_per_stage_decoder"] == [1] * 5
    assert "n_conv_per_stage" not in kwargs


@given(
    patch_size=st.none() | st.lists(st.integers(1, 99), max_size=3).map(tuple),
    batch_size=st.none() | st.integers(1, 9),
    features=st.none() | st.lists(st.integers(1, 99), max_size=3).map(tuple),
    deep_supervision=st.none() | st.booleans(),
)
def test_settings_survive_json(patch_size, batch_size, features, deep_supervision):
    chosen = NetworkSettings(patch_size, batch_size, features, deep_supervision)
    assert NetworkSettings.from_json(json.loads(json.dumps(asdict(chosen)))) == chosen


# --- patches ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(network=st.sampled_from(NETWORKS), data=st.data())
def test_the_patch_that_a_message_names_fits(network, data):
    dimensions = 2 if network == "unet-2d" else 3
    patch_size = data.draw(st.tuples(*[st.integers(1, 200)] * dimensions))
    with contextlib.suppress(ConfigurationError):
        _, configuration = configuration_of(network, PLANS, NetworkSettings(patch_size=patch_size))
        assert configuration["patch_size"] == list(patch_size)
        return
    with pytest.raises(ConfigurationError, match=r"use [\dx]+$") as refusal:
        configuration_of(network, PLANS, NetworkSettings(patch_size=patch_size))
    named = tuple(map(int, str(refusal.value).rpartition(" ")[2].split("x")))
    assert named != patch_size
    _, configuration = configuration_of(network, PLANS, NetworkSettings(patch_size=named))
    assert configuration["patch_size"] == list(named)


@pytest.mark.parametrize(
    ("network", "chosen", "told"),
    [
        ("unet", {"patch_size": (17, 33, 33)}, "unet: a patch of 17x33x33 does not fit .* use 20x40x40"),
        ("unet", {"patch_size": (4, 4, 4)}, "unet: a patch of 4x4x4 does not fit .* use 8x8x8"),
        ("resenc-m", {"patch_size": (17, 33, 33)}, "resenc-m: a patch of 17x33x33"),
        ("unet-2d", {"patch_size": (33, 33)}, "unet-2d: a patch of 33x33 does not fit .* use 40x40"),
        ("unet-2d", {"patch_size": (8, 64, 64)}, "unet-2d: a patch of 8x64x64 has 3 edges, the network takes 2"),
        ("segresnet", {"patch_size": (20, 33, 40)}, r"segresnet: .* \(edges are multiples of 8.* use 24x32x40"),
        ("segresnet", {"patch_size": (8, 8, 8)}, "use 16x8x8"),
        ("swin-unetr", {"patch_size": (40, 192, 160)}, "swin-unetr: .* multiples of 32.* use 32x192x160"),
        ("swin-unetr", {"patch_size": (20, 32, 40)}, "use 32x32x64"),
        ("swin-unetr", {"features": (16,)}, "swin-unetr: takes one number of features, a multiple of 12; got 16"),
        ("segresnet", {"features": (8, 16)}, "segresnet: takes one number of features, a multiple of 8; got 8 16"),
        ("unet", {"features": (8,)}, "unet: got one stage of features; a U-Net needs 2 to 6"),
        ("segresnet", {"deep_supervision": True}, "segresnet has one output and cannot be trained with deep"),
        ("vnet", {}, "unknown network 'vnet'; choose one of unet, unet-2d, resenc-m, segresnet, swin-unetr"),
        ("unet", {"batch_size": 0}, "must be 1 or more, got 0"),
    ],
)
def test_what_a_network_cannot_take_is_refused_by_name(network, chosen, told):
    with pytest.raises(ConfigurationError, match=told):
        configuration_of(network, PLANS, NetworkSettings(**chosen))


def test_no_optimisation_for_an_unknown_network():
    with pytest.raises(ConfigurationError, match="unknown network 'vnet'; choose one of unet"):
        optimisation_of("vnet")


def test_plans_of_an_earlier_version_have_no_slices():
    plans = PLANS | {"configurations": {"3d_fullres": VOLUMES}}
    with pytest.raises(ConfigurationError, match=r"unet-2d: .* without 2D plans; run `backsplit prepare`"):
        configuration_of("unet-2d", plans, NetworkSettings())


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_built_by_nnunet_and_trained(network):
    name, configuration = tiny(network)
    manager = PlansManager(PLANS | {"configurations": {name: configuration}})
    deep = has_deep_supervision(network)
    torch.manual_seed(0)
    built = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration(name), 2, NUM_CLASSES, deep)
    output = built(torch.randn(2, 2, *configuration["patch_size"]))
    outputs = output if deep else [output]
    assert outputs[0].shape == (2, NUM_CLASSES, *configuration["patch_size"])
    sum(each.square().mean() for each in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters() if p.requires_grad)


@pytest.mark.parametrize("network", NETWORKS)
def test_nnunets_predictor_runs_every_network_on_a_volume(network):
    name, configuration = tiny(network)
    manager = PlansManager(PLANS | {"configurations": {name: configuration}})
    description = {"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "CT"}}
    torch.manual_seed(0)
    built = build(configuration, num_channels=1, num_classes=2).eval()
    predictor = nnUNetPredictor(
        use_gaussian=False,  # which nnU-Net rounds to half precision, where corners get lost
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        built, manager, manager.get_configuration(name), [built.state_dict()], description, "nnUNetTrainer", None
    )
    in_slices = network == "unet-2d"
    volume = torch.randn(1, *[3] * in_slices, *configuration["patch_size"])
    with torch.inference_mode():
        expected = built(volume.movedim(1, 0)).movedim(0, 1) if in_slices else built(volume[None])[0]
    found = predictor.predict_logits_from_preprocessed_data(volume)
    torch.testing.assert_close(found.float(), expected, atol=5e-3, rtol=5e-3)  # nnU-Net keeps logits in half precision


@pytest.mark.parametrize("network", sorted(FROM_MONAI))
def test_weights_are_interchangeable_with_monai(network):
    from monai.networks.nets.segresnet import SegResNet  # noqa: PLC0415  slow
    from monai.networks.nets.swin_unetr import SwinUNETR  # noqa: PLC0415  slow

    theirs = {
        "segresnet": lambda: SegResNet(init_filters=8, in_channels=1, out_channels=2),
        "swin-unetr": lambda: SwinUNETR(feature_size=12, in_channels=1, out_channels=2),
    }[network]()
    _, configuration = tiny(network)
    theirs.load_state_dict(build(configuration, num_channels=1, num_classes=2).state_dict())


def test_monai_is_imported_by_its_own_networks_alone():
    code = "import sys, backsplit.nnunet.networks, backsplit.learning.optimisation; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("network", "chosen", "used"),
    [("unet", None, True), ("unet", False, False), ("resenc-m", None, True), ("swin-unetr", None, False)],
)
def test_deep_supervision_is_the_papers_unless_chosen(network, chosen, used):
    assert has_deep_supervision(network, chosen) == used


@pytest.mark.parametrize(
    ("network", "patch_size"),
    [
        ("unet", (2, 16, 16)),
        ("unet", (8, 16, 16)),
        ("resenc-m", (2, 16, 16)),
        ("segresnet", (8, 16, 16)),
        ("segresnet", (16, 8, 8)),
        ("swin-unetr", (32, 32, 64)),
    ],
)
def test_bfloat16_is_off_where_a_convolution_sees_two_slices(network, patch_size):
    _, configuration = configuration_of(network, PLANS, replace(TINY[network], patch_size=patch_size))
    built = build(configuration, num_channels=1, num_classes=2)
    depths = set()
    for layer in built.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.register_forward_hook(lambda _, inputs, __: depths.add(inputs[0].shape[2]))
    with torch.inference_mode():
        built(torch.zeros(1, 1, *patch_size))
    assert is_safe_in_bfloat16_on_cpu(configuration) == (2 not in depths)


# --- counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "millions"), [("unet", 31.196), ("resenc-m", 102.350), ("segresnet", 18.796), ("swin-unetr", 62.187)]
)
def test_parameter_counts_are_those_of_the_paper(network, millions):
    binary, fine = (count_parameters(network, num_classes=num_classes) for num_classes in (2, 10))
    assert round(binary.num_trained / 1e6, 3) == millions
    trained, predicting = fine.growth_percent(binary)
    assert round(trained, 2) <= 0.02
    assert predicting <= 0.0015


def test_doctor_counts_parameters(capsys):
    assert main(["doctor", "--network", "unet", "resenc-m"]) == 0
    shown = capsys.readouterr().out
    assert "unet: 31.196 M with 2 classes, 31.202 M with 10 (+0.021 %; +0.001 % of what predicts)" in shown
    assert "resenc-m: 102.350 M with 2 classes" in shown


def test_doctor_names_the_networks_there_are(capsys):
    assert main(["doctor", "--network", "vnet"]) == 1
    assert capsys.readouterr().err.startswith("backsplit: error: unknown network 'vnet'; choose one of unet, unet-2d")


# --- optimisers ---------------------------------------------------------------------------------------------------


def parameters():
    return [torch.nn.Parameter(torch.ones(3))]


def rates_of(scheduler, optimizer, epochs):
    rates = []
    for epoch in epochs:
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("unet", torch.optim.SGD, {"lr": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}),
        ("segresnet", torch.optim.Adam, {"lr": 1e-4, "weight_decay": 1e-5, "eps": 1e-5}),
        ("swin-unetr", torch.optim.AdamW, {"lr": 8e-4, "weight_decay": 0.01, "eps": 1e-5}),
        ("short", torch.optim.AdamW, {"lr": 3e-3, "weight_decay": 0.01, "eps": 1e-8}),
    ],
)
def test_optimisers_are_those_of_the_paper(name, kind, expected):
    optimizer = optimizer_of(optimisation_of(name), parameters())
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_an_optimisation_that_survives_json(network):
    chosen = optimisation_of(network)
    assert Optimisation(**json.loads(json.dumps(asdict(chosen)))) == chosen


@given(num_epochs=st.integers(1, 1000), learning_rate=st.floats(1e-6, 1))
def test_poly_is_that_of_nnunet(num_epochs, learning_rate):
    ours = replace(optimisation_of("unet"), learning_rate=learning_rate)
    optimizer = optimizer_of(ours, parameters())
    epochs = range(0, num_epochs, max(1, num_epochs // 7))
    theirs = rates_of(PolyLRScheduler(optimizer, learning_rate, num_epochs), optimizer, epochs)
    assert [learning_rate_at(ours, epoch, num_epochs) for epoch in epochs] == pytest.approx(theirs, rel=1e-12)


@settings(max_examples=20)
@given(num_epochs=st.integers(1, 60))
def test_cosine_is_that_of_pytorch(num_epochs):
    ours = optimisation_of("swin-unetr")
    optimizer = optimizer_of(ours, parameters())
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs, eta_min=1e-6)
    for epoch in range(num_epochs):
        assert learning_rate_at(ours, epoch, num_epochs) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@given(name=st.sampled_from([*NETWORKS, "short"]), num_epochs=st.integers(1, 500))
def test_a_rate_starts_as_named_falls_and_never_passes_its_floor(name, num_epochs):
    chosen = optimisation_of(name)
    rates = [learning_rate_at(chosen, epoch, num_epochs) for epoch in range(num_epochs + 2)]
    assert rates[0] == pytest.approx(chosen.learning_rate)
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert rates[-1] == rates[-2] == chosen.floor


@pytest.mark.parametrize("name", ["unet", "segresnet", "swin-unetr"])
def test_a_resumed_training_goes_on_at_the_rate_it_would_have_had(name):
    chosen, num_epochs = optimisation_of(name), 10
    whole, resumed = (optimizer_of(chosen, parameters()) for _ in range(2))
    expected = rates_of(scheduler_of(chosen, whole, num_epochs), whole, range(10))
    scheduler = scheduler_of(chosen, resumed, num_epochs)
    resumed.load_state_dict(whole.state_dict())  # as nnU-Net does: weights, optimiser, number of the epoch
    assert rates_of(scheduler, resumed, range(4, 10)) == expected[4:]
    assert scheduler.get_last_lr() == expected[-1:]


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"weight_decay": -1.0}, {"momentum": 1.0}, {"floor": 1.0}, {"eps": -1.0}]
)
def test_rates_that_no_optimiser_can_use_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="expected 0 <= floor < learning rate"):
        replace(optimisation_of("unet"), **wrong)
