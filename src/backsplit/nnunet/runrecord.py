"""On what a training ran, for the page about it; beside its log, and written again when it resumes."""

import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from backsplit.files import write_json

RUN_NAME = "run.json"
PACKAGES = ("backsplit", "nnunetv2", "torch", "numpy")


def write_run_record(network: torch.nn.Module, device: torch.device, num_processes: int, folder: Path) -> None:
    """Note command, machine, versions and number of parameters."""
    record = {
        "command": shlex.join(["backsplit", *sys.argv[1:]]),
        "parameters": sum(each.numel() for each in network.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": num_processes,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {package: version(package) for package in PACKAGES},
    }
    write_json(record, folder / RUN_NAME)


def read_run_record(folder: Path) -> dict[str, Any]:
    """The record of the training in a fold's folder; empty if it was made before there were records."""
    path = folder / RUN_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
