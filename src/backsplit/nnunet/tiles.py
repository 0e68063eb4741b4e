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

from backsplit.errors import ModelError
from backsplit.nnunet.heads import Head

Precision = Literal["float32", "bfloat16"]
Box = tuple[slice, slice, slice]
SLAB_PLANES = 16
"""At most, so that what is made of a slab stays small."""


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
            return values.cpu().numpy().astype(np.float32)
        return torch.addmm(self.head.bias[:, None], self.head.weight, values).cpu().numpy()

    def slabs(self, volume: Float32[Tensor, "channel z y x"], *, wanted: Box | None = None) -> Iterator[Slab]:
        """Run over a volume, in nnU-Net's order of tiles and with its weights.

        Args:
            volume: what the network takes; smaller ones are padded with zeros, as nnU-Net pads them.
            wanted: tiles that do not reach into it are left out.

        Raises:
            ModelError: numbers that the averages cannot hold.
        """
        padded, box = self._padded(volume)
        shape, weights = padded.shape[1:], self._weights()
        averages = self._averages(shape)
        steps = self._steps(shape)
        for start, following in pairwise([*steps[0], shape[0]]):
            wanted_tiles = [tile for tile in self._tiles(start, steps) if wanted is None or _reaches(tile, wanted, box)]
            for tile, output in self._outputs(padded, wanted_tiles):
                averages.add(output, weights, tile)
            for first, values, is_covered in averages.take(slice(start, following), box):
                yield Slab(first - box[0].start, values if self.head else self._mean_of_folds(values), is_covered)

    def _averages(self, shape: Sequence[int]) -> "_Averages":
        dtype, extent = torch.float if self.head else torch.half, (self.patch[0], *shape[1:])
        sums = torch.zeros((self.num_averaged, *extent), dtype=dtype, device=self.device)
        return _Averages(sums, torch.zeros(extent, dtype=dtype, device=self.device))

    def _padded(self, volume: Tensor) -> tuple[Tensor, Box]:
        """The volume, no edge of it shorter than the patch; and where it lies in there."""
        missing = [max(0, edge - old) for edge, old in zip(self.patch, volume.shape[1:], strict=True)]
        before = [lack // 2 for lack in missing]
        margins = [(first, lack - first) for first, lack in zip(before, missing, strict=True)]
        flat = [number for pair in reversed(margins) for number in pair]
        depth, height, width = (slice(first, first + old) for first, old in zip(before, volume.shape[1:], strict=True))
        return nn.functional.pad(volume, flat), (depth, height, width)

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
            outputs = [self._mirrored(network, seen) for network in self.folds]
            yield from zip(batch, torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], strict=True)

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


@dataclass(frozen=True, slots=True)
class _Averages:
    """Weighted sums over tiles for as many planes as a tile has; plane `z` of the volume lies at `z` modulo these."""

    sums: Float[Tensor, "channel ring y x"]
    totals: Float[Tensor, "ring y x"]

    def add(self, output: Float[Tensor, "channel depth height width"], weights: Tensor, tile: Box) -> None:
        """Add a tile; computed in float32, then rounded to the type of the sums, as nnU-Net does."""
        at_once = 1 if self.sums.device.type == "cpu" else len(weights)  # a plane of all channels fits a core's cache
        for part, ring in self._parts(tile[0], at_once):
            _add(self.sums[:, ring, *tile[1:]], output[:, part] * weights[part])
            _add(self.totals[ring, *tile[1:]], weights[part])

    def take(self, planes: slice, box: Box) -> Iterator[tuple[int, Tensor, Bool[Tensor, "z y x"]]]:
        """Averages of planes that no further tile touches, a few at a time: the first plane, values, which are known.

        Args:
            planes: of the padded volume; set to zero for those that take their place.
            box: where the volume lies in there.
        """
        for part, ring in self._parts(planes, SLAB_PLANES):
            start = planes.start + part.start
            inside = slice(max(0, box[0].start - start), min(box[0].stop, planes.start + part.stop) - start)
            if inside.stop > inside.start:
                sums, totals = self.sums[:, ring, *box[1:]][:, inside], self.totals[ring, *box[1:]][inside]
                is_covered = totals > 0
                values = torch.where(is_covered, sums / totals, 0)
                if not torch.isfinite(values.sum(dtype=torch.float)):
                    raise ModelError(
                        "the network puts out numbers that are not finite, or too large for half precision; train it "
                        "again"
                    )
                yield start + inside.start, values, is_covered
            self.sums[:, ring] = 0
            self.totals[ring] = 0

    def _parts(self, planes: slice, at_once: int) -> Iterator[tuple[slice, slice]]:
        """The same planes counted from the first of them, and in the ring."""
        start, length = planes.start, len(self.totals)
        while start < planes.stop:
            place = start % length
            number = min(at_once, planes.stop - start, length - place)
            yield slice(start - planes.start, start - planes.start + number), slice(place, place + number)
            start += number


def _add(sums: Float[Tensor, "..."], values: Float[Tensor, "..."]) -> None:
    """Add in float32; adding to half precision in place is six times as slow on a CPU."""
    sums.copy_(values + sums)


def _reaches(tile: Box, wanted: Box, origin: Box) -> bool:
    """Whether a tile of the padded volume reaches into a box of the volume."""
    return all(
        part.start < box.stop + at.start and part.stop > box.start + at.start
        for part, box, at in zip(tile, wanted, origin, strict=True)
    )
