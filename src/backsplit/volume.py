"""Volumes on disk: an array, and where its voxels lie in the patient.

SimpleITK reads and writes; this module adds what it keeps silent about in NIfTI files. It reads a truncated or damaged
one as if nothing were wrong, reads NaN and infinity as 0, and reports success for a file that a full disk cut short.
"""

import math
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  as its own manual calls it
from isal import igzip, isal_zlib
from jaxtyping import Bool, Float, Integer

from backsplit.arrays import Spacing, Voxels
from backsplit.errors import GeometryError, LabelError, VolumeError
from backsplit.files import raise_system_error, replacing

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
SPACING_TOLERANCE = 1e-4
"""Relative. A header rounded to four digits still fits; over 500 voxels it adds up to 0.05 voxels."""
ORIGIN_TOLERANCE_MM = 0.01
DIRECTION_TOLERANCE = 1e-3
"""Absolute. NIfTI may store a rotation as three float32; near a half turn they fix a cosine to 7e-4 only."""
LARGEST_LABEL = 2**31 - 1
NIFTI_HEADER_BYTES = 348
"""The first number of a NIfTI-1 file, which tells the byte order; SimpleITK reads no NIfTI-2."""
NIFTI_SCALE_OFFSET = 112
"""Where slope and intercept of the stored numbers stand in a NIfTI-1 header."""
NIFTI_FLOATS = {"16": "f4", "64": "f8"}
"""Datatype codes of float32 and float64."""
NIFTI_WHOLE = {"2": "u1", "4": "i2", "8": "i4", "256": "i1", "512": "u2", "768": "u4", "1024": "i8", "1280": "u8"}
"""Datatype codes of whole numbers."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie: voxel `(i, j, k)` is centred at `origin_mm + direction @ (spacing_mm * (i, j, k))`.

    Coordinates are ITK's: LPS, x to the patient's left, y to the back, z to the head.

    Raises:
        GeometryError: an empty shape, a spacing that is not above 0, a number that is not finite, or axes that are not
            at right angles.
    """

    shape: tuple[int, int, int]
    spacing_mm: Spacing
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    """Nine cosines, row by row; column `a` is where array axis `a` points. May be a reflection."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise GeometryError(f"a grid needs a voxel along each axis, got shape {_times(self.shape)}")
        if not all(0 < edge < math.inf for edge in self.spacing_mm):
            raise GeometryError(f"spacing must be above 0 mm along each axis, got {_times(self.spacing_mm)}")
        if len(self.direction) != 9 or not np.isfinite([*self.origin_mm, *self.direction]).all():
            raise GeometryError(
                f"origin {self.origin_mm} and the nine direction cosines {self.direction} must be finite"
            )
        axes = np.reshape(self.direction, (3, 3))
        if np.abs(axes.T @ axes - np.eye(3)).max() > DIRECTION_TOLERANCE:
            raise GeometryError(f"the axes are not at right angles: direction {_listed(self.direction)}; resample it")

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return math.prod(self.spacing_mm) / 1000

    def axis_along(self, patient_axis: int) -> int:
        """The array axis closest to an axis of the patient: 0 right-left, 1 front-back, 2 foot-head."""
        return int(np.abs(np.reshape(self.direction, (3, 3))[patient_axis]).argmax())

    def difference(self, other: "Grid") -> str | None:
        """What tells two grids apart, as a clause such as `shape 37x52x33 against 36x50x31`; None where nothing does.

        Shapes must be equal. Spacing may differ by 1e-4 of itself, the origin by 0.01 mm per axis and each direction
        cosine by 1e-3, because NIfTI headers hold float32 and other headers are rounded by hand.
        """
        if self.shape != other.shape:
            return f"shape {_times(self.shape)} against {_times(other.shape)}"
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            return f"spacing {_times(self.spacing_mm)} mm against {_times(other.spacing_mm)} mm"
        if not np.allclose(self.origin_mm, other.origin_mm, rtol=0, atol=ORIGIN_TOLERANCE_MM):
            return f"origin {_listed(self.origin_mm)} mm against {_listed(other.origin_mm)} mm"
        if not np.allclose(self.direction, other.direction, rtol=0, atol=DIRECTION_TOLERANCE):
            return f"direction {_listed(self.direction)} against {_listed(other.direction)}"
        return None


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels and their grid.

    Raises:
        GeometryError: the array does not have the shape of the grid.
    """

    voxels: Voxels
    grid: Grid

    def __post_init__(self) -> None:
        if self.voxels.shape != self.grid.shape:
            raise GeometryError(
                f"an array of {_times(self.voxels.shape)} voxels on a grid of {_times(self.grid.shape)}"
            )


def read_grid(path: Path) -> Grid:
    """Read the header alone.

    Raises:
        VolumeError: no such file, another file ending, not one 3-D scalar image, or axes not at right angles.
    """
    return _grid(_open(path), path)


def read_volume(path: Path) -> Volume:
    """Read a volume in the scalar type of the file (float where a NIfTI header scales the stored numbers).

    Raises:
        VolumeError: as `read_grid`, and where a NIfTI file is cut short or damaged.
    """
    reader = _open(path)
    grid = _grid(reader, path)
    content = _whole_content(reader, path)
    stored = _stored_numbers(reader, content)
    if stored is not None:
        return Volume(stored.reshape(grid.shape, order="F"), grid)
    with _errors_of(path):
        array = sitk.GetArrayFromImage(reader.Execute())
    is_lost, lost = _non_finite(reader, content)
    array.reshape(-1)[is_lost] = lost
    return Volume(array.transpose(), grid)


def read_channels(path: Path) -> list[Volume]:
    """Read a volume of four axes, the last of which counts channels.

    Raises:
        VolumeError: no such file, not four axes, or a NIfTI file that is cut short or damaged.
    """
    reader = _header(path)
    if reader.GetDimension() != 4:
        raise VolumeError(f"{path}: {_times(reader.GetSize())} voxels, expected four axes, one of them channels")
    content = _whole_content(reader, path)
    with _errors_of(path):
        image = reader.Execute()
    channels = [image[:, :, :, index] for index in range(reader.GetSize()[3])]
    is_lost, lost = _non_finite(reader, content)
    stacked = np.stack([sitk.GetArrayFromImage(channel) for channel in channels])
    stacked.reshape(-1)[is_lost] = lost
    return [Volume(array.transpose(), _grid(channel, path)) for array, channel in zip(stacked, channels, strict=True)]


def read_labels(path: Path) -> Volume:
    """Read a label map in the narrowest integer type that holds it; files of whole floats are label maps too.

    Raises:
        VolumeError: as `read_volume`.
        LabelError: a voxel is NaN, fractional or beyond 32 bits.
    """
    volume = read_volume(path)
    voxels, low, high = volume.voxels, volume.voxels.min(), volume.voxels.max()
    if not max(abs(float(low)), abs(float(high))) <= LARGEST_LABEL:  # `not <=`, so that NaN fails
        raise LabelError(f"{path}: labels run from {low} to {high}, expected whole numbers of 32 bits; is it an image?")
    if not np.issubdtype(voxels.dtype, np.integer) and (fractional := voxels[voxels != np.rint(voxels)]).size:
        raise LabelError(
            f"{path}: {fractional.size} voxels are not whole numbers, such as {fractional[0]:g}; "
            "expected labels: resample label maps with nearest-neighbour interpolation"
        )
    return Volume(_narrow(voxels, int(low), int(high)), volume.grid)


def check_complete(path: Path) -> None:
    """See that a NIfTI file is as long as its header promises, without unpacking it.

    A gzip file ends with the length of its content. Where that does not fit, the whole file is read: it may be made of
    several. Other formats are not checked.

    Raises:
        VolumeError: it is cut short or damaged, or as `read_grid`.
    """
    reader = _open(path)
    if path.name.endswith(".nii.gz"):
        with path.open("rb") as handle:
            handle.seek(-4, 2)
            length = int.from_bytes(handle.read(4), "little")
        if length == _expected_bytes(reader) % 2**32:
            return
    _whole_content(reader, path)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a volume, whole or not at all, compressed unless it is `.nii`; equal volumes give equal bytes.

    Raises:
        VolumeError: the file ending or the scalar type cannot be written.
        OSError: the folder is forbidden, or the disk is full; `errno` says which.
    """
    _check_ending(path)
    image = _image(volume, path)
    with replacing(path) as temporary:
        temporary.touch()
        try:
            with _errors_of(path):
                sitk.WriteImage(image, temporary, useCompression=True)
            _whole_content(_open(temporary), temporary)
        except VolumeError as error:
            raise_system_error(temporary)
            raise VolumeError(f"{path}: could not be written: {error}") from error


def _check_ending(path: Path) -> None:
    if not path.name.endswith(FILE_ENDINGS):
        raise VolumeError(f"{path}: not a volume by its name; expected {', '.join(FILE_ENDINGS)}; convert it to one")


def _open(path: Path) -> sitk.ImageFileReader:
    """A reader of one 3-D scalar image, its header read."""
    reader = _header(path)
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or "complex" in kind:
        raise VolumeError(
            f"{path}: {_times(reader.GetSize())} voxels of {reader.GetNumberOfComponents()} x {kind}, "
            "expected one 3-D scalar image; split it into one file per channel"
        )
    return reader


def _header(path: Path) -> sitk.ImageFileReader:
    _check_ending(path)
    if not path.is_file():
        raise VolumeError(f"{path}: no such file; expected a volume; check the path")
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    with _errors_of(path):
        reader.ReadImageInformation()
    return reader


def _grid(reader: sitk.ImageFileReader | sitk.Image, path: Path) -> Grid:
    numbers = (*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection())
    a, b, c, x, y, z, *direction = (number + 0.0 for number in numbers)  # -0.0 becomes 0.0
    width, height, depth = reader.GetSize()
    try:
        return Grid((width, height, depth), (a, b, c), (x, y, z), tuple(direction))
    except GeometryError as error:
        raise VolumeError(f"{path}: {error}") from error


def _whole_content(reader: sitk.ImageFileReader, path: Path) -> bytes:
    """The decompressed bytes of a NIfTI file, none missing and the checksum right; nothing for other formats.

    SimpleITK itself finds missing bytes in NRRD and MHA.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return b""
    try:
        content = igzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, igzip.BadGzipFile, isal_zlib.error) as error:  # ty: ignore[invalid-exception-caught]
        raise VolumeError(
            f"{path}: damaged or cut short ({error}); expected a whole gzip file; copy it again"
        ) from error
    expected = _expected_bytes(reader)
    if len(content) < expected:
        raise VolumeError(f"{path}: cut short: {len(content)} bytes, expected {expected} by its header; copy it again")
    return content


def _expected_bytes(reader: sitk.ImageFileReader) -> int:
    num_bits = math.prod(reader.GetSize()) * int(reader.GetMetaData("bitpix"))
    return _voxel_offset(reader) + num_bits // 8


def _voxel_offset(reader: sitk.ImageFileReader) -> int:
    return int(float(reader.GetMetaData("vox_offset")))


def _stored_numbers(reader: sitk.ImageFileReader, content: bytes) -> np.ndarray | None:
    """The numbers of a NIfTI file in their order there, without unpacking it again; None where they are scaled."""
    kind = (NIFTI_WHOLE | NIFTI_FLOATS).get(reader.GetMetaData("datatype")) if content else None
    if kind is None:
        return None
    slope, intercept = np.frombuffer(content, _byte_order(content) + "f4", 2, NIFTI_SCALE_OFFSET).tolist()
    if slope not in (0.0, 1.0) or intercept != 0.0:  # from the bytes: SimpleITK's text of them is rounded
        return None
    stored = np.frombuffer(content, _byte_order(content) + kind, math.prod(reader.GetSize()), _voxel_offset(reader))
    return stored.astype(kind)


def _byte_order(content: bytes) -> str:
    return "<" if int.from_bytes(content[:4], "little") == NIFTI_HEADER_BYTES else ">"


def _non_finite(
    reader: sitk.ImageFileReader, content: bytes
) -> tuple[Bool[np.ndarray, " voxels"], Float[np.ndarray, " lost"]]:
    """Where a NIfTI file of floats stores NaN or infinity, in the order of the file, and which."""
    num_voxels = math.prod(reader.GetSize())
    kind = NIFTI_FLOATS.get(reader.GetMetaData("datatype")) if content else None
    if kind is None:
        return np.zeros(num_voxels, bool), np.zeros(0)
    stored = np.frombuffer(content, _byte_order(content) + kind, count=num_voxels, offset=_voxel_offset(reader))
    is_lost = ~np.isfinite(stored)
    return is_lost, stored[is_lost]


def _narrow(voxels: Voxels, low: int, high: int) -> Integer[np.ndarray, "x y z"]:
    return voxels.astype(np.min_scalar_type(high if low >= 0 else min(low, -high - 1)), copy=False)


def _image(volume: Volume, path: Path) -> sitk.Image:
    try:
        image = sitk.GetImageFromArray(volume.voxels.transpose())
    except TypeError as error:
        raise VolumeError(f"{path}: voxels of type {volume.voxels.dtype} cannot be stored; use float32") from error
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetOrigin(volume.grid.origin_mm)
    image.SetDirection(volume.grid.direction)
    return image


@contextmanager
def _errors_of(path: Path) -> Generator[None]:
    """Turn what SimpleITK raises into one line about `path`, and keep its warnings off stderr meanwhile."""
    speaks = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # noqa: FBT003  a C++ setter without keywords
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ").removeprefix("sitk::ERROR: ")
        raise VolumeError(
            f"{path}: SimpleITK says {reason!r}; expected a whole 3-D volume with axes at right angles; "
            "copy or convert it again"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(speaks)


def _times(numbers: tuple[float, ...]) -> str:
    return "x".join(f"{number:.7g}" for number in numbers)


def _listed(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"
