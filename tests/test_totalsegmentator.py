"""The real TotalSegmentator, offline, on networks of kilobytes in its official layout."""

import importlib
import json
import os
import pickle
import re
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
from backsplit.sources.totalsegmentator import DOWNLOADS, TotalSegmentatorSource, open_totalsegmentator
from backsplit.volume import read_grid
from tinytools import NO_NETWORK, names_of, without_network, write_totalsegmentator

LOBES = {"left": (10, 11), "right": (12, 13, 14)}
FAVOURITES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_lower_lobe_right",
    "spleen",
)
CHOICE = {"task": "total", "fast": True, "structures": None, "device": "cpu", "channel": 0, "force": False}


def opened(**choices) -> TotalSegmentatorSource:
    return open_totalsegmentator(**CHOICE | choices)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The fast models; that of CT chooses between the lobes and the spleen, that of MR finds nothing but liver."""
    root = tmp_path_factory.mktemp("weights")
    for number in (297, 298):
        write_totalsegmentator(root, number, FAVOURITES)
    write_totalsegmentator(root, 852, ("liver",))
    return root


def case_of(real_data: Path, name: str) -> Case:
    return Case(name, (real_data / "totalsegmentator" / f"{name}.nii.gz",), None, name)


def start_directly(image: Path, root: Path, folder: Path) -> subprocess.Popen:
    """Fast CT masks by the tool's own module, of a model that names nnU-Net's default trainer, without our launcher."""
    write_totalsegmentator(root, 297, FAVOURITES, stored="nnUNetTrainer")
    home = folder / "home"
    home.mkdir()
    settings = {"totalseg_id": "", "send_usage_stats": False, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(settings))
    environment = {**os.environ, "TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(root)}
    command = [sys.executable, "-m", "totalsegmentator.bin.TotalSegmentator", "--ml", "--fast", "-d", "cpu", "-q"]
    return subprocess.Popen([*command, "-i", image, "-o", folder / "masks.nii.gz"], env=environment)


@pytest.mark.slow
def test_lungs_are_those_of_a_direct_call_and_no_network_is_tried(real_data, root, tmp_path, monkeypatch):
    case = case_of(real_data, "example_ct_sm")
    direct_call = start_directly(case.images[0], tmp_path / "direct weights", tmp_path)
    log = without_network(tmp_path / "no network", monkeypatch)
    source = opened(structures=("lung_right", "spleen", "lung_left"), weights=root)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with direct_call:
        masks = source.segment(case, scratch)
    assert direct_call.returncode == 0
    direct = np.asarray(nib.load(tmp_path / "masks.nii.gz").dataobj)
    assert set(log.read_text().splitlines()) == {"loaded"}
    assert masks.volume.grid.difference(read_grid(case.images[0])) is None
    for value, tools in ((1, LOBES["right"]), (2, (1,)), (3, LOBES["left"])):
        assert np.isin(direct, tools).any()
        np.testing.assert_array_equal(masks.volume.voxels == value, np.isin(direct, tools))
    assert masks.details["totalsegmentator_version"] == version("TotalSegmentator")
    assert sorted(masks.details["roi_subset"]) == sorted((*FAVOURITES, "lung_middle_lobe_right"))
    assert str(tmp_path) not in json.dumps(dict(masks.details))
    assert str(real_data) not in json.dumps(dict(masks.details))


@pytest.mark.slow
def test_a_class_that_wins_everywhere_has_its_name_everywhere(real_data, root, tmp_path):
    source = opened(task="total_mr", weights=root)
    assert source.structures == tuple(names_of(852).values())
    masks = pickle.loads(pickle.dumps(source)).segment(case_of(real_data, "example_mr_sm"), tmp_path)
    values, counts = np.unique(masks.volume.voxels, return_counts=True)
    assert tuple(values) == (0, 1 + source.structures.index("liver"))  # 0 where nnU-Net crops zeros off
    assert counts[1] > 0.9 * masks.volume.voxels.size
    assert masks.annotated is None


def test_a_crash_is_told_with_the_last_lines_of_the_tool(real_data, tmp_path, capsys):
    folder = write_totalsegmentator(tmp_path, 852)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"damaged")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(SourceError, match=r"^example_mr_sm: TotalSegmentator ended with .* 1; .*UnpicklingError: \w+"):
        opened(task="total_mr", weights=tmp_path).segment(case_of(real_data, "example_mr_sm"), scratch)
    assert "Traceback" in capsys.readouterr().out


def test_the_ban_on_the_network_would_be_noticed(tmp_path, monkeypatch):
    log = without_network(tmp_path / "no network", monkeypatch)
    fetch = "import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=1)"
    assert subprocess.run([sys.executable, "-c", fetch], capture_output=True, check=False).returncode == 1
    assert re.match(r"loaded\nattempt \(\('192\.0\.2\.1', 80\)", log.read_text())
    assert "AF_UNIX" in NO_NETWORK


def test_the_record_says_how_and_where_nothing_is(root):
    source = opened(weights=root, structures=("liver",))
    assert isinstance(source, MaskSource)
    how = json.loads(json.dumps(dict(source.how)))
    assert how == {
        "tool": "TotalSegmentator",
        "version": version("TotalSegmentator"),
        "weights": {"sha256": how["weights"]["sha256"], "models": how["weights"]["models"]},
        "licence": "Apache-2.0",
        "task": "total",
        "fast": True,
        "subset": True,
        "channel": 0,
    }
    assert [name[:10] for name in how["weights"]["models"]] == ["Dataset297", "Dataset298"]
    assert len(how["weights"]["sha256"]) == 64
    assert opened(weights=root, structures=("spleen",)).how == source.how
    assert opened(weights=root).how["weights"] != source.how["weights"]
    assert str(root) not in json.dumps(how)


def test_lesions_are_left_out_unless_forced(root):
    own = tuple(names_of(297).values())
    cysts = {"kidney_cyst_left", "kidney_cyst_right"}
    assert opened(weights=root).structures == tuple(name for name in own if name not in cysts)
    assert opened(weights=root, force=True).structures == own
    with pytest.raises(SourceError, match="'kidney_cyst_left' is a lesion"):
        opened(weights=root, structures=("liver", "kidney_cyst_left"))


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"structures": ("lung_left", "lung_upper_lobe_left")}, "'lung_upper_lobe_left' is also part of another"),
        ({"structures": ("livr",)}, "'livr' is not among 119 of this source; near it: liver"),
        ({"task": "total_mr", "structures": ("lung_upper_lobe_left",)}, "is not among 50"),
    ],
)
def test_structures_that_cannot_be_had_are_refused(root, choices, told):
    with pytest.raises(SourceError, match=told):
        opened(weights=root, **choices)


@pytest.mark.parametrize(
    ("choices", "models", "downloads"),
    [
        ({"fast": True}, (297,), ("total_fast",)),
        ({"fast": True, "structures": ("liver",)}, (297, 298), ("total_fast",)),
        ({"fast": False}, (291, 292, 293, 294, 295), ("total",)),
        ({"fast": False, "structures": ("liver",)}, (291, 292, 293, 294, 295, 298), ("total",)),
        ({"task": "total_mr", "fast": True, "structures": ("liver",)}, (852,), ("total_fast_mr",)),
        ({"task": "total_mr", "fast": False}, (850, 851), ("total_mr",)),
        ({"task": "total_mr", "fast": False, "structures": ("liver",)}, (850, 851, 852), ("total_mr", "total_fast_mr")),
    ],
)
def test_missing_weights_are_told_before_any_case(tmp_path, choices, models, downloads):
    with pytest.raises(SourceError) as caught:
        opened(weights=tmp_path, **choices)
    told = str(caught.value)
    assert [int(number) for number in re.findall(r"Dataset(\d+)_Total", told)] == list(models)
    fetch = " && ".join(f"TOTALSEG_WEIGHTS_PATH={tmp_path} totalseg_download_weights -t {it}" for it in downloads)
    assert f"in {tmp_path}; get them with `{fetch}` (licence of the weights: Apache-2.0)" in told
    assert "\n" not in told


def test_the_table_of_downloads_is_that_of_the_tool():
    theirs = importlib.import_module("totalsegmentator.bin.totalseg_download_weights").TASK_TO_ID
    assert {name: tuple(theirs[name]) for name in DOWNLOADS} == DOWNLOADS


def test_without_a_folder_weights_are_sought_where_the_tool_seeks_them(tmp_path, monkeypatch):
    theirs = importlib.import_module("totalsegmentator.config").get_weights_dir
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.delenv("TOTALSEG_HOME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for variable, folder in ((None, None), ("TOTALSEG_HOME_DIR", "home"), ("TOTALSEG_WEIGHTS_PATH", "weights")):
        if variable is not None:
            monkeypatch.setenv(variable, str(tmp_path / folder))
        with pytest.raises(SourceError, match=f" in {re.escape(str(theirs()))}; get them"):
            opened(weights=None)


def test_a_tool_that_is_not_installed_is_told_with_the_command(monkeypatch, tmp_path):
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("backsplit.sources.process.version", version)
    with pytest.raises(
        SourceError, match=r'TotalSegmentator is not installed; .* `pip install "backsplit\[totalseg\]"`'
    ):
        opened(weights=tmp_path)
