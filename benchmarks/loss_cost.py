"""What splitting the background costs: time and memory of an iteration with 10 classes, 2, and 2 in nnU-Net's loss.

All arms share network, data and process, and take turns, so that what else runs on the machine meets all of them. An
iteration is forward, loss and backward under deep supervision. Prints a Markdown table.

Run: python benchmarks/loss_cost.py [--patches 40 64] [--repeats 100]

With 20 repeats, ratios of equal runs differ by 3 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backsplit.learning import LossWeights, SplitLoss

BATCH = 2
FEATURES = {"cpu": (16, 32, 64, 96), "cuda": (32, 64, 128, 256, 320, 320)}  # nnU-Net's plan of KiTS23 on the GPU
PATCHES = {"cpu": (40, 64), "cuda": (128,)}
Loss = Callable[[list[Tensor], list[Tensor]], Tensor]


@dataclass(frozen=True)
class Arm:
    """What is measured."""

    name: str
    num_classes: int
    is_stock: bool = False


ARMS = (Arm("10 classes", 10), Arm("2 classes", 2), Arm("2 classes, nnU-Net's loss", 2, is_stock=True))


class Iteration:
    """Network, data and loss of one arm on one device."""

    def __init__(self, arm: Arm, device: str, patch: int) -> None:
        torch.manual_seed(0)
        self.device = device
        self.network = unet(FEATURES[device], arm.num_classes).to(device)
        self.image = torch.randn((BATCH, 1, patch, patch, patch), device=device)
        finest = torch.randint(arm.num_classes, self.image.shape, device=device).short()
        self.labels = [finest[..., :: 2**i, :: 2**i, :: 2**i] for i in range(len(FEATURES[device]) - 1)]
        self.loss = (nnunet_loss if arm.is_stock else split_loss)(len(self.labels))

    def forward(self) -> list[Tensor]:
        """Logits of all outputs."""
        return self.network(self.image)

    def run(self) -> None:
        """One iteration."""
        self.network.zero_grad(set_to_none=True)
        with autocast(self.device):
            self.loss(self.forward(), self.labels).backward()

    def loss_alone(self) -> Callable[[], None]:
        """Loss and its gradient for logits that are there already."""
        with autocast(self.device), torch.no_grad():
            logits = [scale.detach().requires_grad_() for scale in self.forward()]

        def run() -> None:
            with autocast(self.device):
                self.loss(logits, self.labels).backward()

        return run

    def gigaflops(self) -> float:
        """Floating-point operations of an iteration, in 10^9."""
        with FlopCounterMode(display=False) as counter:
            self.run()
        return counter.get_total_flops() / 1e9

    def loss_bytes(self) -> int:
        """What the loss cannot avoid to move: logits read twice and their gradient written once, labels read twice."""
        with autocast(self.device), torch.no_grad():
            logits = sum(scale.nbytes for scale in self.forward()[:-1])
        return 3 * logits + 2 * sum(labels.nbytes for labels in self.labels[:-1])


def unet(features: tuple[int, ...], num_classes: int) -> nn.Module:
    """nnU-Net's plain U-Net, two convolutions a stage."""
    return PlainConvUNet(
        1, len(features), features, nn.Conv3d, 3, [1] + [2] * (len(features) - 1), 2, num_classes, 2,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def scale_weights(num_outputs: int) -> list[float]:
    """nnU-Net's: halved at each coarser output, none for the coarsest, sum 1."""
    weights = [0.5**i for i in range(num_outputs - 1)] + [0.0]
    return [weight / sum(weights) for weight in weights]


def split_loss(num_outputs: int) -> Loss:
    """Ours, with the weights of `target-first`."""
    loss = SplitLoss(
        num_targets=1,
        weights=LossWeights(0.3, 1.0, 0.3),
        scale_weights=scale_weights(num_outputs),
        batch_dice=False,
    )
    return lambda logits, labels: loss(logits, labels).total(loss.weights)


def nnunet_loss(num_outputs: int) -> Loss:
    """nnU-Net's own."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, scale_weights(num_outputs))


def autocast(device: str) -> AbstractContextManager:
    """Half precision where the device multiplies it."""
    if device == "cuda":
        return torch.autocast("cuda")
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.autocast("cpu", torch.bfloat16) if has_bfloat16 else nullcontext()


def medians_ms(runs: Sequence[Callable[[], None]], *, device: str, repeats: int) -> list[float]:
    """Median duration of each, in ms; they take turns, in both directions."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(-2, repeats):
        for index in range(len(runs))[:: 1 if repeat % 2 else -1]:
            start = now(device)
            runs[index]()
            if repeat >= 0:
                times[index].append(now(device) - start)
    return [1000 * statistics.median(one) for one in times]


def now(device: str) -> float:
    """Seconds, once all work that was given to the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def bandwidth_gb_per_s(device: str) -> float:
    """Bytes read and written by a copy of 256 MiB, best of 10."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        start = now(device)
        target.copy_(source)
        times.append(now(device) - start)
    return 2 * source.nbytes / min(times) / 1e9


def peak_mb(arm: Arm, device: str, patch: int) -> float:
    """Memory of three iterations above that of the same process before the first, in MB; a process of its own.

    On the CPU, glibc is told to give back what is freed: what it keeps by default varies by 20 % between equal runs.
    """
    command = [sys.executable, __file__, "--peak", json.dumps([ARMS.index(arm), device, patch])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def print_peak(arm: Arm, device: str, patch: int) -> None:
    """Measure in this process."""
    iteration = Iteration(arm, device, patch)
    before = resident_bytes("VmRSS")
    for _ in range(3):
        iteration.run()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident_bytes("VmHWM") - before
    print(peak / 1e6)


def resident_bytes(name: str) -> int:
    """A memory counter of this process, from Linux."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measure(device: str, patch: int, repeats: int) -> None:
    """Print one table, and the ratios with what they could be at best."""
    iterations = [Iteration(arm, device, patch) for arm in ARMS]
    whole = medians_ms([one.run for one in iterations], device=device, repeats=repeats)
    alone = medians_ms([one.loss_alone() for one in iterations], device=device, repeats=3 * repeats)
    peaks = [peak_mb(arm, device, patch) for arm in ARMS]
    flops = [one.gigaflops() for one in iterations]
    bandwidth = bandwidth_gb_per_s(device)
    floors = [one.loss_bytes() / bandwidth / 1e6 for one in iterations]
    print(
        f"\n{device}, patch {patch}, batch {BATCH}, features {FEATURES[device]}, {torch.get_num_threads()} thread(s)\n"
    )
    print("| arm | iteration, ms | loss alone, ms | its bytes at memory speed, ms | GFLOP | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    for row in zip(ARMS, whole, alone, floors, flops, peaks, strict=True):
        print(f"| {row[0].name} | {row[1]:.1f} | {row[2]:.2f} | {row[3]:.2f} | {row[4]:.1f} | {row[5]:.0f} |")
    print(
        f"\n10 against 2 classes: iteration {whole[0] / whole[1]:.3f} (operations alone {flops[0] / flops[1]:.3f}), "
        f"peak memory {peaks[0] / peaks[1]:.3f}. Ours against nnU-Net's loss, 2 classes: iteration "
        f"{whole[1] / whole[2]:.3f}, loss alone {alone[1] / alone[2]:.3f}, peak memory {peaks[1] / peaks[2]:.3f}. "
        f"Memory speed: {bandwidth:.1f} GB/s."
    )


def main() -> None:
    """Measure on the CPU, and on the GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", help="edge lengths in voxels, multiples of 32")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        index, device, patch = json.loads(arguments.peak)
        print_peak(ARMS[index], device, patch)
        return
    for patch in arguments.patches or PATCHES[arguments.device]:
        measure(arguments.device, patch, arguments.repeats)


if __name__ == "__main__":
    main()
