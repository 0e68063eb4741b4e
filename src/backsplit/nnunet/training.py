"""Train one arm on one fold; a second call goes on where the first was stopped."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from backsplit.errors import ConfigurationError, ModelError
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import BLOCK, SHARED_PLANS, ArmSettings, Plans, dataset_json_of_arm, flat, plans_of_arm
from backsplit.nnunet.dataset import IGNORE
from backsplit.nnunet.folders import Folders, output_to
from backsplit.nnunet.networks import CONFIGURATION_OF
from backsplit.nnunet.preparation import marker_path
from backsplit.nnunet.processes import run_on
from backsplit.nnunet.start import load_start
from backsplit.nnunet.stopping import ignoring, listening
from backsplit.nnunet.trainer import BackSplitTrainer, RunSettings

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
        names = tuple(name for name in self.dataset_json["labels"] if name != IGNORE)
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


def model_folder(folders: Folders, dataset: str, settings: ArmSettings) -> Path:
    """Where the folds of a training lie, in nnU-Net's layout."""
    name = f"{BackSplitTrainer.__name__}__{settings.name}__{CONFIGURATION_OF[settings.network]}"
    return folders.results / dataset / name


def find_model(folders: Folders, dataset: str, name: str) -> Path:
    """The model folder of the training of this name.

    Raises:
        ModelError: there is none.
    """
    found = sorted((folders.results / dataset).glob(f"{BackSplitTrainer.__name__}__{name}__*"))
    if not found:
        trained = [folder.name.split("__")[1] for folder in sorted((folders.results / dataset).glob("*__*__*"))]
        raise ModelError(
            f"no arm {name!r} is trained in {folders.results / dataset}; it has {', '.join(trained) or 'none'}"
        )
    return found[0]


def train(
    prepared: Prepared,
    settings: ArmSettings,
    folders: Folders,
    *,
    fold: int,
    run: RunSettings,
) -> Path:
    """Train to the end of the budget; return the final checkpoint.

    A finished training is left alone, an interrupted one resumes at its last whole epoch and, on the same machine and
    number of threads, ends in the same weights as one that was never interrupted. SIGUSR1 stops it after the epoch.

    Args:
        prepared: data to train on.
        settings: the arm.
        folders: nnU-Net's roots.
        fold: whose validation cases are left out.
        run: devices, workers, precision, checkpoints to keep.

    Raises:
        ConfigurationError: no such fold, a patch that the network cannot take, or a batch that cannot be shared.
        ModelError: a training of this arm and fold exists with other settings, or the start does not fit.
        StoppedError: SIGUSR1 came before the last epoch.
    """
    folders = folders.activate()
    if not 0 <= fold < prepared.num_folds:
        raise ConfigurationError(f"fold {fold} does not exist; {prepared.name} has folds 0 to {prepared.num_folds - 1}")
    home = model_folder(folders, prepared.name, settings)
    plans = plans_of_arm(prepared.plans, settings)
    ((configuration, chosen),) = plans["configurations"].items()
    if chosen["batch_size"] % run.num_processes:
        raise ConfigurationError(
            f"a batch of {chosen['batch_size']} cannot be shared by {run.num_processes} processes; use --batch-size "
            f"with a multiple of {run.num_processes}"
        )
    _refuse_other_settings(home, plans)
    final = home / f"fold_{fold}" / FINAL
    if final.exists():
        logger.info("%s, fold %d is already trained", settings.name, fold)
        return final
    job = _Job(plans, configuration, fold, dataset_json_of_arm(prepared.dataset_json, settings), run, home)
    with ignoring():
        run_on(run.num_processes, _train, job, device=run.device)
    return final


class _Job(NamedTuple):
    """What each process of a training is told."""

    plans: Plans
    configuration: str
    fold: int
    dataset_json: dict
    run: RunSettings
    home: Path


def _train(job: _Job, device: torch.device) -> None:
    latest = job.home / f"fold_{job.fold}" / LATEST
    with output_to(job.home / f"fold_{job.fold}" / "nnunet.log"), listening() as is_asked_to_stop:
        trainer = BackSplitTrainer(job.plans, job.configuration, job.fold, job.dataset_json, device)
        trainer.run_settings = job.run
        trainer.is_asked_to_stop = is_asked_to_stop.is_set
        if latest.exists():
            trainer.load_checkpoint(str(latest))
            logger.info("%s, fold %d resumes after epoch %d", trainer.settings.name, job.fold, trainer.current_epoch)
        elif trainer.settings.start is not None:
            trainer.initialize()
            load_start(trainer.settings, trainer.bare_network, latest.parent)
        trainer.run_training()


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
