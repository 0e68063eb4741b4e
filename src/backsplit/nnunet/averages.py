"""Sums over overlapping tiles for the few planes that further tiles still touch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from backsplit.errors import ModelError

Box = tuple[slice, slice, slice]
SLAB_VALUES = 2**21
"""Averages that are handed on at a time, but for a plane at least: what is made of them stays small."""


@dataclass(frozen=True, slots=True)
class Averages:
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
        at_once = max(1, SLAB_VALUES // self.sums[:, 0].numel())
        for part, ring in self._parts(planes, at_once):
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
