"""Prediction beside stock nnU-Net's, from the file of an image to the file of a mask, by the number of classes.

Run:  .venv/bin/python benchmarks/inference.py [--small] [--repeats 3] [--threads 2]
      .venv/bin/python benchmarks/inference.py --models BINARY BACKSPLIT   (folders of trained models, see below)

A made-up CT of 300 x 400 x 400 voxels of 0.8 mm: noise, ellipsoids, and bright lesions, the target. The network works
at 1.2 mm, in patches of 128 voxels, so that everything is resampled both ways. It is a U-Net of two resolutions with 8
and 16 features, whose weights are set by hand: logits are linear in the smoothed brightness, each class is one level of
it. Mirroring is off. Ours and stock take turns, each in a process of its own. Printed are medians, and in brackets the
lowest and highest: seconds from the call to the written mask (without imports), seconds in the network's forward pass,
the rest by the wall clock and in CPU time, which other work on the machine stretches less, and the peak memory of the
process, imports included.

With `--models`, trained ones take the place of the made-up ones. Stock nnU-Net has to find them, so they are what
`backsplit export ARM zip --nnunet` wrote, unpacked; `backsplit demo` trains two.
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from backsplit.datasets.nnunet import images_in
from backsplit.files import write_json
from backsplit.labels import LabelScheme
from backsplit.memory import give_back_large_arrays, use_huge_pages
from backsplit.nnunet.arms import BLOCK, BUDGETS, Arm, ArmSettings
from backsplit.nnunet.prediction import TargetPredictor
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.volume import Grid, Volume, read_labels, write_volume

ARMS = (("ours", 2), ("stock", 2), ("ours", 11), ("stock", 11), ("ours", 118))
SHAPE, SMALL_SHAPE = (400, 400, 300), (100, 100, 75)
PATCH, SMALL_PATCH = 128, 32
SPACING_MM, NETWORK_SPACING_MM = 0.8, 1.2
FEATURES = (8, 16)
BODY_HU, TARGET_HU, NOISE_HU = -50, 300, 20
LEVELS_HU = (-100, 150)
"""Of auxiliary classes, evenly spaced."""
CT_HU = {"mean": 0.0, "std": 100.0, "percentile_00_5": -300.0, "percentile_99_5": 500.0}
CHECKPOINT, MASK = "checkpoint_final.pth", "case.nii.gz"
CPU = torch.device("cpu")
Arms = Sequence[tuple[str, int]]
Runs = dict[tuple[str, int], list[dict[str, float]]]


def levels_hu(num_classes: int) -> np.ndarray:
    """Brightness of each class: background, target, auxiliaries."""
    return np.array([BODY_HU, TARGET_HU, *np.linspace(*LEVELS_HU, num_classes - 2)])


def write_image(path: Path, shape: tuple[int, int, int]) -> None:
    """A body in air, 30 organs of any level, 6 lesions of 7 to 16 voxels radius."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(0, 1, length, dtype=np.float32) for length in shape], indexing="ij", sparse=True)

    def ellipsoid(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) < 1

    image = np.full(shape, -1000, np.float32)
    image[ellipsoid(np.full(3, 0.5), np.array([0.48, 0.4, 2.0]))] = BODY_HU
    for organ in range(30):
        inside = ellipsoid(generator.uniform(0.3, 0.7, 3), generator.uniform(0.03, 0.12, 3))
        image[inside] = np.linspace(*LEVELS_HU, 30)[organ]
    for _ in range(6):
        image[ellipsoid(generator.uniform(0.3, 0.7, 3), generator.uniform(7, 16, 3) / shape)] = TARGET_HU
    image += generator.normal(0, NOISE_HU, shape)
    grid = Grid(
        shape, (SPACING_MM, SPACING_MM, SPACING_MM), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )
    write_volume(Volume(image.astype(np.int16), grid), path)


def write_model(folder: Path, num_classes: int, patch: int) -> None:
    """A model folder of an arm with that many classes."""
    scheme = LabelScheme(("lesion",), tuple(f"organ {index}" for index in range(2, num_classes)))
    settings = ArmSettings(Arm("backsplit" if scheme.auxiliaries else "binary"), scheme, BUDGETS["paper"])
    labels = {name: value for value, name in enumerate(settings.class_names)}
    write_json({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}, folder / "dataset.json")
    write_json(_plans(patch, settings), folder / "plans.json")
    (folder / "fold_0").mkdir()
    checkpoint = {
        "network_weights": network(num_classes).state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / CHECKPOINT)


def _plans(patch: int, settings: ArmSettings) -> dict[str, Any]:
    name = "resample_data_or_seg_to_shape"
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [patch] * 3,
        "spacing": [NETWORK_SPACING_MM] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{what}": name for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": options,
        "resampling_fn_seg_kwargs": {**options, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**options, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": _architecture("torch.nn.modules.conv.Conv3d", "torch.nn.LeakyReLU"),
            "_kw_requires_import": ["conv_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset001_Bench",
        "plans_name": settings.name,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": CT_HU},
        BLOCK: settings.to_block(),
    }


def _architecture(conv_op: str | type, nonlin: str | type) -> dict[str, Any]:
    return {
        "n_stages": 2,
        "features_per_stage": list(FEATURES),
        "conv_op": conv_op,
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": None,
        "nonlin": nonlin,
        "nonlin_kwargs": {"inplace": True},
    }


@torch.no_grad()
def network(num_classes: int) -> PlainConvUNet:
    r"""Two features hold the smoothed brightness $x$ and $-x$ through both convolutions, the others nothing.

    With $f = \mathrm{lrelu}$ of slope 0.01, $f(x) - f(-x) = 1.01 x$; the logit of level $m$ is $(m x - m^2 / 2) / s^2$
    with $s$ = 0.4, or 40 HU: its largest is that of the level nearest to $x$.
    """
    built = PlainConvUNet(
        input_channels=1, num_classes=num_classes, deep_supervision=False, **_architecture(nn.Conv3d, nn.LeakyReLU)
    )
    for parameter in built.parameters():
        parameter.zero_()
    layers = [module for module in built.modules() if isinstance(module, nn.Conv3d)]  # stage 1, stage 2, decoder, head
    first, last, head = layers[0], layers[2], layers[3]
    assert head.bias is not None
    first.weight[0], first.weight[1] = 1 / 27, -1 / 27
    skip = FEATURES[0]  # the decoder sees what was upsampled, then the skip
    for output, sign in enumerate((1, -1)):
        last.weight[output, skip, 1, 1, 1], last.weight[output, skip + 1, 1, 1, 1] = sign / 1.01, -sign / 1.01
    levels = torch.from_numpy(levels_hu(num_classes) / CT_HU["std"]).float()
    weight, bias = levels / 0.16, -(levels**2) / 0.32
    head.weight[:, 0, 0, 0, 0], head.weight[:, 1, 0, 0, 0], head.bias[:] = weight / 1.01, -weight / 1.01, bias
    return built


class Stopwatch:
    """Seconds that the network spends in its forward pass, by the wall clock and of all threads."""

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds, self.started, self.busy = 0.0, 0.0, 0.0, 0.0
        register_module_forward_pre_hook(self._start)
        register_module_forward_hook(self._stop)

    def _start(self, module: nn.Module, _: object) -> None:
        if isinstance(module, PlainConvUNet):
            self.started, self.busy = time.perf_counter(), time.process_time()

    def _stop(self, module: nn.Module, *_: object) -> None:
        if isinstance(module, PlainConvUNet):
            self.seconds += time.perf_counter() - self.started
            self.cpu_seconds += time.process_time() - self.busy


def predict(who: str, model: Path, images: Path, output: Path, num_threads: int) -> dict[str, float]:
    """One case; called in a process of its own."""
    if who == "ours":
        use_huge_pages()  # as the command line does
        give_back_large_arrays()
    torch.set_num_threads(num_threads)
    stopwatch, started, busy = Stopwatch(), time.perf_counter(), time.process_time()
    if who == "ours":
        predictor = TargetPredictor(model, (0,), PredictionSettings(mirroring=False, any_spacing=True), CPU)
        predictor.predict(images_in(images), output, cohort="bench")
    else:
        output.mkdir()
        stock = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(model), (0,), CHECKPOINT)
        stock.predict_from_files_sequential(str(images), str(output))
    whole, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "whole, s": whole,
        "network, s": stopwatch.seconds,
        "outside, s": whole - stopwatch.seconds,
        "outside, CPU s": busy - stopwatch.cpu_seconds,
        "whole, CPU s": busy,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def in_own_process(work: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401  passed on
    """Call a function in a fresh process; this one stays small, as its peak memory would count there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def measure(folder: Path, arms: Arms, models: dict[int, Path], repeats: int, num_threads: int) -> Runs:
    """All arms in turns."""
    runs: Runs = {arm: [] for arm in arms}
    for repeat in range(repeats):
        for (who, num_classes), done in runs.items():
            output = folder / f"{who}-{num_classes}-{repeat}"
            done.append(in_own_process(predict, who, models[num_classes], folder / "images", output, num_threads))
            print(who, num_classes, {key: round(value, 2) for key, value in done[-1].items()}, file=sys.stderr)
    return runs


def show(runs: Runs, folder: Path) -> None:
    """Tables: what was measured, ratios, and voxels that differ from stock's."""
    keys = list(next(iter(runs.values()))[0])
    print(f"| who, classes | {' | '.join(keys)} |\n|{' --- |' * (len(keys) + 1)}")
    middle = {arm: {key: median(run[key] for run in done) for key in keys} for arm, done in runs.items()}
    for arm, done in runs.items():
        cells = [
            f"{middle[arm][key]:.2f} ({min(run[key] for run in done):.2f}-{max(run[key] for run in done):.2f})"
            for key in keys
        ]
        print(f"| {arm[0]}, {arm[1]} | {' | '.join(cells)} |")
    print(f"\n| ratio | {' | '.join(keys)} |\n|{' --- |' * (len(keys) + 1)}")
    pairs = [(("ours", number), ("ours", 2)) for who, number in runs if who == "ours" and number > 2]
    pairs += [(("stock", number), ("ours", number)) for who, number in runs if who == "stock"]
    for one, other in pairs:
        if one in runs and other in runs:
            ratios = [f"{middle[one][key] / middle[other][key]:.3f}" for key in keys]
            print(f"| {one[0]} {one[1]} / {other[0]} {other[1]} | {' | '.join(ratios)} |")
    for who, num_classes in runs:
        if who == "stock":
            theirs, ours = (
                read_labels(folder / f"{name}-{num_classes}-0" / MASK).voxels == 1 for name in ("stock", "ours")
            )
            both = 2 * np.count_nonzero(theirs & ours) / (np.count_nonzero(theirs) + np.count_nonzero(ours))
            differing, whole = np.count_nonzero(theirs != ours), np.count_nonzero(theirs)
            print(f"\n{num_classes} classes: {differing} voxels differ of {whole} of the target, Dice {both:.6f}")


def main() -> None:
    """Make image and models, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a volume of 75 x 100 x 100, to see that it runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--arms", nargs="+", default=[f"{who}-{number}" for who, number in ARMS])
    parser.add_argument("--models", nargs="+", type=Path, default=[], help="model folders, instead of made-up ones")
    told = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(told.threads), "nnUNet_def_n_proc": str(told.threads)}  # of the processes
    arms = [(who, int(number)) for who, number in (arm.split("-") for arm in told.arms)]
    models = {len(json.loads((model / "dataset.json").read_text())["labels"]): model for model in told.models}
    if models:
        arms = [(who, number) for number in models for who in ("ours", "stock")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shape, patch = (SMALL_SHAPE, SMALL_PATCH) if told.small else (SHAPE, PATCH)
        in_own_process(write_image, folder / "images" / "case_0000.nii.gz", shape)
        for num_classes in {number for _, number in arms} - models.keys():
            models[num_classes] = folder / f"model-{num_classes}"
            in_own_process(write_model, models[num_classes], num_classes, patch)
        load = os.getloadavg()[0]
        print(f"{told.threads} threads, load {math.ceil(load)} at the start, medians of {told.repeats}\n")
        show(measure(folder, arms, models, told.repeats, told.threads), folder)


if __name__ == "__main__":
    main()
