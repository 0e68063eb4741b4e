"""nnU-Net's preprocessing of a case, with volumes resized by us where the plans name nnU-Net's own resampling."""

import contextlib
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from jaxtyping import Float32
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import (
    ANISO_THRESHOLD,
    compute_new_shape,
    determine_do_sep_z_and_axis,
)
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from scipy.ndimage import binary_fill_holes

from backsplit.nnunet.resizing import resize_image, resize_labels

Resampling = Literal["fast", "stock"]
"""Whose code resizes volumes: ours, or nnU-Net's. Labels are equal, images to 1e-5 of their largest absolute value."""
Resampler = Callable[..., np.ndarray | torch.Tensor]
"""Called with an array `[channel, z, y, x]`, its new shape, old and new spacing."""
Channels = Float32[np.ndarray, "channel z y x"]
CroppedChannels = Float32[np.ndarray, "channel cropped_z cropped_y cropped_x"]

REPRODUCED = "resample_data_or_seg_to_shape"
"""Name in the plans of the resampling that ours equals."""


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Keep torch to one thread inside the block: cases are done at the same time, and results depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def crop(images: Channels, properties: dict[str, Any], plans: PlansManager) -> CroppedChannels:
    """Turn axes as the plans say, and leave out planes at the edges that are 0 in all channels; a view.

    Args:
        images: as nnU-Net's reader gives them.
        properties: of the case; what undoes this is added.
        plans: of the model.
    """
    turned = images.transpose(0, *(axis + 1 for axis in plans.transpose_forward))
    properties["shape_before_cropping"] = turned.shape[1:]
    properties["bbox_used_for_cropping"] = get_bbox_from_mask(np.asarray(turned.any(0)))
    cropped = turned[:, *(slice(low, high) for low, high in properties["bbox_used_for_cropping"])]
    properties["shape_after_cropping_and_before_resampling"] = cropped.shape[1:]
    return cropped


def normalise_and_resize(
    cropped: CroppedChannels, properties: dict[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> Channels:
    """The rest of what nnU-Net's `run_case_npy` does to images that have no labels; `cropped` is overwritten."""
    inside = np.zeros((1, *cropped.shape[1:]), np.int8)
    if any(configuration.use_mask_for_norm):
        inside[:, ~binary_fill_holes(cropped.any(0))] = -1
    intensities = plans.foreground_intensity_properties_per_channel
    normalised = DefaultPreprocessor(verbose=False)._normalize(cropped, inside, configuration, intensities)
    spacing, wanted = spacings(properties, plans, configuration)
    new_shape = compute_new_shape(cropped.shape[1:], spacing, wanted)
    return np.asarray(configuration.resampling_fn_data(normalised, new_shape, spacing, wanted))


def spacings(
    properties: dict[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> tuple[list[float], list[float]]:
    """Of the image, its axes turned as the plans say, and of what the network takes; slices stay as far apart."""
    of_image = [properties["spacing"][axis] for axis in plans.transpose_forward]
    return of_image, [*of_image[: 3 - len(configuration.spacing)], *configuration.spacing]


class ResizedBy(ConfigurationManager):
    """A configuration whose volumes are resized by us; what it holds stays as it is.

    Args:
        configuration: any of nnU-Net's plans. Where it names another resampling than nnU-Net's default, or one whose
            settings ours does not know, that one is used.
        resampling: who resizes.
        without_images: zeros of the right shape instead, where only labels are wanted.
    """

    def __init__(
        self,
        configuration: ConfigurationManager,
        resampling: Resampling,
        *,
        without_images: bool = False,
    ) -> None:
        super().__init__(configuration.configuration)
        self._of_images = _zeros if without_images else _resampler(configuration, resampling, "data")
        self._of_labels = _resampler(configuration, resampling, "seg")

    @property
    def resampling_fn_data(self) -> Resampler:
        """Resizes images."""
        return self._of_images

    @property
    def resampling_fn_seg(self) -> Resampler:
        """Resizes label maps."""
        return self._of_labels


def _zeros(data: np.ndarray, new_shape: Sequence[int] | np.ndarray, *_: object) -> np.ndarray:
    return np.zeros((len(data), *new_shape), np.float32)


def _resampler(configuration: ConfigurationManager, resampling: Resampling, part: Literal["data", "seg"]) -> Resampler:
    """Ours, where asked for and equal to what the plans name; what they name otherwise."""
    name, options = (configuration.configuration[f"resampling_fn_{part}{end}"] for end in ("", "_kwargs"))
    if (
        resampling == "stock"
        or name != REPRODUCED
        or not is_reproduced(options, orders=(0, 1) if part == "seg" else range(6))
    ):
        return configuration.resampling_fn_seg if part == "seg" else configuration.resampling_fn_data
    return partial(_resample, **options)


def is_reproduced(options: dict[str, Any], *, orders: Collection[int]) -> bool:
    """Whether ours can do what the plans ask for."""
    is_known = options.keys() <= {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
    return is_known and options.get("order") in orders and options.get("order_z", 0) == 0


def _resample(
    data: np.ndarray,
    new_shape: Sequence[int] | np.ndarray,
    old_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    order: int,
    is_seg: bool = False,
    **slicing: Any,  # noqa: ANN401  passed on
) -> np.ndarray:
    """As nnU-Net's function of that name, but that labels come in the narrow type that it stores, not as float32."""
    if is_seg:
        data = data.astype(np.int16 if data.max() > np.iinfo(np.int8).max else np.int8)
    shape = [int(length) for length in new_shape]
    if list(data.shape[1:]) == shape:
        return data
    resize = resize_labels if is_seg else resize_image
    sliced_axis = sliced_axis_of(old_spacing, new_spacing, **slicing)
    resized = [resize(channel, shape, order=order, sliced_axis=sliced_axis) for channel in data]
    return resized[0][None] if len(resized) == 1 else np.stack(resized)


def sliced_axis_of(
    old_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    order_z: int = 0,  # noqa: ARG001  the nearest slice
    force_separate_z: Any = False,  # noqa: ANN401  bool or None, but nnU-Net says bool
    separate_z_anisotropy_threshold: float = ANISO_THRESHOLD,
) -> int | None:
    """The axis across which slices are too thick to interpolate; None if there is none."""
    is_sliced, axis = determine_do_sep_z_and_axis(
        force_separate_z, old_spacing, new_spacing, separate_z_anisotropy_threshold
    )
    return int(axis) if is_sliced and axis is not None else None
