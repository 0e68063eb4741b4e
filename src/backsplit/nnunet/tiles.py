"""What networks put out, averaged over overlapping tiles as nnU-Net averages it, one slab of planes after another.

A network ends in a linear map of each voxel's features to its logits, and averaging is linear: the map may as well come
after it. So the averages hold logits in half precision, as nnU-Net's, or features in single precision, whichever take
less memory: a model of 118 classes costs no more here than its decoder's last features.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn

from backsplit.nnunet.averages import Averages, Box
from backsplit.nnunet.heads import Head

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Slab:
    """Planes that no further tile touches."""

    start: int
    """The first of them."""
    values: Float[Tensor, "channel z y x"]
    """Features of all folds in single precision, or logits in half precision."""
    is_covered: Bool[Tensor, "z y x"]
    """False where all tiles were left out."""


@dataclass(frozen=True)
class TiledNetwork:
    """The networks of the folds of a model, and how they see a volume."""

    folds: tuple[nn.Module, ...]
    head: Head | None
    """None where the networks put out logits."""
    num_classes: int
    patch_size: tuple[int, ...]
    """Three edges, or the last two: slices across the first axis."""
    step_size: float
    mirror_axes: tuple[int, ...]
    """Of the patch."""
    tiles_at_once: int
    precision: Precision
    device: torch.device

    @property
    def patch(self) -> tuple[int, int, int]:
        """Edges of a tile in the volume."""
        depth, height, width = (1,) * (3 - len(self.patch_size)) + self.patch_size
        return depth, height, width

    @property
    def num_averaged(self) -> int:
        """Channels that are averaged, over all folds."""
        return self.num_classes * len(self.folds) if self.head is None else self.head.weight.shape[1]

    def logits(self, values: Float[Tensor, "channel voxels"]) -> Float32[np.ndarray, "classes voxels"]:
        """Logits of some voxels of a slab."""
        if self.head is None:
            return values.float().cpu().numpy()  # torch widens half precision twenty times as fast as NumPy
        return torch.addmm(self.head.bias[:, None], self.head.weight, values).cpu().numpy()

    def slabs(self, volume: Float32[Tensor, "channel z y x"], *, wanted: Box | None = None) -> Iterator[Slab]:
        """Run over a volume, in nnU-Net's order of tiles and with its weights.

        Args:
            volume: what the network takes; smaller ones are padded with zeros, as nnU-Net pads them.
            wanted: tiles that do not reach into it are left out.

        Raises:
            ModelError: numbers that the averages cannot hold.
        """
        padded, box = pad(volume, self.patch)
        shape, weights = padded.shape[1:], self._weights()
        averages = self._averages(shape)
        steps = self._steps(shape)
        for start, following in pairwise([*steps[0], shape[0]]):
            wanted_tiles = [tile for tile in self._tiles(start, steps) if wanted is None or _reaches(tile, wanted, box)]
            for tile, output in self._outputs(padded, wanted_tiles):
                averages.add(output, weights, tile)
                del output  # before the network works on the next tile
            for first, values, is_covered in averages.take(slice(start, following), box):
                yield Slab(first - box[0].start, values if self.head else self._mean_of_folds(values), is_covered)

    def _averages(self, shape: Sequence[int]) -> Averages:
        dtype, extent = torch.float if self.head else torch.half, (self.patch[0], *shape[1:])
        sums = torch.zeros((self.num_averaged, *extent), dtype=dtype, device=self.device)
        return Averages(sums, torch.zeros(extent, dtype=dtype, device=self.device))

    def _weights(self) -> Float32[Tensor, "z y x"]:
        """Of the voxels of a tile, as nnU-Net rounds them."""
        weights = compute_gaussian(
            self.patch_size, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.half, device=self.device
        )
        return weights.reshape(self.patch).float()

    def _steps(self, shape: Sequence[int]) -> list[list[int]]:
        """Where tiles start, along each axis."""
        num_free = 3 - len(self.patch_size)
        free = [list(range(edge)) for edge in shape[:num_free]]
        return free + compute_steps_for_sliding_window(tuple(shape[num_free:]), self.patch_size, self.step_size)

    def _tiles(self, start: int, steps: Sequence[Sequence[int]]) -> list[Box]:
        depth, height, width = self.patch
        return [
            (slice(start, start + depth), slice(y, y + height), slice(x, x + width))
            for y, x in product(steps[1], steps[2])
        ]

    def _outputs(self, volume: Tensor, tiles: Sequence[Box]) -> Iterator[tuple[Box, Float32[Tensor, "channel z y x"]]]:
        for first in range(0, len(tiles), self.tiles_at_once):
            batch = tiles[first : first + self.tiles_at_once]
            seen = torch.stack([volume[:, *tile] for tile in batch]).to(self.device)
            yield from zip(batch, self._of_folds(seen), strict=True)

    def _of_folds(self, seen: Float32[Tensor, "tile channel z y x"]) -> Tensor:
        outputs = [self._mirrored(network, seen) for network in self.folds]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    @torch.inference_mode()
    def _mirrored(self, network: nn.Module, seen: Float32[Tensor, "tile channel z y x"]) -> Tensor:
        """What a network puts out, averaged over mirrored inputs."""
        seen = seen.reshape(*seen.shape[:2], *self.patch_size)
        axes = [axis + 2 for axis in self.mirror_axes]
        with self._autocast():
            total = network(seen)
            flips = [flip for number in range(1, len(axes) + 1) for flip in combinations(axes, number)]
            for flip in flips:
                total += network(seen.flip(flip)).flip(flip)
            if flips:
                total /= len(flips) + 1
        return total.reshape(*total.shape[:2], *self.patch)

    def _autocast(self) -> AbstractContextManager:
        if self.device.type == "cuda":
            return torch.autocast("cuda")
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _mean_of_folds(self, values: Tensor) -> Tensor:
        """Logits averaged over folds, rounded where nnU-Net rounds them."""
        folds = list(values.split(self.num_classes))
        for fold in folds[1:]:
            folds[0] += fold
        return folds[0] if len(folds) == 1 else folds[0] / len(folds)


def pad(
    volume: Float32[Tensor, "channel z y x"], patch: Sequence[int]
) -> tuple[Float32[Tensor, "channel padded_z padded_y padded_x"], Box]:
    """The volume with zeros around, as nnU-Net pads it: no edge shorter than the patch; and where it lies in there.

    Nothing is copied where no edge is too short.
    """
    missing = [max(0, edge - old) for edge, old in zip(patch, volume.shape[1:], strict=True)]
    before = [lack // 2 for lack in missing]
    margins = [(first, lack - first) for first, lack in zip(before, missing, strict=True)]
    flat = [number for pair in reversed(margins) for number in pair]
    depth, height, width = (slice(first, first + old) for first, old in zip(before, volume.shape[1:], strict=True))
    return (nn.functional.pad(volume, flat) if any(flat) else volume), (depth, height, width)


def _reaches(tile: Box, wanted: Box, origin: Box) -> bool:
    """Whether a tile of the padded volume reaches into a box of the volume."""
    return all(
        part.start < box.stop + at.start and part.stop > box.start + at.start
        for part, box, at in zip(tile, wanted, origin, strict=True)
    )
