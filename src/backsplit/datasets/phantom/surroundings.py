"""A made-up abdomen around real kidneys: what a CT could look like whose labels are all that is at hand.

The anatomy of the phantom is drawn once, in its coarse frame of reference, with the real kidneys in the place of drawn
ones. The image is then made slice by slice at full resolution, so that memory does not grow with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
from jaxtyping import Float, Float32, Int16, Integer
from scipy import ndimage

from backsplit.arrays import LabelMap
from backsplit.datasets.phantom.body import add_body, add_vessels, beyond_kidneys
from backsplit.datasets.phantom.case import add_other_organs
from backsplit.datasets.phantom.scene import FAT_HU, Scene, draw_fluid_hu, new_scene
from backsplit.datasets.phantom.shapes import REFERENCE_MM, Frame, depth_mm, smooth_field
from backsplit.errors import LabelError
from backsplit.volume import Grid, Volume

KIDNEY, TUMOR, CYST = 1, 2, 3
FRAME = Frame((80, 80, 80))
KIDNEY_BACK_MM = 30.0
"""How far behind the middle of the body kidneys lie, in the reference abdomen."""
CORTEX_MM = 9.0
"""In reference mm, of which the frame has one in four."""
SLICES_AT_ONCE, BLUR_REACH = 16, 2
Places = tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"], Float[np.ndarray, " z"]]
"""Where the voxel centres of an array lie, axis by axis, as fractional indices of the frame."""


@dataclass(frozen=True)
class _Abdomen:
    """What is drawn in the frame, and where the label map lies in it."""

    scene: Scene
    labels: LabelMap
    """Real labels, axes to the left, to the back and up."""
    places: Places

    @cached_property
    def fields(self) -> Float32[np.ndarray, "kind x y z"]:
        """Intensity around the kidneys; depth below their surface; texture of tumours."""
        renal = self.scene.has("kidney", "cyst")
        hu = np.where(renal, np.float32(FAT_HU), self.scene.hu)
        depth = depth_mm(renal, FRAME) - depth_mm(~renal, FRAME)
        return np.stack([hu, depth, smooth_field(FRAME, self.scene.rng, num_waves=24)]).astype(np.float32)

    def at_slice(self, index: int) -> Float32[np.ndarray, "kind x y"]:
        """The fields in one slice of the label map, by linear interpolation."""
        along_x, along_y, (along_z,) = self._weights[0], self._weights[1], self._weights[2][index : index + 1]
        coarse = np.tensordot(self.fields, along_z, axes=1)
        return along_x @ coarse @ along_y.T

    @cached_property
    def _weights(self) -> tuple[Float32[np.ndarray, "_ frame"], ...]:
        return tuple(_linear(places, length) for places, length in zip(self.places, FRAME.shape, strict=True))


def draw_around_kidneys(labels: Volume, *, seed: int) -> Volume:
    """Draw an image for a label map of kidney (1), tumor (2) and cyst (3); every other voxel is made up.

    Outside the kidneys the image has the organs of the phantom: bowel, stomach and gallbladder with fluid of the
    intensity of a cyst, cysts of liver and spleen, fat, muscle, bones, vessels. Kidneys have cortex and medulla,
    tumours texture and necrosis, each cyst its own fluid. Then partial volume and noise, as in the phantom. The anatomy
    is scaled with the field of view in the axial plane; above and below what it covers the last slice goes on.

    Args:
        labels: label map; any orientation, whose axes are taken as the nearest ones of the patient.
        seed: the same seed and labels give the same image.

    Returns:
        int16 HU on the grid of the labels.

    Raises:
        LabelError: no labelled voxel, or other values.
    """
    if not labels.voxels.any() or int(labels.voxels.max()) > CYST:
        raise LabelError(
            f"labels have values 0 to {int(labels.voxels.max())}; expected some voxel of kidney (1), tumor (2) or cyst "
            "(3), and nothing else"
        )
    order, flips = _to_patient(labels.grid)
    turned = labels.voxels.transpose(order)[flips]
    abdomen = _draw(turned, tuple(labels.grid.spacing_mm[axis] for axis in order), seed)
    image = np.empty(labels.grid.shape, np.int16, order="F" if labels.voxels.flags.f_contiguous else "C")
    view = image.transpose(order)[flips]
    for window, slices in _slices(abdomen, seed):
        view[:, :, window] = slices
    return Volume(image, labels.grid)


def _to_patient(grid: Grid) -> tuple[tuple[int, int, int], tuple[slice, slice, slice]]:
    """How to turn an array so that its axes run to the left, to the back and up; nearest axes of an oblique grid."""
    direction = np.reshape(grid.direction, (3, 3))
    first = grid.axis_along(2)
    left, back = sorted({0, 1, 2} - {first}, key=lambda axis: -abs(direction[0, axis]))
    order = (left, back, first)
    flips = [slice(None, None, 1 if direction[patient, axis] > 0 else -1) for patient, axis in enumerate(order)]
    return order, (flips[0], flips[1], flips[2])


def _draw(labels: LabelMap, spacing_mm: tuple[float, ...], seed: int) -> _Abdomen:
    """The abdomen around the kidneys, in the reference frame."""
    scale = REFERENCE_MM / (labels.shape[0] * spacing_mm[0])
    middle = [np.mean(np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]]) for axis in range(3)]
    anchors = ((labels.shape[0] - 1) / 2, middle[1], middle[2])
    shifts_mm = (0.0, KIDNEY_BACK_MM, 0.0)
    x, y, z = (
        ((np.arange(length) - anchor) * edge * scale + shift + REFERENCE_MM / 2) / FRAME.voxel_mm[axis] - 0.5
        for axis, (length, anchor, edge, shift) in enumerate(
            zip(labels.shape, anchors, spacing_mm, shifts_mm, strict=True)
        )
    )
    scene = new_scene(FRAME, np.random.default_rng(seed), wobble_mm=3.0)
    cavity = add_body(scene)
    real = _in_frame(labels, (x, y, z))
    scene.paint("kidney", 110, (real == KIDNEY) | (real == TUMOR))
    scene.paint("cyst", 10, real == CYST)
    add_vessels(scene, cavity & ~scene.has("kidney", "cyst"))
    add_other_organs(scene, *beyond_kidneys(scene, cavity))
    return _Abdomen(scene, labels, (x, y, z))


def _in_frame(labels: LabelMap, places: Places) -> Integer[np.ndarray, "frame_x frame_y frame_z"]:
    """The label at each voxel centre of the frame, nearest voxel; 0 outside the label map."""
    found = np.zeros(FRAME.shape, labels.dtype)
    inside, nearest = [], []
    for axis, along in enumerate(places):
        index = np.interp(np.arange(FRAME.shape[axis]), along, np.arange(along.size), left=-1, right=-1)
        inside.append(index >= 0)
        nearest.append(np.rint(index[index >= 0]).astype(int))
    found[np.ix_(*inside)] = labels[np.ix_(*nearest)]
    return found


def _slices(abdomen: _Abdomen, seed: int) -> Iterator[tuple[slice, Int16[np.ndarray, "x y slices"]]]:
    """Finished slices, some at a time; each has noise of its own, so that it does not matter how many."""
    rng = abdomen.scene.rng
    amplitude, depth = rng.uniform(9, 14), abdomen.labels.shape[2]
    tissue = (rng.uniform(0.85, 1.15), rng.uniform(65, 115))
    cysts = _fluids(abdomen.labels, rng)
    for start in range(0, depth, SLICES_AT_ONCE):
        stop = min(start + SLICES_AT_ONCE, depth)
        low, high = max(start - BLUR_REACH, 0), min(stop + BLUR_REACH, depth)
        sharp = np.stack([_sharp(abdomen, index, cysts, *tissue) for index in range(low, high)], axis=-1)
        blurred = ndimage.gaussian_filter(sharp, 0.5)[:, :, start - low : stop - low]
        for index in range(start, stop):
            white = np.random.default_rng((seed, index)).standard_normal(blurred.shape[:2], dtype=np.float32)
            noise = ndimage.gaussian_filter(white, 0.6)
            blurred[:, :, index - start] += amplitude / noise.std() * noise
        yield slice(start, stop), np.rint(np.clip(blurred, -1024, 3071)).astype(np.int16)


@dataclass(frozen=True, slots=True)
class _Fluids:
    """The cysts, and the intensity of each."""

    box: tuple[slice, slice, slice]
    numbers: Integer[np.ndarray, "x y z"]
    hu: Float[np.ndarray, " cysts_and_none"]

    def paint(self, image: Float32[np.ndarray, "x y"], index: int) -> None:
        """Fill the cysts of one slice."""
        if self.box[2].start <= index < self.box[2].stop:
            numbers = self.numbers[:, :, index - self.box[2].start]
            image[self.box[:2]][numbers > 0] = self.hu[numbers[numbers > 0]]


def _fluids(labels: LabelMap, rng: np.random.Generator) -> _Fluids:
    found = ndimage.find_objects(labels, max_label=CYST)[CYST - 1]
    box = (slice(0, 0), slice(0, 0), slice(0, 0)) if found is None else (found[0], found[1], found[2])
    numbers = cc3d.connected_components(np.ascontiguousarray(labels[box] == CYST), connectivity=26)
    hu = [0.0, *(draw_fluid_hu(rng) for _ in range(int(numbers.max(initial=0))))]
    return _Fluids(box, numbers, np.array(hu))


def _sharp(
    abdomen: _Abdomen, index: int, cysts: _Fluids, enhancement: float, tumor_hu: float
) -> Float32[np.ndarray, "x y"]:
    """One slice before it is scanned."""
    image, depth, texture = abdomen.at_slice(index)
    labels = abdomen.labels[:, :, index]
    kidney, tumor = labels == KIDNEY, labels == TUMOR
    image[kidney] = enhancement * np.where(depth[kidney] < CORTEX_MM, 150, 105)
    image[tumor] = np.where(texture[tumor] > 1.2, 30, tumor_hu + 15 * texture[tumor])
    cysts.paint(image, index)
    return image


def _linear(places: Float[np.ndarray, " n"], length: int) -> Float32[np.ndarray, "n length"]:
    """Matrix that interpolates `length` values at fractional indices; beyond the ends the last value goes on."""
    clipped = np.clip(places, 0, length - 1)
    below = np.minimum(clipped.astype(int), length - 2)
    weights = np.zeros((places.size, length), np.float32)
    rows = np.arange(places.size)
    weights[rows, below], weights[rows, below + 1] = 1 - (clipped - below), clipped - below
    return weights
