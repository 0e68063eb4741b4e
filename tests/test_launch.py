"""What surrounds a tool of others: its start, its end, its words, the label map it leaves, and its weights' hash."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources import torchvision_shim
from backsplit.sources.process import image_of, installed_version, nifti_of, read_output, run_tool
from backsplit.sources.torchvision_shim import mend_torchvision
from backsplit.sources.weights import hash_weights
from backsplit.volume import Grid, Volume, read_volume, write_volume


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A folder whose modules every new Python can import."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.fixture
def quick_tools(tools) -> Path:
    """The same, and torchvision is a module that imports in no time."""
    (tools / "torchvision.py").touch()
    return tools


TRAINERS = """
def main():
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    for name in ("nnUNetTrainer", "nnUNetTrainerNoMirroring"):
        print("found", find(name).__module__)
"""


def test_trainers_of_nnunet_are_found(tools, capsys):
    (tools / "trainers.py").write_text(TRAINERS)
    run_tool("trainers", [], tool="nnU-Net", case="a", environment={})
    found = re.findall(r"^found (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert [name.rsplit(".", 1)[1] for name in found] == ["nnUNetTrainer", "nnUNetTrainerNoMirroring"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="torchvision loads beside this torch")
def test_without_the_shim_torchvision_cannot_be_imported_here():
    """Once this fails, the shim is of no use any more."""
    ended = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    assert "operator torchvision::nms does not exist" in ended.stderr


@pytest.mark.parametrize("module", [ModuleType("torchvision"), None], ids=["it works", "it is not installed"])
def test_the_shim_leaves_alone_what_is_not_broken(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "torchvision", module)
    mend_torchvision()
    assert sys.modules["torchvision"] is module
    assert not torchvision_shim._DECLARED


def test_the_shim_leaves_alone_a_torch_for_cuda(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('built for another CUDA')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(RuntimeError, match="built for another CUDA"):
        mend_torchvision()
    assert not torchvision_shim._DECLARED


FAILING = """
import os, sys

def main():
    print("to standard output, by", os.environ["WHO"])
    print("\\x1b[91mred words\\x1b[0m\\n\\n", file=sys.stderr)
    print("50 %\\r100 %")
    if sys.argv[1:] == ["killed"]:
        os.kill(os.getpid(), 9)
    raise ValueError("the last words")
"""


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("fails", r"Tool ended with exit status 1; it said last: .* / ValueError: the last words"),
        ("killed", r"Tool was ended by SIGKILL, most often for .*; it said last: red words / 50 % / 100 %"),
    ],
)
def test_a_tool_that_fails_is_told_with_its_last_lines(quick_tools, capsys, argument, told):
    (quick_tools / "failing.py").write_text(FAILING)
    with pytest.raises(SourceError, match=f"^case 7: {told}$"):
        run_tool("failing", [argument], tool="Tool", case="case 7", environment={"WHO": "me"})
    assert "to standard output, by me\n" in capsys.readouterr().out


SLEEPING = """
import multiprocessing, os, pathlib, sys, time

def sleep():
    time.sleep(100)

def main():
    child = multiprocessing.get_context("spawn").Process(target=sleep)
    child.start()
    pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
    print("asleep")
    time.sleep(100)
"""
STARTER = """
import sys
from backsplit.sources.process import run_tool
run_tool("sleeping", [sys.argv[1]], tool="Tool", case="a", environment={})
"""


def test_a_tool_and_its_processes_end_when_who_started_it_is_killed(quick_tools):
    (quick_tools / "sleeping.py").write_text(SLEEPING)
    told = quick_tools / "told"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(told)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter, starter.stdout:
        assert starter.stdout.readline() == "asleep\n"
        processes = [int(word) for word in told.read_text().split()]
        assert all(is_running(process) for process in processes)
        starter.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(is_running(process) for process in processes))


def test_a_tool_ends_when_its_run_is_interrupted(quick_tools):
    (quick_tools / "sleeping.py").write_text(SLEEPING)

    class Interrupting(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

    with redirect_stdout(Interrupting()), pytest.raises(KeyboardInterrupt):
        run_tool("sleeping", [str(quick_tools / "told")], tool="Tool", case="a", environment={})
    processes = [int(word) for word in (quick_tools / "told").read_text().split()]
    wait_until(lambda: not any(is_running(process) for process in processes))


def is_running(process: int) -> bool:
    """Whether it exists, and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so) -> None:
    for _ in range(200):
        if is_so():
            return
        time.sleep(0.1)
    pytest.fail("not within 20 s")


GRID = Grid((2, 3, 2), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@settings(max_examples=40)
@given(data=st.data())
def test_output_is_read_as_the_slow_twin_reads_it(tmp_path_factory, data):
    known = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=8, unique=True))
    group_of = {value: data.draw(st.integers(0, 3)) for value in known}
    groups = [[value for value in known if group_of[value] == index] for index in (1, 2, 3)]
    voxels = np.array(data.draw(st.lists(st.sampled_from([0, *known]), min_size=12, max_size=12))).reshape(GRID.shape)
    path = tmp_path_factory.mktemp("output") / "masks.nii.gz"
    write_volume(Volume(voxels.astype(np.uint16), GRID), path)
    read = read_output(path, tool="Tool", case="a", groups=groups, known=known)
    assert read.grid == GRID
    for found, value in zip(read.voxels.flat, voxels.flat, strict=True):
        assert found == group_of.get(int(value), 0)


def test_values_that_no_table_names_are_refused(tmp_path):
    path = tmp_path / "masks.nii.gz"
    for value, told in ((4, r"\[4\]"), (900, r"\[900\]")):
        write_volume(Volume(np.full(GRID.shape, value, np.uint16), GRID), path)
        with pytest.raises(SourceError, match=f"^a: Tool wrote the values {told}, which its table"):
            read_output(path, tool="Tool", case="a", groups=[[5]], known=[5, 1])


def test_a_tool_that_writes_nothing_has_failed(tmp_path):
    with pytest.raises(SourceError, match=r"^a: Tool ended without an error, but wrote no label map"):
        read_output(tmp_path / "none.nii.gz", tool="Tool", case="a", groups=[[1]], known=[1])


def test_tools_get_nifti(tmp_path):
    voxels = np.arange(12, dtype=np.int16).reshape(GRID.shape)
    nrrd, nifti = tmp_path / "image.nrrd", tmp_path / "other.nii"
    for path in (nrrd, nifti):
        write_volume(Volume(voxels, GRID), path)
    assert nifti_of(nifti, tmp_path) == nifti
    copy = read_volume(nifti_of(nrrd, tmp_path))
    assert copy.grid.difference(GRID) is None
    np.testing.assert_array_equal(copy.voxels, voxels)


def test_a_channel_that_a_case_does_not_have_is_refused(tmp_path):
    case = Case("a", (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"), None, "a")
    assert image_of(case, 1).name == "a_0001.nii.gz"
    for channel in (2, -1):
        with pytest.raises(SourceError, match=f"^a: no channel {channel}; it has 2, counted from 0"):
            image_of(case, channel)


def test_a_package_that_is_not_installed_is_named_with_its_extra():
    with pytest.raises(SourceError, match=r'^nosuchtool is not .* `pip install "backsplit\[vibe\]"`$'):
        installed_version("nosuchtool", extra="vibe")


def test_the_hash_is_of_names_and_contents_and_not_of_the_place(tmp_path):
    model = tmp_path / "one" / "model"
    for name in ("fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth", "plans.json"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    (model / "progress.png").write_text("of no weight")
    first = hash_weights([model], model.parent)
    copy = shutil.copytree(model, tmp_path / "two" / "model")
    (copy / "progress.png").unlink()
    assert hash_weights([copy], copy.parent) == first
    (copy / "fold_0").rename(copy / "fold_2")
    assert hash_weights([copy], copy.parent) != first
    (copy / "fold_2").rename(copy / "fold_0")
    (copy / "fold_0" / "checkpoint_final.pth").write_text("other")
    assert hash_weights([copy], copy.parent) != first


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "plans.json").write_text("{}")
    with pytest.raises(SourceError, match=r"holds no trained weights \(fold_\*/\*\.pth\); remove it"):
        hash_weights([tmp_path], tmp_path)
