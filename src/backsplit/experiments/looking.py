"""What labels tell about a trained arm, summed over the voxels of a case, tile after tile."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Integer
from scipy import ndimage

from backsplit.cases import Case
from backsplit.labels import Coarsening, LabelScheme, identity, into_background, to_target
from backsplit.nnunet.features import TrainedNetwork, on_image, read_labelled, tiles
from backsplit.theory import lost_trace
from backsplit.theory.last_layer import Block, Matrix, Voxels, blocks_of, target_gradients, within_block
from backsplit.theory.sampling import joined, thinned
from backsplit.volume import write_volume

SAMPLE_SIZE = 4096
"""Voxels of a case that are kept one by one."""
BORDER_SAMPLE_SIZE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Information inside blocks of classes, summed over the voxels of a region, and their number."""

    within: dict[Block, Matrix]
    num_voxels: int

    @classmethod
    def over(cls, voxels: Voxels, blocks: Sequence[Block]) -> "Sums":
        """Over some voxels."""
        return cls({block: within_block(voxels, block) for block in blocks}, voxels.features.shape[1])

    def plus(self, other: "Sums") -> "Sums":
        """Of both."""
        both = {block: one + other.within[block] for block, one in self.within.items()}
        return Sums(both, self.num_voxels + other.num_voxels)


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What one case, or several, say about an arm; border voxels are those of `border_of`."""

    image: Sums
    """Of all voxels that somebody annotated."""
    border: Sums
    """Of the border voxels of all targets."""
    gradients: list[Matrix]
    """By target, of its border voxels: see `theory.last_layer.target_gradients`."""
    num_border: list[int]
    """By target."""
    sample: Voxels
    """Voxels of the image, drawn with a chance that grows with their information, and how many each stands for."""
    border_sample: Voxels
    """The same of the border voxels of all targets."""

    def plus(self, other: "Looked") -> "Looked":
        """Of both."""
        return Looked(
            self.image.plus(other.image),
            self.border.plus(other.border),
            [one + another for one, another in zip(self.gradients, other.gradients, strict=True)],
            [one + another for one, another in zip(self.num_border, other.num_border, strict=True)],
            joined([self.sample, other.sample]),
            joined([self.border_sample, other.border_sample]),
        )


def coarsenings_of(scheme: LabelScheme) -> dict[str, Coarsening]:
    """The label sets that are compared: all classes, targets alone, and all but one auxiliary, by name."""
    size = scheme.num_classes
    dropped = {f"without {name}": into_background([scheme.index(name)], num_fine=size) for name in scheme.auxiliaries}
    binary = to_target(num_targets=scheme.num_targets, num_fine=size)
    return {"fine": identity(size), "binary": binary} | (dropped if len(dropped) > 1 else {})


def look_at_case(
    trained: TrainedNetwork, case: Case, lost_map: Path, *, step_size: float, ignore: int | None
) -> Looked:
    """Run the network over one case; write its map of lost information.

    Args:
        trained: an arm that tells auxiliaries apart.
        case: with labels of the arm's scheme.
        lost_map: file on the grid of the image: what binary labels lose of the information about the logits, in each
            voxel (`theory.lost_trace`, 0 to 1).
        step_size: distance between tiles as a share of the patch.
        ignore: label of voxels that nobody annotated; they count for nothing.

    Raises:
        BackSplitError: as `read_labelled` and `tiles`.
    """
    seen = read_labelled(trained, case, ignore=ignore)
    scheme, generator = trained.scheme, np.random.default_rng(zlib.crc32(case.name.encode()))
    binary = to_target(num_targets=scheme.num_targets, num_fine=scheme.num_classes)
    borders = [border_of(seen.labels, target) for target in range(1, scheme.num_targets + 1)]
    lost = np.zeros(seen.labels.shape, np.float32)
    looked: list[Looked] = []
    for tile in tiles(trained, seen.volume, step_size=step_size):
        shape = lost[tile.box].shape
        lost[tile.box] = lost_trace(tile.voxels.probabilities.cpu().numpy(), binary).reshape(shape)
        at = [border[tile.box] for border in borders]
        found = _of_tile(tile.voxels, seen.labels[tile.box], at, scheme, generator)
        looked = [_thinned(looked[0].plus(found), generator) if looked else found]
    write_volume(on_image(trained, lost, seen), lost_map)
    return looked[0]


def border_of(labels: Integer[np.ndarray, "z y x"], target: int) -> Bool[np.ndarray, "z y x"]:
    """Voxels on either side of a target's surface: those with a face to it from inside or outside."""
    mask = labels == target
    if not mask.any():
        return mask
    return (ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1)) & (labels >= 0)


def _of_tile(
    voxels: Voxels,
    labels: Integer[np.ndarray, "z y x"],
    borders: Sequence[Bool[np.ndarray, "z y x"]],
    scheme: LabelScheme,
    generator: np.random.Generator,
) -> Looked:
    """What a tile says; labels and borders are those of its box."""
    blocks = blocks_of(coarsenings_of(scheme).values())
    known = _chosen(voxels, labels >= 0)
    at_border = [_chosen(voxels, border) for border in borders]
    anywhere = _chosen(voxels, np.any(borders, axis=0))
    return Looked(
        image=Sums.over(known, blocks),
        border=Sums.over(anywhere, blocks),
        gradients=[target_gradients(each, target) for target, each in enumerate(at_border, start=1)],
        num_border=[each.features.shape[1] for each in at_border],
        sample=thinned(known, SAMPLE_SIZE, generator),
        border_sample=thinned(anywhere, BORDER_SAMPLE_SIZE, generator),
    )


def _chosen(voxels: Voxels, mask: Bool[np.ndarray, "z y x"]) -> Voxels:
    return voxels if mask.all() else voxels.where(torch.from_numpy(mask.ravel()).to(voxels.features.device))


def _thinned(looked: Looked, generator: np.random.Generator) -> Looked:
    sample = thinned(looked.sample, SAMPLE_SIZE, generator)
    return replace(looked, sample=sample, border_sample=thinned(looked.border_sample, BORDER_SAMPLE_SIZE, generator))
