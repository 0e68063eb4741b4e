"""Arguments that several commands share, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    import torch

    from backsplit.nnunet.folders import Folders

DEFAULT_WORKSPACE = Workspace().root
Device = Literal["auto", "cpu", "cuda", "mps"]


def say(text: str) -> None:
    """Print a result on stdout; progress goes to stderr."""
    print(text)  # noqa: T201  the one place that prints


def folders_of(workspace: Path) -> "Folders":
    """nnU-Net's folders inside a workspace, put in force for this process."""
    from backsplit.experiments.study import nnunet_folders

    return nnunet_folders(Workspace(workspace))


def device_of(name: Device) -> "torch.device":
    """The device of that name.

    Raises:
        ConfigurationError: this machine, or this build of PyTorch, does not have it.
    """
    import torch

    from backsplit.errors import ConfigurationError
    from backsplit.nnunet.training import default_device

    if name == "auto":
        return default_device()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise ConfigurationError(f"device {name!r} is not available here; use --device cpu, or see `backsplit doctor`")
    return torch.device(name)
