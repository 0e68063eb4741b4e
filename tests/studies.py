"""A study of minutes shrunk to seconds: the commands as a user types them, on a tiny phantom and a tiny network."""

import json
import os
import subprocess
import sys
from pathlib import Path

from backsplit.cli import main

AUXILIARIES = ("kidney", "liver", "bowel")
TINY_NETWORK = ("--features", "4", "8", "--patch-size", "16", "16", "16", "--batch-size", "2")
TINY_BUDGET = ("--epochs", "2", "--iterations", "3", "--workers", "0", "--device", "cpu")

TINY_RECIPE = """\
name: tiny
data:
  ct:
    phantom: {num_cases: 4, size: 32}
    targets: [cyst]
    auxiliaries: [kidney, liver]
    prepare: {patch_size: [16, 16, 16], features: [4, 8], batch_size: 2, folds: 2}
networks: {unet: }
arms: {binary: , backsplit: }
folds: [0]
budget: {name: demo, epochs: 2, iterations: 3}
predict: {mirroring: false}
metrics: {tolerance_mm: [10]}
"""


def run(*arguments: object) -> None:
    """Run one command in this process; it must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start one command in a process of its own."""
    command = [sys.executable, "-m", "backsplit", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(*arguments: object) -> tuple[int, str]:
    """Run one command in a process of its own; exit status and everything it printed."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def compose_phantom(folder: Path, *, num_cases: int, seed: int = 0) -> Path:
    """A composed phantom cohort of 32 x 32 x 32 voxels; its folder."""
    run("convert", "phantom", folder / "drawn", "--num-cases", num_cases, "--size", 32, "--seed", seed)
    composed = folder / "composed"
    run("compose", folder / "drawn", "--targets", "cyst", "--auxiliaries", *AUXILIARIES, "--output", composed)
    return composed


def link_hippocampus(real_data: Path, folder: Path, num_cases: int) -> Path:
    """A raw data set of a few real cases, linked; its folder."""
    source = real_data / "hippocampus"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for path in sorted((source / part).iterdir())[:num_cases]:
            (folder / part / path.name).symlink_to(path)
    description = json.loads((source / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": num_cases}))
    return folder


def prepare(cohort: Path, workspace: Path) -> None:
    """Preprocess for a network of two stages, in two folds."""
    run("prepare", cohort, "--workspace", workspace, *TINY_NETWORK, "--folds", 2, "--processes", 1)


def train(workspace: Path, arm: str, *extra: object) -> None:
    """Six iterations of one arm."""
    run("train", "--arm", arm, "--workspace", workspace, *TINY_BUDGET, *extra)
