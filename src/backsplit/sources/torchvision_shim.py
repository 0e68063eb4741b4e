"""Make `import torchvision` work beside a torch that was built for the CPU.

On x86 Linux the package index has torchvision for CUDA alone; beside a CPU torch its operators cannot be loaded, and
`import torchvision` raises "operator torchvision::nms does not exist". nnU-Net looks for a trainer by importing modules
that import it, so every trainer but the default one is then out of reach, and with it any model that names another.
The missing operators are never called there; it is enough to declare them. See pytorch/vision issues 9077 and 9085.
"""

import importlib
import sys

OPERATORS = ("nms", "qnms")
_DECLARED: list[object] = []
"""Operators exist for as long as their library does."""


def mend_torchvision() -> None:
    """Declare the operators without which torchvision cannot be imported, where that is so; else do nothing.

    Raises:
        RuntimeError: torchvision cannot be imported for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        import torch  # noqa: PLC0415  slow, and not needed where torchvision works

        if torch.version.cuda is not None or _DECLARED:
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        _forget_half_imported()
        importlib.import_module("torchvision")


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
