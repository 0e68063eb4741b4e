"""Tissues by intensity and position alone, for organs that no model knows.

Position says two things: what lies outside the body is background, whatever its intensity; and air that the body
encloses in a slice (lung, bowel) is `gas`, air around it is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from sklearn.mixture import GaussianMixture

from backsplit.arrays import LabelMap, Mask
from backsplit.cases import Case
from backsplit.errors import CohortError, ConfigurationError, SourceError, VolumeError
from backsplit.sources.body import AIR_BELOW_HU, TABLE_MM, ct_body, mr_body
from backsplit.sources.protocol import Masks
from backsplit.sources.structures import choose_structures
from backsplit.volume import Grid, Volume, read_volume

Modality = Literal["ct", "mr"]
SOFT_FROM_HU, BONE_FROM_HU = -30, 150
OF_CT = ("gas", "fat", "soft", "bone")
MOST_TISSUES = 9
NUM_SAMPLES = 50_000
PERCENTILES = (0.5, 99.5)
"""Of the intensities inside the mask; what is beyond counts as the nearer of the two."""


@dataclass(frozen=True, slots=True)
class TissueSource:
    """Classes by intensity inside the body; made by `open_tissue`."""

    modality: Modality
    channel: int
    num_tissues: int
    """Of MR."""
    seed: int
    """Of the mixture's fit, for MR."""
    structures: tuple[str, ...]

    @property
    def how(self) -> dict[str, Any]:
        """See `MaskSource`."""
        of_mr = {"num_tissues": self.num_tissues, "percentiles": list(PERCENTILES), "seed": self.seed}
        of_ct = {"limits_hu": [AIR_BELOW_HU, SOFT_FROM_HU, BONE_FROM_HU], "table_mm": TABLE_MM}
        shared = {"tool": "tissue", "version": 1, "licence": "no weights", "modality": self.modality}
        return {**shared, "channel": self.channel, **(of_ct if self.modality == "ct" else of_mr)}

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The image that is looked at.

        Raises:
            CohortError: the case has no such channel.
        """
        if not 0 <= self.channel < len(case.images):
            raise CohortError(f"{case.name}: no channel {self.channel}; it has 0 to {len(case.images) - 1}")
        return (case.images[self.channel],)

    def segment(self, case: Case, scratch: Path) -> Masks:
        """See `MaskSource`.

        Raises:
            VolumeError: the image has voxels that are no number.
            SourceError: it shows no body, or too few intensities.
        """
        del scratch
        (path,) = self.inputs(case)
        image = read_volume(path)
        if not np.isfinite(image.voxels).all():
            raise VolumeError(f"{path}: some voxels are NaN or infinite; write the image again without them")
        try:
            labels, details = ct_tissues(image) if self.modality == "ct" else self._mr_tissues(image)
        except SourceError as error:
            raise SourceError(f"{case.name}: {error}") from None
        table = np.zeros(len(self._all) + 1, np.uint8)
        for value, name in enumerate(self.structures, start=1):
            table[self._all.index(name) + 1] = value
        return Masks(Volume(table[labels], image.grid), details=details)

    @property
    def _all(self) -> tuple[str, ...]:
        return structures_of(self.modality, self.num_tissues)

    def _mr_tissues(self, image: Volume) -> tuple[LabelMap, Mapping[str, Any]]:
        return mr_tissues(image, num_tissues=self.num_tissues, seed=self.seed)


def open_tissue(
    *,
    modality: Modality,
    structures: Sequence[str] | None = None,
    channel: int = 0,
    num_tissues: int = 3,
    seed: int = 0,
    force: bool = False,
) -> TissueSource:
    """Tissues as a source of masks.

    Args:
        modality: `ct`: gas, fat, soft and bone by HU; `mr`: `tissue_1`, the darkest, to `tissue_n`.
        structures: which of them; None takes all.
        channel: the image of each case to look at.
        num_tissues: classes of MR, 2 to 9.
        seed: of the mixture's fit.
        force: as for all sources.

    Raises:
        ConfigurationError: another number of tissues.
        SourceError: a structure that there is not.
    """
    if not 2 <= num_tissues <= MOST_TISSUES:
        raise ConfigurationError(f"--tissues {num_tissues}: expected 2 to {MOST_TISSUES}")
    chosen = choose_structures(structures_of(modality, num_tissues), structures, force=force)
    return TissueSource(modality, channel, num_tissues, seed, chosen)


def structures_of(modality: Modality, num_tissues: int) -> tuple[str, ...]:
    """All structures of a modality, by label value from 1."""
    return OF_CT if modality == "ct" else tuple(f"tissue_{number}" for number in range(1, num_tissues + 1))


def ct_tissues(image: Volume) -> tuple[LabelMap, Mapping[str, Any]]:
    """Gas (1), fat (2), soft tissue (3) and bone (4) of a CT in HU; 0 outside the body.

    Fat is -190 to -30 HU, soft tissue from there to 150 HU, gas below and bone above. So what contrast medium fills
    (vessels, kidneys, bowel), stones and metal are `bone`, and lung tissue is `gas`.

    Raises:
        SourceError: no voxel is below 0 HU, or there is no body.

    Source:
        Limits of fat and soft tissue: Mitsiopoulos et al., J. Appl. Physiol. 85(1), 1998, and Mourtzakis et al., Appl.
        Physiol. Nutr. Metab. 33(5), 2008.
    """
    body = ct_body(image)
    classes = 1 + np.digitize(image.voxels, (AIR_BELOW_HU, SOFT_FROM_HU, np.nextafter(BONE_FROM_HU, np.inf)))
    return np.where(body, classes, 0).astype(np.uint8), {"body_ml": _ml(body, image.grid)}


def mr_tissues(image: Volume, *, num_tissues: int, seed: int) -> tuple[LabelMap, Mapping[str, Any]]:
    """Classes 1 (darkest) to `num_tissues` by a Gaussian mixture inside the body or brain; 0 outside.

    The mixture is fitted to the intensities, clipped at two percentiles, of a sample of the voxels. Each class begins
    where, between its mean and that of the darker one, it becomes the likelier of the two: classes are intervals of
    intensity. A positive affine change of intensities changes no mask (but for rounding), equal seeds give equal masks.

    Raises:
        SourceError: the image is constant, or has fewer intensities than tissues.
    """
    mask = mr_body(image)
    inside = image.voxels[mask]
    low, high = np.percentile(inside, PERCENTILES, method="nearest").astype(np.float64)
    num_intensities = len(np.unique(np.clip(inside, low, high)))
    if num_intensities < num_tissues:
        raise SourceError(f"{num_intensities} intensities inside the body, too few for {num_tissues} tissues")
    scaled = (np.clip(inside, low, high) - low) / (high - low)
    limits = _limits(scaled, num_tissues, seed)
    labels = np.zeros(mask.shape, np.uint8)
    labels[mask] = 1 + np.searchsorted(limits, scaled, side="right")
    told = [round(float(low + limit * (high - low)), 6) for limit in limits]
    return labels, {"body_ml": _ml(mask, image.grid), "limits": told}


def _limits(scaled: Float[np.ndarray, " inside"], num_tissues: int, seed: int) -> Float[np.ndarray, " limits"]:
    """Where one class ends and the next begins, of intensities from 0 to 1."""
    rng = np.random.default_rng(seed)
    sample = scaled if scaled.size <= NUM_SAMPLES else rng.choice(scaled, NUM_SAMPLES, replace=False)
    mixture = GaussianMixture(num_tissues, max_iter=1000, random_state=seed).fit(sample[:, None])
    order = np.argsort(mixture.means_[:, 0])
    means, steps = mixture.means_[order, 0], np.linspace(0, 1, 2001)
    chances = mixture.predict_proba(steps[:, None])[:, order]
    limits = []
    for darker, (start, end) in enumerate(pairwise(means)):
        is_brighter = (chances[:, darker + 1] > chances[:, darker]) & (steps >= start)
        limits.append(min([*steps[is_brighter & (steps < end)], end]))
    return np.array(limits)


def _ml(mask: Mask, grid: Grid) -> float:
    return round(int(np.count_nonzero(mask)) * grid.voxel_ml, 3)
