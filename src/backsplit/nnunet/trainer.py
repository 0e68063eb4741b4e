"""nnU-Net's trainer, told by its plans what the arm does; the target decides what is best."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from backsplit.files import replacing
from backsplit.learning.losses import LossParts, LossWeights, SplitLoss
from backsplit.nnunet.arms import BLOCK, ArmSettings, Plans
from backsplit.nnunet.history import HISTORY_NAME, Clock, HistoryRow, read_history, write_history
from backsplit.nnunet.loader import ArmLoader, Batch, NumberedBatches, pipeline
from backsplit.progress import format_duration

logger = logging.getLogger(__name__)
GRADIENT_NORM_LIMIT = 12  # nnU-Net's
STOCK_NAME = "nnUNetTrainer"  # stored in checkpoints, so that nnU-Net alone can load and run them
ADAMW_LEARNING_RATE, ADAMW_WEIGHT_DECAY = 3e-3, 1e-2
TRAINING_STREAM, VALIDATION_STREAM = 0, 1


class BackSplitTrainer(nnUNetTrainer):
    """Trains the arm that the `backsplit` block of its plans describes.

    What differs from nnU-Net: labels are coarsened in the loader, patches are centred on the target, batches are
    numbered, the loss has a target and an auxiliary part, bf16 autocast also on CPUs that have it, pseudo-Dice and
    best checkpoint look at the targets alone, and a checkpoint is written whole after every epoch.
    """

    def __init__(
        self, plans: Plans, configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__({**plans, "continue_training": False}, configuration, fold, dataset_json, device)
        self.settings = ArmSettings.from_block(plans[BLOCK])
        budget = self.settings.budget
        self.num_epochs = budget.epochs
        self.num_iterations_per_epoch = budget.iterations
        self.num_val_iterations_per_epoch = budget.validation_iterations
        self.num_workers = 0
        self._history: list[HistoryRow] = []

    # --- what the arm changes -------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build the network from the arm's seed; see nnU-Net."""
        torch.manual_seed(self.settings.seed)
        super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        """nnU-Net's SGD, or AdamW for short budgets; both with nnU-Net's polynomial decay."""
        if self.settings.optimizer == "sgd":
            return super().configure_optimizers()
        self.initial_lr = ADAMW_LEARNING_RATE
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=ADAMW_WEIGHT_DECAY)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> SplitLoss:
        num_targets = self.settings.scheme.num_targets
        weights = LossWeights.preset(
            self.settings.loss, num_targets=num_targets, num_classes=self.settings.coarsening.num_coarse
        )
        return SplitLoss(
            num_targets=num_targets,
            weights=weights,
            scale_weights=self._scale_weights(),
            batch_dice=self.configuration_manager.batch_dice,
        )

    def _scale_weights(self) -> tuple[float, ...]:
        """Halved at each coarser output, none for the coarsest, sum 1: as in nnU-Net."""
        weights = 0.5 ** np.arange(len(self._get_deep_supervision_scales()))
        if len(weights) > 1:
            weights[-1] = 0
        return tuple((weights / weights.sum()).tolist())

    def get_dataloaders(self) -> tuple[Iterator[Batch], Iterator[Batch]]:
        """Endless iterators over training and validation batches, from where the training stands."""
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        scales = self._get_deep_supervision_scales()
        augment = self.get_training_transforms(
            patch_size,
            rotation,
            scales,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
        )
        plain = self.get_validation_transforms(scales)
        training, validation = self.get_tr_and_val_datasets()
        return (
            self._batches(training, initial_patch_size, augment, TRAINING_STREAM, self.num_iterations_per_epoch),
            self._batches(validation, patch_size, plain, VALIDATION_STREAM, self.num_val_iterations_per_epoch),
        )

    def _batches(self, dataset: Any, patch_size: Any, stock: Any, stream: int, per_epoch: int) -> Iterator[Batch]:  # noqa: ANN401  nnU-Net's own
        loader = ArmLoader(
            dataset,
            self.batch_size,
            patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            transforms=pipeline(self.settings.coarsening, stock),
            settings=self.settings,
        )
        loader.indices = sorted(loader.indices)  # nnU-Net lists a folder, whose order is the file system's
        return NumberedBatches(loader, seed=self.settings.seed, stream=stream).batches(
            self.current_epoch * per_epoch,
            num_workers=self.num_workers if stream == TRAINING_STREAM else min(1, self.num_workers),
            pin_memory=self.device.type == "cuda",
        )

    # --- steps ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> AbstractContextManager:
        if self.device.type == "cuda":
            return torch.autocast("cuda")
        if self.device.type == "cpu" and has_fast_bfloat16():
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return nullcontext()

    def _forward(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], LossParts]:
        data = batch["data"].to(self.device, non_blocking=True)
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        with self._autocast():
            output = self.network(data)
        return output, target, self.loss(output, target)

    def train_step(self, batch: Batch) -> dict[str, np.ndarray]:
        """One optimiser step; the loss and its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        _, _, parts = self._forward(batch)
        loss = parts.total(self.loss.weights)
        if self.grad_scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_LIMIT)
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM_LIMIT)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        return {"loss": torch.stack((loss, *parts)).detach().cpu().numpy()}

    def validation_step(self, batch: Batch) -> dict[str, np.ndarray]:
        """Loss, and true positives, false positives and false negatives of each target over the batch."""
        output, target, parts = self._forward(batch)
        predicted, reference = output[0].argmax(1, keepdim=True), target[0]
        counts = []
        for index in range(1, self.settings.scheme.num_targets + 1):
            is_predicted, is_reference = predicted == index, reference == index
            both = (is_predicted & is_reference).sum()
            counts.append(torch.stack((both, is_predicted.sum() - both, is_reference.sum() - both)))
        tp, fp, fn = torch.stack(counts, dim=1).cpu().numpy()
        loss = parts.total(self.loss.weights).cpu().numpy()
        return {"loss": loss, "tp_hard": tp, "fp_hard": fp, "fn_hard": fn}

    # --- epochs ---------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Build loaders, and take up the log of an interrupted training; see nnU-Net."""
        super().on_train_start()
        self._history = [row for row in read_history(self._history_path) if row["epoch"] < self.current_epoch]
        self._clock = Clock(first_epoch=self.current_epoch, num_epochs=self.num_epochs)

    def on_epoch_start(self) -> None:
        """Remember when the epoch began; see nnU-Net."""
        super().on_epoch_start()
        self._clock.start_epoch()

    def on_train_epoch_end(self, train_outputs: list[dict[str, np.ndarray]]) -> None:
        """Average the loss and its parts over the epoch."""
        mean = np.mean([output["loss"] for output in train_outputs], axis=0)
        self._means = dict(zip(("train_loss", *LossParts._fields), mean.tolist(), strict=True))
        self.logger.log("train_losses", float(mean[0]), self.current_epoch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, np.ndarray]]) -> None:
        """Log the validation loss and the pseudo-Dice of the targets.

        A target that is neither in the patches nor predicted has no Dice; if that holds for all, the last epoch's
        value is kept (0 at first), because nnU-Net's moving average would never recover from a NaN.
        """
        tp, fp, fn = (np.sum([out[key] for out in val_outputs], axis=0) for key in ("tp_hard", "fp_hard", "fn_hard"))
        size = 2 * tp + fp + fn
        per_target = np.where(size > 0, 2 * tp / np.maximum(size, 1), np.nan)
        last = self._history[-1]["pseudo_dice_target"] if self._history else 0.0
        mean = float(np.nanmean(per_target)) if (size > 0).any() else last
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", per_target.tolist(), self.current_epoch)
        self.logger.log("val_losses", float(np.mean([out["loss"] for out in val_outputs])), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Log, save, and report progress: one line per epoch."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self._history.append(self._epoch_row())
        write_history(self._history, self._history_path)
        average = self.logger.get_value("ema_fg_dice", step=-1)
        if self._best_ema is None or average > self._best_ema:
            self._best_ema = average
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_best.pth")))
        if self.current_epoch + 1 < self.num_epochs:
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_latest.pth")))
        if self._clock.is_time_to_plot() or self.current_epoch + 1 == self.num_epochs:
            self.logger.plot_progress_png(self.output_folder)
        self.current_epoch += 1
        self._report(self._history[-1])

    def _epoch_row(self) -> HistoryRow:
        return {
            "epoch": self.current_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self._means,
            "validation_loss": self.logger.get_value("val_losses", step=-1),
            "pseudo_dice_target": self.logger.get_value("mean_fg_dice", step=-1),
            "seconds": self._clock.seconds_of_epoch(),
        }

    def _report(self, row: HistoryRow) -> None:
        logger.info(
            "%s, fold %s: epoch %d of %d, loss %.3f (target CE %.4f, Dice %.3f; auxiliary CE %.4f, Dice %.3f), "
            "target pseudo-Dice %.3f, %s left",
            self.settings.arm,
            self.fold,
            self.current_epoch,
            self.num_epochs,
            *(row[name] for name in ("train_loss", "cross_entropy_target", "dice_target")),
            *(row[name] for name in ("cross_entropy_auxiliary", "dice_auxiliary", "pseudo_dice_target")),
            format_duration(self._clock.seconds_left(self.current_epoch)),
        )

    # --- files ----------------------------------------------------------------------------------------------------

    @property
    def _history_path(self) -> Path:
        return Path(self.output_folder, HISTORY_NAME)

    def print_to_log_file(self, *args: object, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """nnU-Net's messages go to its log file alone."""
        del also_print_to_console
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in nnU-Net's format, whole or not at all, under the name of nnU-Net's own trainer."""
        checkpoint = {
            "network_weights": getattr(self.network, "_orig_mod", self.network).state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": STOCK_NAME,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
        }
        with replacing(Path(filename)) as temporary:
            torch.save(checkpoint, temporary)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without it, autocast would only cost."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
