"""Weights of TotalSegmentator and of VIBESegmentator in their official layout, with networks of kilobytes."""

import importlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from tinymodels import write_model

CT_TRAINER, MR_TRAINER = "nnUNetTrainer_4000epochs_NoMirroring", "nnUNetTrainer_2000epochs_NoMirroring"
PARTS_TRAINER = "nnUNetTrainerNoMirroring"
PATCH = (32, 104, 128)
"""Holds the small examples at 3 mm in one tile."""


def write_totalsegmentator(
    root: Path, number: int, favourites: Collection[str] = (), *, patch_size: Sequence[int] = PATCH, stored: str = ""
) -> Path:
    """One data set's folder below the root of the weights, with all the classes of that model.

    Args:
        root: of the weights.
        number: 291 to 295, 297, 298 (CT), 850 to 853 (MR).
        favourites: classes between which the network chooses, by chance; none for all.
        patch_size: (z, y, x).
        stored: the trainer that the checkpoint names; empty for that of the official weights.
    """
    is_mr = number >= 850
    tables = importlib.import_module("totalsegmentator.map_tasks_config")
    dataset = root / tables.TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]
    trainer = PARTS_TRAINER if 291 <= number <= 295 else MR_TRAINER if is_mr else CT_TRAINER
    folder = dataset / f"{trainer}__nnUNetPlans__3d_fullres"
    mm = {297: 3.0, 298: 6.0, 852: 3.0, 853: 6.0}.get(number, 1.5)
    settings = {"spacing": (mm, mm, mm), "channel_names": ("MRI" if is_mr else "CT",), "patch_size": patch_size}
    _write(folder, names_of(number), favourites, settings | {"trainer_name": stored or trainer})
    return folder


def names_of(number: int) -> dict[int, str]:
    """Label values of one of TotalSegmentator's models."""
    maps = importlib.import_module("totalsegmentator.map_to_binary")
    if 291 <= number <= 295:
        return maps.class_map_5_parts[maps.map_taskid_to_partname_ct[number]]
    if number in {850, 851}:
        return maps.class_map_parts_mr[maps.map_taskid_to_partname_mr[number]]
    return maps.class_map["total_mr" if number >= 850 else "total"]


def write_vibesegmentator(root: Path, favourites: Collection[str] = ()) -> Path:
    """Model 100 below `root/nnUNet_results`; arguments as above."""
    names = importlib.import_module("TPTBox.segmentation.VibeSeg.vibeseg").VibeSeg_map
    folder = root / "nnUNet_results" / "Dataset100" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    settings = {"spacing": (3.0, 3.0, 3.0), "channel_names": ("MRI",), "patch_size": PATCH}
    _write(folder, names, favourites, settings)
    return folder


def _write(folder: Path, names: dict[int, str], favourites: Collection[str], settings: dict) -> None:
    labels = {"background": 0} | {name: value for value, name in names.items()}
    weights = write_model(folder, labels, **settings).state_dict()
    if favourites:
        bias = max(name for name in weights if name.startswith("decoder.seg_layers") and name.endswith("bias"))
        for name in favourites:
            weights[bias][labels[name]] += 100
        write_model(folder, labels, **settings, weights=weights)


NO_NETWORK = """
import os, socket

def tell(what):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(what + "\\n")

def refuse(*arguments, **options):
    tell(f"attempt {arguments}")
    raise OSError("no network in this test")

real_connect = socket.socket.connect

def connect(self, address):
    return real_connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
tell("loaded")
"""


def without_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Refuse the network to every Python that is started from now on.

    Returns:
        Log of theirs: `loaded` for each process that the ban reached, `attempt ...` for each that tried.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.setenv("NETWORK_LOG", str(folder / "log"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    )
    return folder / "log"
