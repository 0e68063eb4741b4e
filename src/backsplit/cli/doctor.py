"""What this machine has."""

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from backsplit.cli.arguments import DEFAULT_WORKSPACE, say

PACKAGES = (
    "backsplit",
    "nnunetv2",
    "monai",
    "torch",
    "numpy",
    "SimpleITK",
    "TotalSegmentator",
    "TPTBox",
    "nninteractive",
)
OPTIONAL = {"TotalSegmentator", "TPTBox", "nninteractive"}
NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Doctor:
    """Show versions, devices, folders, and which weights of mask sources are on this machine.

    Example: backsplit doctor

    Example: backsplit doctor --network unet resenc-m segresnet swin-unetr
    """

    workspace: Path = DEFAULT_WORKSPACE
    """Folder whose disk is looked at."""
    network: tuple[str, ...] = ()
    """Count the parameters of these instead (unet, unet-2d, resenc-m, segresnet, swin-unetr), with 2 and 10 classes."""

    def run(self) -> None:
        """Look, and print."""
        if self.network:
            _say_parameters(self.network)
        else:
            self._say_machine()

    def _say_machine(self) -> None:
        import torch

        from backsplit.nnunet.precision import has_fast_bfloat16

        say(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
        for package in PACKAGES:
            say(f"  {package}: {_version(package)}")
        say(f"CUDA: {_cuda()}; MPS: {'yes' if torch.backends.mps.is_available() else 'no'}")
        say(f"bfloat16 in hardware on the CPU: {'yes' if has_fast_bfloat16() else 'no, training runs in float32'}")
        for name in NNUNET_VARIABLES:
            say(f"{name}: {os.environ.get(name, 'not set, the workspace is used')}")
        free = shutil.disk_usage(_existing(self.workspace.resolve())).free
        say(f"free disk at {self.workspace}: {free / 1e9:.1f} GB")
        _say_weights()


def _say_weights() -> None:
    from backsplit.errors import SourceError
    from backsplit.sources import nninteractive_model, totalsegmentator, vibesegmentator
    from backsplit.sources.weights import LICENCES

    modules = (totalsegmentator, vibesegmentator, nninteractive_model)
    for (source, licence), module in zip(LICENCES.items(), modules, strict=True):
        try:
            root = module.default_root()
        except SourceError as error:
            say(f"weights of {source} ({licence}): {error}")
        else:
            say(f"weights of {source} ({licence}): {'found' if root.is_dir() else 'none'} at {root}")


def _say_parameters(names: Sequence[str]) -> None:
    from backsplit.learning.networks import network_named
    from backsplit.nnunet.parameters import KITS23, count_parameters

    networks = [network_named(name) for name in names]
    patches = ["x".join(map(str, planned["patch_size"])) for planned in KITS23["configurations"].values()]
    say(f"parameters in nnU-Net's plan of KiTS23 (patch {', in 2D '.join(patches)}; 1 channel):")
    for network in networks:
        few, many = (count_parameters(network, num_classes=num_classes) for num_classes in (2, 10))
        trained, predicting = many.growth_percent(few)
        say(
            f"  {network}: {few.num_trained / 1e6:.3f} M with 2 classes, {many.num_trained / 1e6:.3f} M with 10 "
            f"(+{trained:.3f} %; +{predicting:.3f} % of what predicts)"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (optional source of masks)" if package in OPTIONAL else "missing"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
