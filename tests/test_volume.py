"""Volumes on disk, held against nibabel, and every way in which a file can be wrong."""

import errno
import math
import os
import resource
import struct
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  as its own manual calls it

from backsplit.errors import GeometryError, LabelError, VolumeError
from backsplit.volume import FILE_ENDINGS, Grid, Volume, read_grid, read_labels, read_volume, write_volume

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
OBLIQUE = (0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, -0.6)
GRID = Grid((4, 5, 6), (0.7, 0.8, 6.5), (1.1, -220.2, 3.3), OBLIQUE)
REAL_NIFTI = (
    "kits23_labels/case_00446.nii.gz",
    "hippocampus/imagesTr/hippocampus_001_0000.nii.gz",
    "hippocampus/labelsTr/hippocampus_003.nii.gz",
    "ms_lesions/patient07/FLAIR.nii.gz",
    "ms_lesions/patient07/GOLD_STANDARD.nii.gz",
    "totalsegmentator/example_ct_sm.nii.gz",
)
REAL_NRRD = ("brain_tumour/brain1_image.nrrd", "brain_tumour/brain2_label.nrrd", "breast_lesion/breast1_image.nrrd")


def volume_of(dtype=np.int16, grid=GRID, seed=0):
    return Volume(np.random.default_rng(seed).integers(0, 100, grid.shape).astype(dtype), grid)


def affine_ras(grid):
    """The matrix that nibabel gives: voxel index to mm, with x to the right and y to the front."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm
    affine[:3, 3] = grid.origin_mm
    return np.diag([-1, -1, 1, 1]) @ affine


def save_nifti(array, path, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("name", REAL_NIFTI)
def test_nifti_is_read_as_nibabel_reads_it(real_data, name):
    expected, volume = nibabel.Nifti1Image.from_filename(real_data / name), read_volume(real_data / name)
    np.testing.assert_array_equal(volume.voxels, np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(affine_ras(volume.grid), expected.affine, atol=1e-4)
    assert read_grid(real_data / name) == volume.grid


@pytest.mark.parametrize("name", REAL_NIFTI[1:] + REAL_NRRD)
@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_real_volume_survives_a_round_trip(real_data, tmp_path, name, ending):
    volume = read_volume(real_data / name)
    write_volume(volume, tmp_path / f"copy{ending}")
    copy = read_volume(tmp_path / f"copy{ending}")
    np.testing.assert_array_equal(copy.voxels, volume.voxels)
    assert copy.voxels.dtype == volume.voxels.dtype
    assert volume.grid.difference(copy.grid) is None


def test_slice_axis_of_kits_comes_first(real_data):
    grid = read_grid(real_data / "kits23_labels" / "case_00446.nii.gz")
    assert grid.shape[1:] == (512, 512)
    assert nibabel.aff2axcodes(affine_ras(grid)) == ("I", "P", "L")


def test_what_we_write_nibabel_reads(tmp_path):
    volume = volume_of()
    write_volume(volume, tmp_path / "a.nii.gz")
    image = nibabel.Nifti1Image.from_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.voxels)
    np.testing.assert_allclose(image.affine, affine_ras(GRID), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_scalar_type_is_kept(tmp_path, dtype, ending):
    volume = volume_of(dtype)
    write_volume(volume, tmp_path / f"a{ending}")
    copy = read_volume(tmp_path / f"a{ending}")
    assert copy.voxels.dtype == dtype
    np.testing.assert_array_equal(copy.voxels, volume.voxels)
    assert GRID.difference(copy.grid) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_nan_and_infinity_are_kept(tmp_path, dtype, ending):
    volume = volume_of(dtype)
    volume.voxels[0, 1, 2], volume.voxels[3, 0, 5], volume.voxels[1, 4, 0] = np.nan, np.inf, -np.inf
    write_volume(volume, tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}").voxels, volume.voxels)


def test_nan_in_a_big_endian_file(tmp_path):
    array = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    array[1, 0, 2] = np.nan
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").voxels, array)


@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_equal_volumes_give_equal_bytes(tmp_path, ending):
    volume = volume_of()
    fortran = Volume(np.asfortranarray(volume.voxels), GRID)
    write_volume(volume, tmp_path / f"a{ending}")
    first = (tmp_path / f"a{ending}").read_bytes()
    os.utime(tmp_path / f"a{ending}", (0, 0))
    write_volume(fortran, tmp_path / f"b{ending}")
    assert (tmp_path / f"b{ending}").read_bytes() == first


def test_gzip_header_holds_no_time(tmp_path):
    write_volume(volume_of(), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)


def test_whole_floats_are_labels(real_data):
    labels = read_labels(real_data / "hippocampus" / "labelsTr" / "hippocampus_003.nii.gz")
    assert labels.voxels.dtype == np.uint8
    assert set(np.unique(labels.voxels)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "dtype"), [((0, 255), np.uint8), ((0, 256), np.uint16), ((-1, 3), np.int8), ((-1, 200), np.int16)]
)
@pytest.mark.parametrize("stored", [np.int32, np.float32])
def test_labels_are_stored_narrow(tmp_path, values, dtype, stored):
    array = np.resize(np.array(values, stored), (2, 2, 2))
    labels = read_labels(save_nifti(array, tmp_path / "a.nii.gz"))
    assert labels.voxels.dtype == dtype
    np.testing.assert_array_equal(labels.voxels, array)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "1 voxels are not whole numbers, such as 0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e20, "1e[+]20")],
)
def test_labels_must_be_whole_numbers(tmp_path, value, message):
    array = np.zeros((2, 2, 2))
    array[1, 1, 1] = value
    with pytest.raises(LabelError, match=rf"odd.nii.gz: .*{message}"):
        read_labels(save_nifti(array, tmp_path / "odd.nii.gz"))


def test_missing_file(tmp_path):
    for read in (read_grid, read_volume, read_labels):
        with pytest.raises(VolumeError, match=r"none.nii.gz: no such file"):
            read(tmp_path / "none.nii.gz")


def test_folder_is_no_volume(tmp_path):
    (tmp_path / "a.nrrd").mkdir()
    with pytest.raises(VolumeError, match="no such file"):
        read_volume(tmp_path / "a.nrrd")


def test_unknown_file_ending(tmp_path):
    with pytest.raises(VolumeError, match=r"a.png: not a volume by its name; expected .nii.gz"):
        read_grid(tmp_path / "a.png")
    with pytest.raises(VolumeError, match=r"a.png: not a volume by its name"):
        write_volume(volume_of(), tmp_path / "a.png")


@pytest.mark.parametrize("ending", FILE_ENDINGS)
@pytest.mark.parametrize("content", [b"", b"hello"])
def test_file_that_is_no_volume(tmp_path, ending, content):
    path = tmp_path / f"text{ending}"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=f"text{ending}: ") as raised:
        read_volume(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", FILE_ENDINGS)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_truncated_file(tmp_path, ending, part):
    path = tmp_path / f"cut{ending}"
    write_volume(volume_of(grid=replace(GRID, shape=(30, 31, 32))), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(VolumeError, match=f"cut{ending}: ") as raised:
        read_volume(path)
    assert "\n" not in str(raised.value)


def test_truncated_gzip_that_simpleitk_reads(real_data, tmp_path):
    content = (real_data / "ms_lesions" / "patient07" / "FLAIR.nii.gz").read_bytes()
    path = tmp_path / "FLAIR.nii.gz"
    path.write_bytes(content[: len(content) // 4])
    assert sitk.ReadImage(path).GetSize() == (182, 218, 182)
    with pytest.raises(VolumeError, match=r"FLAIR.nii.gz: damaged or cut short"):
        read_volume(path)


def test_damaged_gzip(real_data, tmp_path):
    content = bytearray((real_data / "ms_lesions" / "patient07" / "T1.nii.gz").read_bytes())
    content[-100] ^= 0xFF
    (tmp_path / "T1.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError, match=r"T1.nii.gz: damaged or cut short"):
        read_volume(tmp_path / "T1.nii.gz")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2)])
def test_only_three_axes(tmp_path, shape):
    path = save_nifti(np.zeros(shape, np.uint8), tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=rf"{'x'.join(map(str, shape))} voxels .* expected one 3-D scalar image"):
        read_grid(path)


def test_only_scalars(tmp_path):
    path = save_nifti(np.zeros((2, 2, 2), np.complex64), tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match="complex of 32-bit float, expected one 3-D scalar image"):
        read_volume(path)


def test_sheared_nifti(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.3
    path = save_nifti(np.zeros((2, 2, 2), np.uint8), tmp_path / "shear.nii.gz", affine)
    with pytest.raises(VolumeError, match=r"shear.nii.gz: .*orthonormal"):
        read_grid(path)


def test_sheared_nrrd(tmp_path):
    header = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        "space directions: (1,0.5,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    (tmp_path / "shear.nrrd").write_bytes(header.encode() + bytes(8))
    with pytest.raises(VolumeError, match=r"shear.nrrd: the axes are not at right angles"):
        read_grid(tmp_path / "shear.nrrd")


def test_reading_says_nothing(real_data, tmp_path, capfd):
    write_volume(read_volume(real_data / "brain_tumour" / "brain1_image.nrrd"), tmp_path / "a.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_text("hello")
    with pytest.raises(VolumeError, match="text"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


def test_simpleitk_speaks_to_others_as_before(tmp_path):
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    write_volume(volume_of(), tmp_path / "a.nrrd")
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == before


def test_type_that_no_file_holds(tmp_path):
    with pytest.raises(VolumeError, match="voxels of type float16 cannot be stored; use float32"):
        write_volume(volume_of(np.float16), tmp_path / "a.nii.gz")


@pytest.fixture
def without_rights(tmp_path):
    """A folder that this process may not write to, root or not."""
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)


def test_forbidden_folder_is_an_oserror(without_rights):
    with pytest.raises(PermissionError) as raised:
        write_volume(volume_of(), without_rights / "a.nii.gz")
    assert raised.value.errno == errno.EACCES


@pytest.fixture
def little_room():
    """The system takes 64 KiB a file, then refuses, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("ending", FILE_ENDINGS)
def test_file_that_does_not_fit_is_an_oserror(tmp_path, little_room, ending):
    grid = replace(GRID, shape=(90, 91, 92))
    (tmp_path / f"a{ending}").write_bytes(b"older")
    with pytest.raises(OSError, match="File too large") as raised:
        write_volume(volume_of(grid=grid), tmp_path / f"a{ending}")
    assert raised.value.errno == errno.EFBIG
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(f"a{ending}", b"older")]


def test_equal_grids_do_not_differ():
    assert GRID.difference(replace(GRID)) is None


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"shape": (4, 5, 7)}, "shape 4x5x6 against 4x5x7"),
        ({"spacing_mm": (0.7, 0.8, 6.6)}, "spacing 0.7x0.8x6.5 mm against 0.7x0.8x6.6 mm"),
        ({"origin_mm": (1.2, -220.2, 3.3)}, "origin (1.1, -220.2, 3.3) mm against (1.2, -220.2, 3.3) mm"),
        ({"direction": UPRIGHT}, "direction (0, 0.6, 0.8, 1, 0, 0, 0, 0.8, -0.6) against (1, 0, 0, 0, 1, 0, 0, 0, 1)"),
    ],
)
def test_difference_says_what_differs(change, difference):
    assert GRID.difference(replace(GRID, **change)) == difference


@pytest.mark.parametrize("factor", [0.5, 2])
def test_grids_may_differ_by_the_tolerances(factor):
    others = (
        replace(GRID, spacing_mm=(0.7 * (1 + 1e-4 * factor), 0.8, 6.5)),
        replace(GRID, origin_mm=(1.1 + 0.01 * factor, -220.2, 3.3)),
        replace(GRID, direction=(5e-4 * factor * 2, *OBLIQUE[1:])) if factor < 1 else replace(GRID, direction=UPRIGHT),
    )
    assert [GRID.difference(other) is None for other in others] == [factor < 1] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (4, 0, 6)}, "a voxel along each axis, got shape 4x0x6"),
        ({"spacing_mm": (0.7, 0.0, 1.0)}, "above 0 mm"),
        ({"spacing_mm": (0.7, float("nan"), 1.0)}, "above 0 mm"),
        ({"origin_mm": (float("inf"), 0.0, 0.0)}, "must be finite"),
        ({"direction": (1.0, 0.0, 0.0)}, "nine direction cosines"),
        ({"direction": (1.0, 0.3, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, "right angles"),
    ],
)
def test_grid_that_cannot_be_used(change, message):
    with pytest.raises(GeometryError, match=message):
        replace(GRID, **change)


def test_array_must_have_the_shape_of_the_grid():
    with pytest.raises(GeometryError, match="4x5x7 voxels on a grid of 4x5x6"):
        Volume(np.zeros((4, 5, 7)), GRID)


def test_voxel_volume():
    assert GRID.voxel_ml == pytest.approx(0.7 * 0.8 * 6.5 / 1000)


def test_a_bit_that_fell_over_in_the_middle_is_found(tmp_path):
    path = tmp_path / "a.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 255, (80, 80, 80)).astype(np.uint8)
    write_volume(Volume(voxels, Grid((80, 80, 80), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), UPRIGHT)), path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="damaged or cut short"):
        read_volume(path)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(
    ("slope", "intercept"), [(1, 0), (0, 0), (0, 5), (1, 5), (2, -3), (1.0000001, 0), (math.nan, 0)]
)
def test_scaled_numbers_are_those_of_simpleitk(tmp_path, kind, slope, intercept):
    path = tmp_path / "a.nii"
    voxels = np.arange(24).reshape(2, 3, 4).astype(kind)
    write_volume(Volume(voxels, Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), UPRIGHT)), path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", slope, intercept)
    path.write_bytes(content)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose()
    found = read_volume(path).voxels
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
