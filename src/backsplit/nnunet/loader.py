"""Batches of an arm: its coarsening as a look-up table, its patches around the target, each sample drawn by number."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backsplit.labels import Coarsening
from backsplit.nnunet.annotation import Annotation
from backsplit.nnunet.arms import ArmSettings

OUTSIDE = -1  # nnU-Net's label of voxels beyond the image or the body

Batch = dict[str, Any]
"""`data`: float32 `(sample, channel, *spatial)`; `target`: coarse labels, one tensor `(sample, 1, *spatial)` per scale;
`annotated`: bool `(sample, class)`, which classes the sample tells from background."""


class CoarsenLabels(SegOnlyTransform):
    """Replace fine labels by coarse ones; `-1` stays, and what is to be ignored gets the value behind the last class.

    First in the pipeline, so that a binary arm costs as much as stock binary training in every later transform.
    """

    def __init__(self, coarsening: Coarsening, *, ignore: int) -> None:
        super().__init__()
        self.table = torch.tensor([*coarsening.parent, ignore, OUTSIDE], dtype=torch.int16)  # -1 is the last entry

    def _apply_to_segmentation(self, segmentation: Tensor, **_: object) -> Tensor:
        return self.table[segmentation.long()]


def pipeline(settings: ArmSettings, stock: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's transforms behind the arm's coarsening.

    Its blur picks the faster of two implementations by timing them, which makes equal seeds give unequal patches: off.
    """
    for transform in stock.transforms:
        blur = getattr(transform, "transform", transform)
        if isinstance(blur, GaussianBlurTransform):
            blur.benchmark = False
    return ComposeTransforms([CoarsenLabels(settings.coarsening, ignore=settings.num_classes), *stock.transforms])


class ArmLoader(nnUNetDataLoader):
    """nnU-Net's patch sampler for one sample at a time, whose forced patches are centred on what the arm asks for."""

    def __init__(self, dataset: nnUNetBaseDataset, *args: Any, settings: ArmSettings, **kwargs: Any) -> None:  # noqa: ANN401  nnU-Net's own
        super().__init__(dataset, *args, **kwargs)
        num_targets = settings.scheme.num_targets
        parent = settings.coarsening.parent
        self.indices = sorted(dataset.identifiers)  # nnU-Net lists a folder, whose order is the file system's
        self.centred_on = {
            fine
            for fine in range(1, len(parent))
            if parent[fine] and (settings.sampling == "any" or fine <= num_targets)
        }

    def sample(self, *, is_forced: bool) -> Batch:
        """A batch of one; forced patches contain a class that the arm asks for, if the case has it."""
        self.get_do_oversample = lambda _: is_forced
        return self.generate_train_batch()

    def get_bbox(self, data_shape: Any, force_fg: bool, class_locations: dict, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001  nnU-Net's own
        """Lower and upper corner of a patch; see nnU-Net."""
        eligible = {fine: where for fine, where in class_locations.items() if fine in self.centred_on}
        if self.has_ignore:  # patches that are not forced need an annotated voxel; nnU-Net's key lists all fine labels
            (annotated,) = (where for fine, where in class_locations.items() if isinstance(fine, tuple))
            eligible[self.annotated_classes_key] = annotated
        return super().get_bbox(data_shape, force_fg, eligible, *args, **kwargs)


class Stream(NamedTuple):
    """Which numbered samples a process draws."""

    seed: int
    number: int
    """Training and validation draw from streams of their own."""
    batch_size: int
    """Samples per batch over all processes."""
    oversample: float
    """Share of a batch, at its end, whose patches are forced; rounded as in nnU-Net."""
    rank: int = 0
    num_ranks: int = 1
    """Processes that share a batch; the size is a multiple of it."""

    @property
    def samples(self) -> range:
        """Numbers, within a batch, of the samples of this process."""
        share = self.batch_size // self.num_ranks
        return range(self.rank * share, (self.rank + 1) * share)

    def is_forced(self, sample: int) -> bool:
        """Whether the patch of a sample is forced."""
        return sample >= round(self.batch_size * (1 - self.oversample))


class NumberedBatches(Dataset):
    """Sample `j` of batch `i` depends on the seed, `i` and `j` alone.

    So a resumed training sees what an undisturbed one would have seen, whatever the number of workers or of processes
    that share a batch, and all arms of a comparison see the same patches under the same augmentation.
    """

    def __init__(self, loader: ArmLoader, stream: Stream, settings: ArmSettings, annotation: Annotation) -> None:
        self.loader = loader
        self.stream = stream
        self.is_naive = settings.arm.missing == "naive"
        self.everything = torch.tensor(settings.told_apart(None))
        self.told_apart = {name: torch.tensor(settings.told_apart(kept)) for name, kept in annotation.items()}

    def __getitem__(self, index: int) -> Batch:
        return _collate([self._sample(index, number) for number in self.stream.samples])

    def _sample(self, index: int, number: int) -> Batch:
        state = np.random.SeedSequence((self.stream.seed, self.stream.number, index, number)).generate_state(2)
        np.random.seed(state[0])  # noqa: NPY002  the generator that nnU-Net's transforms draw from
        torch.manual_seed(int(state[1]))
        batch = self.loader.sample(is_forced=self.stream.is_forced(number))
        target = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        told = self.told_apart.get(str(batch["keys"][0]), self.everything)
        if self.is_naive:
            target, told = [_missing_to_background(scale, told) for scale in target], torch.ones_like(told)
        return {"data": batch["data"], "target": target, "annotated": told[None]}

    def batches(self, start: int, *, num_workers: int, pin_memory: bool) -> Iterator[Batch]:
        """Batches from number `start` on, without end, prepared ahead by worker processes if there are any."""
        numbers = range(start, 2**31)
        return iter(DataLoader(self, batch_size=None, sampler=numbers, num_workers=num_workers, pin_memory=pin_memory))


def _missing_to_background(labels: Tensor, told_apart: Tensor) -> Tensor:
    table = torch.arange(len(told_apart) + 1, dtype=labels.dtype)  # the last value is the one to ignore
    table[:-1] *= told_apart
    return table[labels.long()]


def _collate(samples: Sequence[Batch]) -> Batch:
    return {
        "data": torch.cat([sample["data"] for sample in samples]),
        "target": [torch.cat(scale) for scale in zip(*(sample["target"] for sample in samples), strict=True)],
        "annotated": torch.cat([sample["annotated"] for sample in samples]),
    }
