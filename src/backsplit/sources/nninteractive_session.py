"""The tool itself: one session of nnInteractive in this process, shown images and clicked.

https://github.com/MIC-DKFZ/nnInteractive works on arrays, not in the patient. It gets `[channel, z, y, x]`, as
SimpleITK and nnU-Net read files, so clicks are turned round on their way to it; it ignores spacing and orientation.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from backsplit.arrays import Mask, Spacing
from backsplit.cases import Case
from backsplit.errors import GeometryError, SourceError
from backsplit.sources.clicks import Click, Clicking, centre_click, random_clicks
from backsplit.sources.nninteractive_model import InteractiveModel
from backsplit.volume import read_volume


@runtime_checkable
class Session(Protocol):
    """What is used of nnInteractive's session."""

    def set_image(self, image: np.ndarray) -> None:
        """Forget the image before, its clicks and its mask."""
        ...

    def set_target_buffer(self, target_buffer: np.ndarray) -> None:
        """Write the mask into this `[z, y, x]` array from now on."""
        ...

    def reset_interactions(self) -> None:
        """Forget clicks and mask, keep the image; empties the array of the mask."""
        ...

    def add_point_interaction(self, coordinates: tuple[int, ...], include_interaction: bool) -> object:  # noqa: FBT001
        """Click at `(z, y, x)`, and predict."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """How the tool runs."""

    device: torch.device
    channel: int | None = None
    """The image of a case that the network sees, counted from 0; None for all."""
    autozoom: bool = True
    """Look again at a coarser scale where an object reaches beyond the patch, then refine."""
    trust: bool = False
    """Open a checkpoint that holds more than tensors and plain values: it could run code of whoever made it."""


def open_session(model: InteractiveModel, running: Running) -> Session:
    """Load the network; nothing is fetched."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from nnInteractive.inference.inference_session import nnInteractiveInferenceSession  # noqa: PLC0415  an extra

    session = nnInteractiveInferenceSession(
        device=running.device,
        use_torch_compile=False,
        torch_n_threads=torch.get_num_threads(),
        do_autozoom=running.autozoom,
        enable_undo=False,
    )
    session.initialize_from_trained_model_folder(str(model.folder))
    return session


def read_images(case: Case, paths: Sequence[Path], *, num_channels: int) -> Float[np.ndarray, "channel z y x"]:
    """The images of a case as the session takes them.

    Raises:
        SourceError: another number of images than the network takes, or one that cannot be normalised.
        GeometryError: images on different grids.
    """
    if len(paths) != num_channels:
        raise SourceError(
            f"{case.name}: {len(paths)} images, but the model takes {num_channels}; choose one with --channel, or use "
            "another model"
        )
    volumes = [read_volume(path) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        if difference := volumes[0].grid.difference(volume.grid):
            raise GeometryError(f"{case.name}: {paths[0].name} and {path.name} are on different grids: {difference}")
        if not np.isfinite(volume.voxels).all():
            raise SourceError(f"{case.name}: {path.name} has voxels that are not finite; nnInteractive cannot use it")
    first = volumes[0].voxels
    if first.min() == first.max():
        raise SourceError(
            f"{case.name}: all voxels of {paths[0].name} are {first.min():g}; nnInteractive normalises an image by the "
            "spread of its voxels, so it cannot use this one; leave the case out"
        )
    return np.stack([volume.voxels.transpose() for volume in volumes]).astype(np.float32)


def click_part(
    session: Session, part: Mask, clicking: Clicking, *, spacing_mm: Spacing, generator: np.random.Generator
) -> Iterator[tuple[Click, Mask]]:
    """Click one object until the clicks are used up or there is nothing left to click.

    Yields:
        Each click, and the mask that the tool shows after it.
    """
    buffer = np.zeros(part.shape[::-1], np.uint8)
    session.set_target_buffer(buffer)
    drawn = iter(random_clicks(part, clicking.num_clicks, generator))
    # Auto-zoom draws patches from NumPy's global generator.
    np.random.seed(int(generator.integers(2**32)))  # noqa: NPY002
    mask = np.zeros(part.shape, bool)
    for _ in range(clicking.num_clicks):
        click = next(drawn, None) if clicking.strategy == "random" else centre_click(mask, part, spacing_mm=spacing_mm)
        if click is None:
            break
        session.add_point_interaction(click.voxel[::-1], include_interaction=click.is_positive)
        mask = buffer.transpose() != 0
        yield click, mask
    session.reset_interactions()
