"""Batches of an arm: its coarsening as a look-up table, its patches around the target, each batch drawn by number."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backsplit.labels import Coarsening
from backsplit.nnunet.arms import ArmSettings

OUTSIDE = -1  # nnU-Net's label of voxels beyond the image or the body

Batch = dict[str, Any]


class CoarsenLabels(SegOnlyTransform):
    """Replace fine labels by coarse ones; `-1` stays.

    First in the pipeline, so that a binary arm costs as much as stock binary training in every later transform.
    """

    def __init__(self, coarsening: Coarsening) -> None:
        super().__init__()
        self.table = torch.tensor([*coarsening.parent, OUTSIDE], dtype=torch.int16)  # index -1 is the last entry

    def _apply_to_segmentation(self, segmentation: Tensor, **_: object) -> Tensor:
        return self.table[segmentation.long()]


def pipeline(coarsening: Coarsening, stock: ComposeTransforms) -> ComposeTransforms:
    """nnU-Net's transforms behind the coarsening.

    Its blur picks the faster of two implementations by timing them, which makes equal seeds give unequal patches: off.
    """
    for transform in stock.transforms:
        blur = getattr(transform, "transform", transform)
        if isinstance(blur, GaussianBlurTransform):
            blur.benchmark = False
    return ComposeTransforms([CoarsenLabels(coarsening), *stock.transforms])


class ArmLoader(nnUNetDataLoader):
    """nnU-Net's patch sampler, whose forced-foreground patches are centred on the classes that the arm asks for."""

    def __init__(self, *args: Any, settings: ArmSettings, **kwargs: Any) -> None:  # noqa: ANN401  nnU-Net's own
        super().__init__(*args, **kwargs)
        num_targets = settings.scheme.num_targets
        parent = settings.coarsening.parent
        self.centred_on = {
            fine
            for fine in range(1, len(parent))
            if parent[fine] and (settings.sampling == "any" or fine <= num_targets)
        }

    def get_bbox(self, data_shape: Any, force_fg: bool, class_locations: dict, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001  nnU-Net's own
        """Lower and upper corner of a patch; see nnU-Net."""
        eligible = {fine: where for fine, where in class_locations.items() if fine in self.centred_on}
        return super().get_bbox(data_shape, force_fg, eligible, *args, **kwargs)


class NumberedBatches(Dataset):
    """Batch `i` depends on seed and `i` alone.

    So a resumed training sees what an undisturbed one would have seen, whatever the number of workers, and all arms
    of a comparison see the same patches under the same augmentation.
    """

    def __init__(self, loader: nnUNetDataLoader, *, seed: int, stream: int) -> None:
        self.loader = loader
        self.seed = seed
        self.stream = stream

    def __getitem__(self, index: int) -> Batch:
        state = np.random.SeedSequence((self.seed, self.stream, index)).generate_state(2)
        np.random.seed(state[0])  # noqa: NPY002  the generator that nnU-Net's transforms draw from
        torch.manual_seed(int(state[1]))
        batch = self.loader.generate_train_batch()
        return {"data": batch["data"], "target": batch["target"]}

    def batches(self, start: int, *, num_workers: int, pin_memory: bool) -> Iterator[Batch]:
        """Batches from number `start` on, without end, prepared ahead by worker processes if there are any."""
        numbers = range(start, 2**31)
        return iter(DataLoader(self, batch_size=None, sampler=numbers, num_workers=num_workers, pin_memory=pin_memory))
