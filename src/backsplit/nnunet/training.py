"""Train one arm on one fold; a second call goes on where the first was stopped."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from backsplit.errors import ConfigurationError, ModelError
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import BLOCK, SHARED_PLANS, ArmSettings, Plans, dataset_json_of_arm, flat, plans_of_arm
from backsplit.nnunet.folders import Folders, output_to
from backsplit.nnunet.plans import CONFIGURATION
from backsplit.nnunet.preparation import marker_path
from backsplit.nnunet.trainer import BackSplitTrainer

logger = logging.getLogger(__name__)
FINAL, LATEST = "checkpoint_final.pth", "checkpoint_latest.pth"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set that is ready to train on."""

    name: str
    plans: Plans
    dataset_json: dict
    num_folds: int

    @property
    def scheme(self) -> LabelScheme:
        """The fine classes of the preprocessed labels."""
        names = tuple(self.dataset_json["labels"])
        num_targets = self.plans[BLOCK]["num_targets"]
        return LabelScheme(names[1 : num_targets + 1], names[num_targets + 1 :])


def open_prepared(folders: Folders, dataset: str) -> Prepared:
    """Read what `backsplit prepare` wrote.

    Raises:
        ConfigurationError: it has not finished.
    """
    marker = marker_path(folders, dataset)
    if not marker.exists():
        raise ConfigurationError(f"{dataset} is not prepared in {marker.parent}; run `backsplit prepare` first")
    home = marker.parent
    read = {name: json.loads((home / f"{name}.json").read_text()) for name in (SHARED_PLANS, "dataset", "splits_final")}
    return Prepared(dataset, read[SHARED_PLANS], read["dataset"], len(read["splits_final"]))


def model_folder(folders: Folders, dataset: str, arm: str) -> Path:
    """Where the folds of an arm lie, in nnU-Net's layout."""
    return folders.results / dataset / f"{BackSplitTrainer.__name__}__{arm}__{CONFIGURATION}"


def train(
    prepared: Prepared, settings: ArmSettings, folders: Folders, *, fold: int, device: torch.device, num_workers: int
) -> Path:
    """Train to the end of the budget; return the final checkpoint.

    A finished training is left alone, an interrupted one resumes at its last whole epoch and, on the same machine and
    number of threads, ends in the same weights as one that was never interrupted.

    Raises:
        ConfigurationError: no such fold.
        ModelError: a training of this arm and fold exists with other settings.
    """
    folders = folders.activate()
    if not 0 <= fold < prepared.num_folds:
        raise ConfigurationError(f"fold {fold} does not exist; {prepared.name} has folds 0 to {prepared.num_folds - 1}")
    home = model_folder(folders, prepared.name, settings.arm)
    plans = plans_of_arm(prepared.plans, settings)
    _refuse_other_settings(home, plans)
    final, latest = (home / f"fold_{fold}" / name for name in (FINAL, LATEST))
    if final.exists():
        logger.info("%s, fold %d is already trained", settings.arm, fold)
        return final
    with output_to(home / f"fold_{fold}" / "nnunet.log"):
        trainer = BackSplitTrainer(
            plans, CONFIGURATION, fold, dataset_json_of_arm(prepared.dataset_json, settings), device
        )
        trainer.num_workers = num_workers
        if latest.exists():
            trainer.load_checkpoint(str(latest))
            logger.info("%s, fold %d resumes after epoch %d", settings.arm, fold, trainer.current_epoch)
        trainer.run_training()
    return final


def _refuse_other_settings(home: Path, plans: Plans) -> None:
    stored = home / "plans.json"
    if not stored.exists() or not any(home.glob("fold_*/checkpoint_*.pth")):
        return
    old, new = dict(flat(json.loads(stored.read_text()))), dict(flat(json.loads(json.dumps(plans))))
    changed = [f"{key} {old.get(key)} then, {new.get(key)} now" for key in new if old.get(key) != new.get(key)]
    if changed:
        raise ModelError(
            f"{home.name} was trained with other settings ({'; '.join(changed)}); "
            "use those again, another --workspace, or remove the folder"
        )


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_num_workers(device: torch.device) -> int:
    """Augmentation processes: nnU-Net's variable if set, else none on a CPU, up to 12 beside a GPU.

    On a CPU they would take the cores that the network needs; measured on two cores, one worker made it 8 % slower.
    """
    if (chosen := os.environ.get("nnUNet_n_proc_DA")) is not None:  # noqa: SIM112  nnU-Net's spelling
        return int(chosen)
    return 0 if device.type == "cpu" else min(12, os.cpu_count() or 1)
