"""nnU-Net's trainer, told by its plans what the arm does; the target decides what is best."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from backsplit.errors import StoppedError
from backsplit.files import replacing
from backsplit.learning.losses import LossParts, LossWeights, SplitLoss
from backsplit.learning.networks import has_deep_supervision
from backsplit.learning.optimisation import EpochScheduler, optimizer_of, scheduler_of
from backsplit.learning.schedules import Schedule
from backsplit.nnunet.annotation import Annotation, draw_annotation, record
from backsplit.nnunet.arms import BLOCK, ArmSettings, Plans, checkpoint_name
from backsplit.nnunet.history import Clock, History, HistoryRow
from backsplit.nnunet.loader import ArmLoader, Batch, NumberedBatches, Stream, pipeline
from backsplit.nnunet.precision import has_fast_bfloat16, is_safe_in_bfloat16_on_cpu
from backsplit.nnunet.processes import rank_and_size, sum_over_processes
from backsplit.nnunet.runrecord import write_run_record
from backsplit.nnunet.topology import Configuration
from backsplit.progress import format_duration

logger = logging.getLogger(__name__)
GRADIENT_NORM_LIMIT = 12  # nnU-Net's
STOCK_NAME = "nnUNetTrainer"  # stored in checkpoints, so that nnU-Net alone can load and run them
TRAINING_STREAM, VALIDATION_STREAM = 0, 1


class BackSplitTrainer(nnUNetTrainer):
    """Trains the arm that the `backsplit` block of its plans describes.

    What differs from nnU-Net: labels are coarsened in the loader, patches are centred on the target, samples are
    numbered, the loss has a target and an auxiliary part and knows what each case is annotated for, bf16 autocast also
    on CPUs that have it, pseudo-Dice and best checkpoint look at the targets alone, and a checkpoint is written whole
    after every epoch.
    """

    def __init__(
        self, plans: Plans, configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        super().__init__({**plans, "continue_training": False}, configuration, fold, dataset_json, device)
        self.local_rank, self.num_ranks = rank_and_size()
        self.device = device
        self.settings = ArmSettings.from_block(plans[BLOCK])
        self.known_annotation: Annotation = {name: tuple(kept) for name, kept in plans[BLOCK]["annotated"].items()}
        self.enable_deep_supervision = has_deep_supervision(
            self.settings.network, self.settings.network_settings.deep_supervision
        )
        budget = self.settings.budget
        self.num_epochs = budget.epochs
        self.num_iterations_per_epoch = budget.iterations
        self.num_val_iterations_per_epoch = budget.validation_iterations
        self.run_settings = RunSettings(device)
        self.is_asked_to_stop: Callable[[], bool] = lambda: False
        if device.type != "cuda":
            self.grad_scaler = None

    # --- what the arm changes -------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Build the network from the arm's seed; see nnU-Net.

        Several processes share one training: each computes its samples of every batch, and gradients are averaged.
        """
        torch.manual_seed(self.settings.seed)
        self.is_ddp = False  # nnU-Net's own wrapping knows CUDA alone, and splits batches in a way of its own
        super().initialize()
        if self.num_ranks > 1:
            self.is_ddp = True
            devices = [self.device] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=devices, static_graph=True)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, EpochScheduler]:
        """The optimiser that the plans name."""
        self.initial_lr = self.settings.optimisation.learning_rate
        optimizer = optimizer_of(self.settings.optimisation, self.network.parameters())
        return optimizer, scheduler_of(self.settings.optimisation, optimizer, self.num_epochs)

    def _build_loss(self) -> SplitLoss:
        self.base_weights = LossWeights.preset(
            self.settings.loss, num_targets=self.settings.scheme.num_targets, num_classes=self.settings.num_classes
        )
        chosen = self.settings.auxiliary_weight
        if chosen is not None:
            self.base_weights = replace(self.base_weights, auxiliary_cross_entropy=chosen, auxiliary_dice=chosen)
        self.schedule = Schedule.preset(self.settings.loss)
        self.split_loss = SplitLoss(
            num_targets=self.settings.scheme.num_targets,
            weights=self.base_weights,
            scale_weights=self._scale_weights(),
            batch_dice=self.configuration_manager.batch_dice,
            ignore=self.settings.num_classes if self.label_manager.has_ignore_label else None,
        )
        return self.split_loss

    @property
    def configuration(self) -> Configuration:
        """Of the arm's plans."""
        return self.configuration_manager.configuration

    def _scale_weights(self) -> tuple[float, ...]:
        """Halved at each coarser output, none for the coarsest, sum 1: as in nnU-Net."""
        weights = 0.5 ** np.arange(len(self._get_deep_supervision_scales() or [1]))
        if len(weights) > 1:
            weights[-1] = 0
        return tuple((weights / weights.sum()).tolist())

    def set_deep_supervision_enabled(self, enabled: bool) -> None:  # noqa: FBT001  nnU-Net's own
        """Switch the outputs at lower resolution; nothing to do for a network that has none."""
        if self.enable_deep_supervision:
            super().set_deep_supervision_enabled(enabled)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802  nnU-Net's own
        """See nnU-Net; without mirroring from left to right if left and right are classes of their own."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self.settings.sides == "keep":
            axis = self.plans_manager.plans[BLOCK]["left_right_axis"] - (3 - len(mirror_axes))
            mirror_axes = tuple(each for each in mirror_axes if each != axis)
            self.inference_allowed_mirroring_axes = mirror_axes
        return rotation, dummy_2d, initial_patch_size, mirror_axes

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
        annotation = draw_annotation(self.settings, self.known_annotation, training.identifiers)
        if self.local_rank == 0:
            record(self.settings, annotation, training.identifiers, Path(self.output_folder))
        return (
            self._batches(training, initial_patch_size, augment, TRAINING_STREAM, annotation),
            self._batches(validation, patch_size, plain, VALIDATION_STREAM, self.known_annotation),
        )

    def _batches(
        self,
        dataset: Any,  # noqa: ANN401  nnU-Net's own
        patch_size: Any,  # noqa: ANN401  nnU-Net's own
        stock: Any,  # noqa: ANN401  nnU-Net's own
        number: int,
        annotation: Annotation,
    ) -> Iterator[Batch]:
        is_training = number == TRAINING_STREAM
        loader = ArmLoader(
            dataset,
            1,
            patch_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            transforms=pipeline(self.settings, stock),
            settings=self.settings,
        )
        stream = Stream(
            self.settings.seed,
            number,
            self.configuration_manager.batch_size,
            self.oversample_foreground_percent,
            self.local_rank,
            self.num_ranks,
        )
        per_epoch = self.num_iterations_per_epoch if is_training else self.num_val_iterations_per_epoch
        return NumberedBatches(loader, stream, self.settings, annotation).batches(
            self.current_epoch * per_epoch,
            num_workers=self.run_settings.num_workers if is_training else min(1, self.run_settings.num_workers),
            pin_memory=self.device.type == "cuda",
        )

    # --- steps ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> AbstractContextManager:
        if self.run_settings.precision == "float32":
            return nullcontext()
        if self.device.type == "cuda":
            return torch.autocast("cuda")
        if self.device.type == "cpu" and has_fast_bfloat16() and is_safe_in_bfloat16_on_cpu(self.configuration):
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return nullcontext()

    def _forward(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], LossParts]:
        data = batch["data"].to(self.device, non_blocking=True)
        target = [scale.to(self.device, non_blocking=True) for scale in batch["target"]]
        told_apart = batch["annotated"] & self.active
        annotated = None if told_apart.all() else told_apart
        with self._autocast():
            output = self.network(data)
        outputs = [output] if isinstance(output, Tensor) else list(output)
        return outputs, target, self.split_loss(outputs, target, annotated)

    def train_step(self, batch: Batch) -> dict[str, np.ndarray]:
        """One optimiser step; the loss and its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        _, _, parts = self._forward(batch)
        loss = parts.total(self.split_loss.weights)
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
        """Loss, and the voxels of each class: in both, in the prediction alone, in the reference alone.

        A sample counts for the classes that it is annotated for, a voxel if it is not to be ignored.
        """
        output, target, parts = self._forward(batch)
        reference, predicted = target[0].flatten(1).long(), output[0].argmax(1).flatten(1)
        num_classes = self.settings.num_classes
        pairs = [
            torch.bincount((one * num_classes + other)[other < num_classes], minlength=num_classes**2)
            for one, other in zip(predicted, reference, strict=True)
        ]
        confusion = torch.stack(pairs).view(-1, num_classes, num_classes).cpu()
        both = confusion.diagonal(dim1=1, dim2=2)
        counts = torch.stack((both, confusion.sum(2) - both, confusion.sum(1) - both))
        tp, fp, fn = (counts * batch["annotated"]).sum(1).numpy()
        return {
            "loss": parts.total(self.split_loss.weights).reshape(1).cpu().numpy(),
            "tp_hard": tp,
            "fp_hard": fp,
            "fn_hard": fn,
        }

    # --- epochs ---------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Build loaders, and take up the log of an interrupted training; see nnU-Net."""
        super().on_train_start()
        self._clock = Clock(first_epoch=self.current_epoch, num_epochs=self.num_epochs)
        if self.local_rank == 0:
            self._history = History(Path(self.output_folder), first_epoch=self.current_epoch)
            write_run_record(self.bare_network, self.device, self.num_ranks, Path(self.output_folder))

    def on_epoch_start(self) -> None:
        """Remember when the epoch began, and set the weights that the schedule has for it; see nnU-Net."""
        super().on_epoch_start()
        self._clock.start_epoch()
        progress = self.current_epoch / self.num_epochs
        self.split_loss.weights = self.schedule.weights(self.base_weights, progress)
        first = self.settings.scheme.num_targets + 1
        num_active = self.schedule.num_active(self.settings.num_classes - first, progress)
        self.active = torch.arange(self.settings.num_classes) < first + num_active

    def on_train_epoch_end(self, train_outputs: list[dict[str, np.ndarray]]) -> None:
        """Average the loss and its parts over the epoch."""
        mean = self._mean_over_processes([output["loss"] for output in train_outputs])
        self._means = dict(zip(("train_loss", *LossParts._fields), mean.tolist(), strict=True))
        self.logger.log("train_losses", float(mean[0]), self.current_epoch)
        self._clock.stop_training()

    def _mean_over_processes(self, values: list[np.ndarray]) -> np.ndarray:
        return sum_over_processes(np.mean(values, axis=0) / self.num_ranks, self.device)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, np.ndarray]]) -> None:
        """Log the validation loss and the pseudo-Dice of every class; their mean is that of the targets.

        A class that is neither in the patches nor predicted has no Dice; if that holds for all targets, the last
        epoch's value is kept (0 at first), because nnU-Net's moving average would never recover from a NaN.
        """
        counts = np.array(
            [np.sum([out[key] for out in val_outputs], axis=0) for key in ("tp_hard", "fp_hard", "fn_hard")]
        )
        tp, fp, fn = sum_over_processes(counts, self.device)[:, 1:]
        size = 2 * tp + fp + fn
        per_class = np.where(size > 0, 2 * tp / np.maximum(size, 1), np.nan)
        targets = per_class[: self.settings.scheme.num_targets]
        last = self.logger.get_value("mean_fg_dice", step=-1) if self.current_epoch else 0.0
        mean = last if np.isnan(targets).all() else float(np.nanmean(targets))
        self._pseudo_dice = dict(zip(self.settings.class_names[1:], per_class.tolist(), strict=True))
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", per_class.tolist(), self.current_epoch)
        loss = self._mean_over_processes([out["loss"] for out in val_outputs])
        self.logger.log("val_losses", float(loss[0]), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Log, save, and report progress: one line per epoch.

        Raises:
            StoppedError: one of the processes has been asked to stop, and epochs are left.
        """
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        average = self.logger.get_value("ema_fg_dice", step=-1)
        is_best = self._best_ema is None or average > self._best_ema
        if is_best:
            self._best_ema = average
        if self.local_rank == 0:
            row = self._epoch_row()
            self._history.append(row)
            self._save(is_best=is_best)
            self._report(row)
        self.current_epoch += 1
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """All processes together: a process alone would leave the others waiting."""
        is_asked = sum_over_processes(np.array([float(self.is_asked_to_stop())]), self.device)[0] > 0
        if is_asked and self.current_epoch < self.num_epochs:
            raise StoppedError(
                f"{self.settings.name}, fold {self.fold}: stopped after epoch {self.current_epoch} of "
                f"{self.num_epochs}, as SIGUSR1 asked; the same command goes on from there"
            )

    def _save(self, *, is_best: bool) -> None:
        folder, number = Path(self.output_folder), self.current_epoch + 1
        if is_best:
            self.save_checkpoint(str(folder / "checkpoint_best.pth"))
        if self.run_settings.keep_every and number % self.run_settings.keep_every == 0:
            self.save_checkpoint(str(folder / checkpoint_name(number)))
        if number < self.num_epochs:
            self.save_checkpoint(str(folder / "checkpoint_latest.pth"))

    def on_train_end(self) -> None:
        """Write the final checkpoint; see nnU-Net."""
        super().on_train_end()
        if self.local_rank == 0:
            self._history.close()

    def _epoch_row(self) -> HistoryRow:
        return {
            "epoch": self.current_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self._means,
            "validation_loss": self.logger.get_value("val_losses", step=-1),
            "pseudo_dice_target": self.logger.get_value("mean_fg_dice", step=-1),
            **{f"pseudo_dice_class_{name}": value for name, value in self._pseudo_dice.items()},
            "auxiliary_weight": self.split_loss.weights.auxiliary_cross_entropy,
            "seconds_per_iteration": self._clock.seconds_of_training / self.num_iterations_per_epoch,
            "seconds": self._clock.seconds_of_epoch(),
        }

    def _report(self, row: HistoryRow) -> None:
        logger.info(
            "%s, fold %s: epoch %d of %d, loss %.3f (target CE %.4f, Dice %.3f; auxiliary CE %.4f, Dice %.3f), "
            "target pseudo-Dice %.3f, %.2f s per iteration, %s left",
            self.settings.name,
            self.fold,
            self.current_epoch + 1,
            self.num_epochs,
            *(row[name] for name in ("train_loss", "cross_entropy_target", "dice_target")),
            *(row[name] for name in ("cross_entropy_auxiliary", "dice_auxiliary", "pseudo_dice_target")),
            row["seconds_per_iteration"],
            format_duration(self._clock.seconds_left(self.current_epoch + 1)),
        )

    # --- files ----------------------------------------------------------------------------------------------------

    def print_to_log_file(self, *args: object, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """nnU-Net's messages go to its log file alone."""
        del also_print_to_console
        super().print_to_log_file(*args, also_print_to_console=False, add_timestamp=add_timestamp)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in nnU-Net's format, whole or not at all, under the name of nnU-Net's own trainer."""
        if self.local_rank:
            return
        checkpoint = {
            "network_weights": self.bare_network.state_dict(),
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

    @property
    def bare_network(self) -> torch.nn.Module:
        """The network without what data parallelism and compilation wrap around it."""
        network: Any = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network


class RunSettings(NamedTuple):
    """How a training is run here; results do not depend on it beyond rounding."""

    device: torch.device
    """Where to train; with several processes, their kind."""
    num_processes: int = 1
    """Devices that share the training; the batch size is a multiple of it."""
    num_workers: int = 0
    """Augmentation processes per device; 0 augments in the training process."""
    precision: str = "auto"
    """`auto`: autocast where the hardware has it; `float32`: none."""
    keep_every: int | None = None
    """Keep a checkpoint every so many epochs."""
