"""What the user can mend: one line that names it, exit status 1, nothing half-written, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from backsplit import cases
from backsplit.cli import main
from studies import TINY_NETWORK, compose_phantom, prepare, run


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_phantom(tmp_path_factory.mktemp("good"), num_cases=4)


@pytest.fixture
def broken(composed: Path, tmp_path: Path) -> Path:
    """A copy of a good cohort, to be broken."""
    shutil.copytree(composed.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "composed"
    cohort = json.loads((folder / "cohort.json").read_text().replace(str(composed.parent), str(tmp_path / "copy")))
    (folder / "cohort.json").write_text(json.dumps(cohort))
    return folder


def fails(capfd, *arguments: object) -> str:
    """The one line that a command prints; there must be exactly one on stderr that is an error, and no traceback."""
    assert main([str(argument) for argument in arguments]) == 1
    error = capfd.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("backsplit: error: ")]
    assert "Traceback" not in error
    return line


def prepare_fails(capfd, folder: Path, workspace: Path, *extra: object) -> str:
    line = fails(
        capfd, "prepare", folder, "--workspace", workspace, *TINY_NETWORK, "--folds", 2, "--processes", 1, *extra
    )
    assert not list(workspace.rglob("*.b2nd")), "nothing half-written"
    assert not (workspace / "preparation.json").exists()
    return line


def change_voxels(path: Path, change) -> None:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    change(voxels)
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("missing_label", ("hippocampus_118", "no label map")),
        ("missing_image", ("hippocampus_010", "no image")),
        ("foreign_label", ("hippocampus_281", "")),
        ("shape_off_by_two", ("hippocampus_010", "")),
    ],
)
def test_broken_hippocampus(capfd, real_data, tmp_path, folder, words):
    line = fails(capfd, "convert", "nnunet", real_data / "hippocampus_broken" / folder, tmp_path / "cohort")
    assert all(word in line for word in words)
    assert not (tmp_path / "cohort").exists()


def test_label_outside_the_scheme(capfd, broken, tmp_path):
    case = cases.read(broken).cases[1]
    change_voxels(case.labels, lambda voxels: voxels.__setitem__((3, 3, 3), 9))
    line = prepare_fails(capfd, broken, tmp_path / "w")
    assert case.name in line
    assert "[9]" in line


def test_labels_that_are_not_whole_numbers(capfd, broken, tmp_path):
    case = cases.read(broken).cases[1]
    change_voxels(case.labels, lambda voxels: voxels.__setitem__((3, 3, 3), 0.5))
    assert case.labels.name in prepare_fails(capfd, broken, tmp_path / "w")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(capfd, broken, tmp_path, value):
    case = cases.read(broken).cases[2]
    change_voxels(case.images[0], lambda voxels: voxels.__setitem__((3, 3, 3), value))
    line = prepare_fails(capfd, broken, tmp_path / "w")
    assert case.name in line
    assert "1 voxels" in line


def test_image_and_labels_on_different_grids(capfd, broken, tmp_path):
    case = cases.read(broken).cases[0]
    image = nibabel.load(case.images[0])
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-2], image.affine), case.images[0])
    line = prepare_fails(capfd, broken, tmp_path / "w")
    assert case.name in line
    assert "30x32x32" in line


def test_empty_data_set(capfd, tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    labels = {"background": 0, "cyst": 1}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 0, "file_ending": ".nii.gz"}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(description))
    assert "no training case" in fails(capfd, "convert", "nnunet", tmp_path / "raw", tmp_path / "cohort")


def test_fold_without_a_target(capfd, broken, tmp_path):
    for case in cases.read(broken).cases[1:]:
        change_voxels(case.labels, lambda voxels: voxels.__setitem__(voxels == 1, 0))
    assert "no" in (line := prepare_fails(capfd, broken, tmp_path / "w"))
    assert "target" in line


def test_patch_that_does_not_fit_the_strides(capfd, composed, tmp_path):
    line = prepare_fails(capfd, composed, tmp_path / "w", "--patch-size", 17, 17, 17)
    assert "17x17x17" in line
    assert "20x20x20" in line


def test_steps_out_of_order(capfd, composed, tmp_path):
    assert "backsplit prepare" in fails(capfd, "train", "--arm", "binary", "--workspace", tmp_path)
    assert "backsplit predict" in fails(capfd, "evaluate", "--tolerance-mm", 1, "--workspace", tmp_path)
    assert "backsplit compose" in fails(capfd, "prepare", composed.parent / "drawn", "--workspace", tmp_path)
    assert "backsplit convert" in fails(capfd, "prepare", tmp_path / "nowhere", "--workspace", tmp_path)


def test_unknown_arm_fold_and_class(capfd, composed, tmp_path):
    prepare(composed, tmp_path)
    assert "binary, backsplit" in fails(capfd, "train", "--arm", "trinary", "--workspace", tmp_path)
    assert "folds 0 to 1" in fails(capfd, "train", "--arm", "binary", "--fold", 7, "--workspace", tmp_path)
    unknown = ("compose", composed.parent / "drawn", "--targets", "tumour", "--output", tmp_path / "c")
    assert "tumour" in fails(capfd, *unknown)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux to mount a small disk")
@pytest.mark.parametrize("kilobytes", [64, 700])
def test_full_disk(capfd, composed, tmp_path, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], check=True)
    try:
        command = ("prepare", composed, "--workspace", disk, *TINY_NETWORK, "--folds", 2, "--processes", 1)
        assert "No space left on device" in fails(capfd, *command)
        assert not (disk / "preparation.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run(*command)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux for a read-only disk")
def test_no_write_permission(capfd, composed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
    try:
        line = fails(capfd, "convert", "phantom", disk / "cohort", "--num-cases", 1, "--size", 32)
        assert "Read-only file system" in line
        line = fails(capfd, "prepare", composed, "--workspace", disk / "w", *TINY_NETWORK, "--folds", 2)
        assert "Read-only file system" in line
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the read-only disk stands in")
def test_no_permission_for_an_ordinary_user(composed, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["compose", str(composed.parent / "drawn"), "--targets", "cyst", "--output", str(locked / "c")]) == 1
