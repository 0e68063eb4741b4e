"""The commands of the README that add masks, as they stand there, with the real tools on networks of kilobytes."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backsplit import cases
from backsplit.volume import Volume, read_labels, write_volume
from studies import run
from tinyinteractive import write_interactive_model
from tinymodels import write_model
from tinytools import without_network, write_totalsegmentator, write_vibesegmentator

README = Path(__file__).parents[1] / "README.md"
LIVER, SPLEEN = 5, 1
ORGANS = {"background": 0, "liver": 1, "spleen": 2}


def commands() -> list[list[str]]:
    section = README.read_text().partition("## Auxiliary masks")[2].partition("\n## ")[0]
    return [shlex.split(line)[1:] for line in re.findall(r"^    (backsplit .*)$", section, flags=re.MULTILINE)]


@pytest.fixture
def home(real_data, tmp_path, monkeypatch) -> Path:
    """A folder with a cohort of one real CT, masks of one's own, a zipped model, and weights where the tools look."""
    real = real_data / "totalsegmentator"
    organs = read_labels(real / "example_seg.nii.gz")
    labels = np.where(organs.voxels == LIVER, 2, 0).astype(np.uint8)
    labels[60:64, 50:54, 14:18] = 1
    for part, volume in {"labelsTr": Volume(labels, organs.grid), "imagesTr": None}.items():
        (tmp_path / "raw" / part).mkdir(parents=True)
        if volume is not None:
            write_volume(volume, tmp_path / "raw" / part / "a.nii.gz")
    shutil.copy(real / "example_ct_sm.nii.gz", tmp_path / "raw" / "imagesTr" / "a_0000.nii.gz")
    names = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cyst": 1, "liver": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(names))
    for name, value in {"liver": LIVER, "spleen": SPLEEN}.items():
        mask = Volume((organs.voxels == value).astype(np.uint8), organs.grid)
        write_volume(mask, tmp_path / "my-masks" / "a" / f"{name}.nii.gz")
    write_weights(tmp_path / "weights", monkeypatch)
    write_model(tmp_path / "zipped" / "Dataset500_Organs" / "nnUNetTrainer__nnUNetPlans__3d_fullres", ORGANS)
    shutil.make_archive(str(tmp_path / "organs"), "zip", tmp_path / "zipped")
    monkeypatch.chdir(tmp_path)
    run("convert", "nnunet", "raw", "cohorts/ct")
    return tmp_path


def write_weights(root: Path, monkeypatch) -> None:
    for number in (297, 298):
        write_totalsegmentator(root / "ct", number, ("liver", "spleen"))
    write_vibesegmentator(root / "vibe", ("liver", "spleen"))
    write_interactive_model(root / "interactive" / "models" / "tiny", patch_size=(64, 64, 64))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(root / "ct"))
    monkeypatch.setenv("VIBESEG_WEIGHTS_PATH", str(root / "vibe"))
    monkeypatch.setenv("NNINTERACTIVE_MODEL_DIR", str(root / "interactive"))


@pytest.mark.slow
def test_the_commands_run_as_they_stand_in_the_readme(home, monkeypatch):
    log = without_network(home / "no-network", monkeypatch)
    for words in commands():
        run(*words)
    told = log.read_text().splitlines()
    assert told.count("loaded") >= len(commands()) - 1  # each source's worker, and the tools that it starts
    assert not [line for line in told if line.startswith("attempt")]
    cohort = cases.read(home / "cohorts" / "ct")
    structures = {masks.name: masks.structures for masks in cohort.masks}
    assert {"totalsegmentator", "vibesegmentator", "organs", "nninteractive", "mine", "tissue"} == set(structures)
    for name, known in structures.items():
        folder = home / "cohorts" / "ct" / "masks" / name
        record = json.loads((folder / "a.json").read_text())
        assert {"tool", "licence"} <= record["how"].keys()
        assert record["seconds"] >= 0
        assert set(pd.read_csv(folder / "quality.csv")["structure"]) == set(known)
        assert str(home) not in json.dumps(record)
    composed = cases.read(home / "backsplit-workspace" / "cohort")
    assert composed.scheme is not None
    assert composed.scheme.names == ("background", "cyst", "liver", "spleen")
    own = read_labels(composed.cases[0].masks_of("mine").path).voxels
    assert (own == 1).sum() == 64
    organs = read_labels(home / "my-masks" / "a" / "spleen.nii.gz").voxels
    np.testing.assert_array_equal(own == 3, (organs != 0) & (own != 1))
    run("annotate", "cohorts/ct", "--source", "folder", "--masks", "my-masks", "--name", "mine", "--check", "labels")
    checked = pd.read_csv(home / "cohorts" / "ct" / "masks" / "mine" / "check-labels.csv")
    assert checked["structure"].tolist() == ["liver"]
    assert checked["dice"].item() > 0.99
    assert (home / "cohorts" / "ct" / "masks" / "mine" / "check-labels.pdf").read_bytes().startswith(b"%PDF")
