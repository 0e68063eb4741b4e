"""Which classes a sample tells apart, and the voxels of samples that agree on them, in pieces that fit a cache."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

LOG_2 = math.log(2.0)
CPU_PIECE, DEVICE_PIECE = 2**19, 2**24  # logits in one piece: a core's cache; a small part of a GPU's memory
FEWEST_ROWS = 4  # as which a piece counts, so that work arrays of one number per voxel fit as well


@dataclass(frozen=True, slots=True, eq=False)
class SampleClasses:
    """The classes that a sample tells apart, as rows: auxiliaries, then background, then targets."""

    num_rest: int
    """Rows that are no target; the last of them is background."""
    runs: tuple[tuple[slice, slice], ...]
    """Rows and the channels they stand for, in order; background is channel 0, or all of `block`."""
    channels: Int64[Tensor, " row"]
    """Channel of each row."""
    rows: Int64[Tensor, " class"]
    """Row of each class; that of background for those that the sample does not tell from it."""
    block: Int64[Tensor, " block"]
    """Channels that together are background: 0 and those of classes that are not told apart."""
    is_target: Float[Tensor, " class"]
    """1 for targets, 0 for background and auxiliaries."""


@lru_cache(maxsize=4096)
def sample_classes(annotated: tuple[bool, ...], *, num_targets: int, device: torch.device) -> SampleClasses:
    """The classes of a sample, on the device of its logits; kept, so that a GPU is waited for but once.

    Args:
        annotated: one per class; background and targets count as annotated.
        num_targets: T, 1 or more.
        device: of the logits.
    """
    classes = range(len(annotated))
    auxiliaries = [k for k in classes if k > num_targets and annotated[k]]
    channels = [*auxiliaries, *range(num_targets + 1)]
    row_of_class = {channel: row for row, channel in enumerate(channels)}
    rows = [row_of_class.get(k, len(auxiliaries)) for k in classes]
    block = [0, *(k for k in classes if k not in row_of_class)]
    is_target = [float(0 < k <= num_targets) for k in classes]
    tables = (torch.tensor(numbers, device=device) for numbers in (channels, rows, block, is_target))
    return SampleClasses(len(auxiliaries) + 1, tuple(_runs(channels)), *tables)


def _runs(channels: list[int]) -> Iterator[tuple[slice, slice]]:
    """Stretches of rows whose channels follow each other."""
    for _, run in groupby(enumerate(channels), key=lambda pair: pair[1] - pair[0]):
        (row, channel), *more = run
        yield slice(row, row + 1 + len(more)), slice(channel, channel + 1 + len(more))


@dataclass(frozen=True, slots=True)
class VoxelGroup:
    """Voxels of consecutive samples that tell the same classes apart; of one output of the network."""

    samples: slice
    """Of the batch."""
    voxels: slice
    """Of each sample, flattened."""
    logits: Float[Tensor, "sample class voxel"]
    labels: Num[Tensor, "sample voxel"]
    classes: SampleClasses
    dtype: torch.dtype
    """In which to compute."""

    def by_row(self) -> Float[Tensor, "sample row voxel"]:
        """A copy of the logits, in units of log 2 and by row, with background pooled."""
        num_samples, _, num_voxels = self.logits.shape
        rows = self.logits.new_empty((num_samples, len(self.classes.channels), num_voxels), dtype=self.dtype)
        for run, channels in self.classes.runs:
            rows[:, run] = self.logits[:, channels]
        if len(self.classes.block) > 1:
            rows[:, self.classes.num_rest - 1] = self.background().logsumexp(1)
        return rows.mul_(1 / LOG_2)

    def background(self) -> Float[Tensor, "sample block voxel"]:
        """A copy of the logits of the channels that together are background."""
        return self.logits.index_select(1, self.classes.block).to(self.dtype)

    def row_of_label(self) -> Int64[Tensor, "sample voxel"]:
        """Row of each voxel's label."""
        return self._of_label(self.classes.rows)

    def is_target(self) -> Float[Tensor, "sample voxel"]:
        """1 where the label is a target, else 0."""
        return self._of_label(self.classes.is_target.to(self.dtype))

    def _of_label(self, per_class: Tensor) -> Tensor:
        return per_class.index_select(0, self.labels.int().flatten()).view(self.labels.shape)

    def of_rows(self, per_class: Float[Tensor, "batch class"]) -> Float[Tensor, "sample row"]:
        """What each sample has for its rows."""
        return per_class[self.samples].index_select(1, self.classes.channels)


def voxel_groups(
    logits: Float[Tensor, "batch class *spatial"],
    labels: Num[Tensor, "batch 1 *spatial"],
    classes: Sequence[SampleClasses],
) -> Iterator[VoxelGroup]:
    """All voxels of an output, in groups whose work arrays fit a cache; always the same ones in the same order."""
    flat_logits, flat_labels = logits.flatten(2), labels.flatten(1)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    size = CPU_PIECE if logits.device.type == "cpu" else DEVICE_PIECE
    first = 0
    for _, same in groupby(classes, key=id):
        samples = slice(first, first + len(list(same)))
        first = samples.stop
        length = max(1, size // ((samples.stop - samples.start) * max(logits.shape[1], FEWEST_ROWS)))
        for start in range(0, flat_labels.shape[1], length):
            part = (samples, slice(start, start + length))
            yield VoxelGroup(*part, flat_logits[samples, :, part[1]], flat_labels[part], classes[samples.start], dtype)
