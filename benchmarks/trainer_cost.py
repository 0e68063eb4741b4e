"""What an epoch of our binary arm costs beside stock nnU-Net's trainer, on the same data, network and device.

Run:  .venv/bin/python benchmarks/trainer_cost.py [FOLDER]

Epochs of both take turns in one process, with loading, augmentation, validation, logs and checkpoints; augmentation
runs in the process itself. Stock nnU-Net computes in float32 on a CPU, so ours is timed in float32, and as it comes.
Both run the same convolutions on the same number of voxels, so 1 is the limit at equal precision.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from backsplit.cli.main import main
from backsplit.experiments.paths import Workspace
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import Arm, ArmSettings, Budget, dataset_json_of_arm, plans_of_arm
from backsplit.nnunet.folders import Folders, output_to
from backsplit.nnunet.trainer import BackSplitTrainer, RunSettings
from backsplit.nnunet.training import Prepared, default_device, open_prepared

EPOCHS, ITERATIONS, VALIDATION_ITERATIONS = 6, 10, 2  # the first epoch of each warms up and does not count
FEATURES, PATCH, BATCH = (16, 32, 64, 96), (40, 40, 40), 2


class Timed:
    """A trainer, and the seconds of each of its epochs."""

    def __init__(self, trainer: nnUNetTrainer) -> None:
        self.trainer: Any = trainer  # nnU-Net's attributes are None until it starts
        trainer.num_epochs = EPOCHS
        trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = ITERATIONS, VALIDATION_ITERATIONS
        trainer.on_train_start()
        self.seconds: list[float] = []

    def epoch(self) -> None:
        """One epoch, as `run_training` does it."""
        started, trainer = time.perf_counter(), self.trainer
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        steps = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(ITERATIONS)]
        trainer.on_train_epoch_end(steps)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            batches = [next(trainer.dataloader_val) for _ in range(VALIDATION_ITERATIONS)]
            trainer.on_validation_epoch_end([trainer.validation_step(batch) for batch in batches])
        trainer.on_epoch_end()
        self.seconds.append(time.perf_counter() - started)


def prepared_phantom(root: Path) -> Prepared:
    """The demo's data, composed of targets alone, so that stock nnU-Net can train on it too."""
    workspace = Workspace(root)
    commands: list[Sequence[object]] = [
        ("convert", "phantom", root / "phantom", "--num-cases", 10),
        ("compose", root / "phantom", "--targets", "cyst", "--workspace", root),
        ("prepare", "--workspace", root, "--features", *FEATURES, "--patch-size", *PATCH, "--batch-size", BATCH),
    ]
    for command in commands:
        if main([str(word) for word in command]):
            raise SystemExit(1)
    folders = Folders(workspace.raw, workspace.preprocessed, workspace.results).activate()
    return open_prepared(folders, json.loads(workspace.preparation.read_text())["dataset"])


def ours(prepared: Prepared, device: torch.device, precision: str) -> Timed:
    """Our binary arm, filed under its precision."""
    settings = ArmSettings(
        Arm("binary"), LabelScheme(("cyst",)), Budget(EPOCHS, ITERATIONS, VALIDATION_ITERATIONS), chosen_name=precision
    )
    plans = plans_of_arm(prepared.plans, settings)
    trainer = BackSplitTrainer(plans, "3d_fullres", 0, dataset_json_of_arm(prepared.dataset_json, settings), device)
    trainer.run_settings = RunSettings(device, precision=precision)
    return Timed(trainer)


def stock(prepared: Prepared, device: torch.device) -> Timed:
    """nnU-Net's own trainer on the same plan."""
    description = {key: value for key, value in prepared.dataset_json.items() if key != "dataset"}
    return Timed(nnUNetTrainer({**prepared.plans, "continue_training": False}, "3d_fullres", 0, description, device))


def measure(root: Path) -> str:
    """A table of medians and ratios."""
    prepared, device = prepared_phantom(root), default_device()
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  nnU-Net's spelling; its planner cannot take it
    with output_to(root / "trainers.log"):
        trainers = {
            "stock nnUNetTrainer": stock(prepared, device),
            "ours, same precision": ours(prepared, device, "auto" if device.type == "cuda" else "float32"),
            "ours, as it comes": ours(prepared, device, "auto"),
        }
        for _ in range(EPOCHS):
            for timed in trainers.values():
                timed.epoch()
    seconds = {name: median(timed.seconds[1:]) / ITERATIONS for name, timed in trainers.items()}
    base = seconds["stock nnUNetTrainer"]
    lines = ["| trainer | s per iteration, all included | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {value:.3f} | {value / base:.3f} |" for name, value in seconds.items()]
    lines += ["", f"{device}, {torch.get_num_threads()} threads, U-Net {FEATURES}, patch {PATCH}, batch {BATCH}."]
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(measure(Path(sys.argv[1] if len(sys.argv) > 1 else scratch)))
