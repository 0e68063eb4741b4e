"""The real VIBESegmentator, as TPTBox runs it, on a network of kilobytes in its layout."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources.protocol import MaskSource
from backsplit.sources.vibesegmentator import VibeSegmentatorSource, open_vibesegmentator
from backsplit.volume import Grid, Volume, read_grid, write_volume
from tinytools import without_network, write_vibesegmentator

CHOICE = {"structures": None, "device": "cpu", "channel": 0, "force": False}
DIRECT = """
import sys
from TPTBox.segmentation import run_vibeseg
image, output, root = sys.argv[1:]
run_vibeseg(image, output, ddevice="cpu", dataset_id=100, model_path=root, memory_base=5500, memory_factor=25)
"""


def opened(**choices) -> VibeSegmentatorSource:
    return open_vibesegmentator(**CHOICE | choices)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_vibesegmentator(root)
    return root


@pytest.fixture
def case(real_data) -> Case:
    return Case("mr", (real_data / "totalsegmentator" / "example_mr_sm.nii.gz",), None, "mr")


@pytest.mark.slow
def test_masks_are_those_of_a_direct_call_and_no_network_is_tried(case, root, tmp_path, monkeypatch):
    direct_call = subprocess.Popen([sys.executable, "-c", DIRECT, case.images[0], tmp_path / "direct.nii.gz", root])
    values = {name: value for value, name in names().items()}
    log = without_network(tmp_path / "no network", monkeypatch)
    source = opened(weights=root / "nnUNet_results")
    with direct_call:
        masks = source.segment(case, tmp_path)
    assert direct_call.returncode == 0
    direct = np.asarray(nib.load(tmp_path / "direct.nii.gz").dataobj)
    assert set(log.read_text().splitlines()) == {"loaded"}
    assert masks.volume.grid.difference(read_grid(case.images[0])) is None
    assert np.unique(direct).size > 5
    for index, structure in enumerate(source.structures, start=1):
        np.testing.assert_array_equal(masks.volume.voxels == index, direct == values[structure])


def test_a_crash_is_told_with_the_last_lines_of_the_tool(case, tmp_path, capsys):
    folder = write_vibesegmentator(tmp_path)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"damaged")
    with pytest.raises(SourceError, match=r"^mr: VIBESegmentator ended with exit status 1; .*UnpicklingError: \w+"):
        opened(weights=tmp_path).segment(case, tmp_path)
    assert "Traceback" in capsys.readouterr().out


def test_an_image_that_the_tool_passes_over_in_silence_is_a_failure(root, tmp_path):
    grid = Grid((20, 20, 1), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    write_volume(Volume(np.ones(grid.shape, np.float32), grid), tmp_path / "slice.nrrd")
    case = Case("slice", (tmp_path / "slice.nrrd",), None, "slice")
    with pytest.raises(SourceError, match=r"^slice: VIBESegmentator ended without an error, but wrote no label map"):
        opened(weights=root).segment(case, tmp_path)


def names() -> dict[int, str]:
    return importlib.import_module("TPTBox.segmentation.VibeSeg.vibeseg").VibeSeg_map


def test_structures_are_those_of_the_tool_but_for_what_it_calls_unused(root):
    source = opened(weights=root)
    assert source.structures == tuple(name for value, name in names().items() if value != 20)
    assert isinstance(source, MaskSource)
    with pytest.raises(SourceError, match="'livr' is not among 71 of this source; near it: liver"):
        opened(weights=root, structures=("livr",))


def test_the_record_says_how_and_that_the_licence_is_unconfirmed(root, tmp_path):
    how = json.loads(json.dumps(dict(opened(weights=root).how)))
    assert how["version"] == f"TPTBox {version('TPTBox')}, model 100"
    assert "unconfirmed" in how["licence"]
    assert str(root) not in json.dumps(how)
    copy = shutil.copytree(root, tmp_path / "copy")
    assert opened(weights=copy).how == how
    write_vibesegmentator(copy, ("liver",))
    assert opened(weights=copy).how != how


def test_missing_weights_are_told_before_any_case(tmp_path, monkeypatch):
    command = (
        f"VIBESEG_WEIGHTS_PATH={tmp_path}/nnUNet_results python -c 'from TPTBox.*download_weights as get; get\\(100\\)'"
    )
    with pytest.raises(
        SourceError, match=f"no weights Dataset100 in {tmp_path}/nnUNet_results; get them with `{command}`"
    ):
        opened(weights=tmp_path)
    monkeypatch.setenv("VIBESEG_WEIGHTS_PATH", str(tmp_path / "nnUNet_results"))
    with pytest.raises(SourceError, match=f" in {tmp_path}/nnUNet_results; get them"):
        opened(weights=None)
    monkeypatch.delenv("VIBESEG_WEIGHTS_PATH")
    package = Path(importlib.import_module("TPTBox").__path__[0])
    with pytest.raises(
        SourceError, match=f" in {re.escape(str(package))}/segmentation/nnUNet/nnUNet_results; get them"
    ):
        opened(weights=None)


def test_two_models_of_one_number_are_refused(root, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "nnUNet_results" / "Dataset100_old").mkdir()
    with pytest.raises(SourceError, match="several folders for 100: Dataset100, Dataset100_old; leave one"):
        opened(weights=tmp_path)


def test_a_tool_that_is_not_installed_is_told_with_the_command(monkeypatch, tmp_path):
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("backsplit.sources.process.version", version)
    with pytest.raises(
        SourceError, match=r'TPTBox is not installed; install it with `pip install "backsplit\[vibe\]"`'
    ):
        opened(weights=tmp_path)
