"""The command line that TPTBox does not have: `vibe_main IMAGE OUTPUT ROOT DEVICE` segments one image."""

import sys
from pathlib import Path
from typing import Any, Literal, cast

from TPTBox.segmentation.VibeSeg.vibeseg import defaults, run_vibeseg

NUMBER = 100
"""The data set of the model for the whole body, MR and CT."""


def main() -> None:
    """Segment; `ROOT` holds `nnUNet_results`, and given it, TPTBox downloads nothing.

    TPTBox's own figures for the memory of the model hold only where it looks for weights by itself, so they are named.
    """
    image, output, root, device = sys.argv[1:]
    memory: dict[str, Any] = dict(defaults[NUMBER])
    run_vibeseg(
        image,
        output,
        ddevice=cast(Literal["cpu", "cuda", "mps"], device),
        dataset_id=NUMBER,
        model_path=Path(root),
        **memory,
    )
