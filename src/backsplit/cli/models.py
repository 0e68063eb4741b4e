"""Prediction with models, and models in one file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace


@dataclass(frozen=True)
class Predict:
    """Write target-only masks; cases that are done are not done again.

    Without INPUT, each fold's model predicts the cases that its training left out: what a comparison needs.

    Example: backsplit predict backsplit

    Example: backsplit predict backsplit new-patients/ masks/ --folds 0 1 2 3 4

    Example: backsplit predict nnUNetTrainer__nnUNetPlans__3d_fullres new-patients/ masks/ --targets cyst
    """

    model: Positional[str]
    """Arm of the workspace, or a model folder with plans.json and fold_0."""
    input: Annotated[Path | None, tyro.conf.Positional] = None
    """Cohort, or a folder of images named <case>_0000.nii.gz; by default the cases that the folds left out."""
    output: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder for the masks; by default that of the arm in the workspace."""
    into: str | None = None
    """Name of a folder beside that of the arm, instead of OUTPUT: for the same arm predicted in several ways."""
    folds: tuple[int | Literal["all"], ...] = (0,)
    """Folds to use; with INPUT, their logits are averaged. all: the one that was trained on all cases."""
    targets: tuple[str, ...] = ()
    """Classes to write, as 1, 2 and so on; by default the targets that a model of BackSplit was trained for."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    all_classes: bool = False
    """Write all classes of the arm instead of the targets alone."""
    mirroring: bool = True
    """Average over mirrored images; 8 times the work of --no-mirroring."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch; less is slower and smoother."""
    rule: Literal["argmax", "pooled"] = "argmax"
    """argmax: the largest class wins, then classes are merged (the paper's and nnU-Net's); pooled: merged before."""
    exact: bool = False
    """Resize images with nnU-Net's code and average all logits as it does, for masks equal in every voxel; slower."""
    resampling: Literal["fast", "stock"] = "fast"
    """Who resizes images: fast, or nnU-Net's own code, to which fast is equal to 1e-5 of the largest value."""
    probabilities: bool = False
    """Write probabilities/<case>_<label value>.nii.gz, too: 0 to 255 for a posterior of 0 to 1."""
    skip_air: bool = False
    """Leave out tiles outside the box around the body: in CT, the largest part above -190 HU."""
    any_spacing: bool = False
    """Take images with voxels less than half, or more than twice, as long as any that the model was trained on."""
    tiles_at_once: int | None = None
    """Tiles in a batch; by default 1 on a CPU and 2 elsewhere; more suit a large GPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network on a CPU; bfloat16 is faster and moves borders by a few voxels."""
    checkpoint: str = "checkpoint_final.pth"
    """File of the folds to use, such as checkpoint_best.pth, or one that --keep-every kept."""
    device: Device = "auto"
    """Where to predict."""
    trust: bool = False
    """Run code that the checkpoints hold; for files of a maker whom you trust."""

    def run(self) -> None:
        """Predict."""
        from backsplit.experiments.study import held_out_cases, input_cases, model_of
        from backsplit.memory import give_back_large_arrays
        from backsplit.nnunet.prediction import TargetPredictor
        from backsplit.nnunet.prediction_settings import PredictionSettings

        give_back_large_arrays()
        workspace, folders = Workspace(self.workspace), folders_of(self.workspace)
        model = model_of(folders, workspace, self.model)
        settings = PredictionSettings(
            mirroring=self.mirroring,
            step_size=self.step_size,
            targets=self.targets,
            all_classes=self.all_classes,
            rule=self.rule,
            exact=self.exact,
            resampling=self.resampling,
            probabilities=self.probabilities,
            skip_air=self.skip_air,
            any_spacing=self.any_spacing,
            tiles_at_once=self.tiles_at_once,
            precision=self.precision,
            checkpoint=self.checkpoint,
        )
        predictor = TargetPredictor(model, self.folds, settings, device_of(self.device), is_trusted=self.trust)
        output = self.output or workspace.predictions_of(self.into or predictor.name)
        if self.input is not None:
            cases = input_cases(self.input)
            predictor.predict(cases, output, cohort=str(self.input.resolve()))
        for fold in self.folds if self.input is None else ():
            cases, manifest = held_out_cases(folders, workspace, fold)
            replace(predictor, folds=(fold,)).predict(cases, output, cohort=str(manifest.resolve()))
        say(f"{output}")


@dataclass(frozen=True)
class Export:
    """Write a model into one file that is safe to open: weights as safetensors, the rest as JSON, nothing that can run.

    Example: backsplit export backsplit kidney-cysts.zip --licence "CC BY 4.0"

    Example: backsplit export backsplit kidney-cysts-nnunet.zip --nnunet
    """

    model: Positional[str]
    """Arm of the workspace, or a model folder with plans.json and fold_0."""
    file: Positional[Path]
    """Zip to write."""
    folds: tuple[str, ...] | None = None
    """Folds to put in; by default all that are trained."""
    checkpoint: str = "checkpoint_final.pth"
    """File of each fold."""
    licence: str | None = None
    """Of the weights, in words; goes into the file. By default that of the LICENSE beside the model."""
    nnunet: bool = False
    """Write the zip of nnUNetv2_install_pretrained_model_from_zip instead, for those without this package."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Export."""
        from backsplit.experiments.study import model_of
        from backsplit.nnunet.sharing import export_model, export_stock

        model = model_of(folders_of(self.workspace), Workspace(self.workspace), self.model)
        if self.nnunet:
            export_stock(model, self.file, folds=self.folds, checkpoint=self.checkpoint, licence=self.licence)
        else:
            export_model(model, self.file, folds=self.folds, checkpoint=self.checkpoint, licence=self.licence)
        say(f"{self.file}")


@dataclass(frozen=True)
class Import:
    """Unpack a file of `backsplit export`; names, sizes, hashes and the network are checked before anything is kept.

    Example: backsplit import kidney-cysts.zip models/kidney-cysts && backsplit predict models/kidney-cysts images masks
    """

    file: Positional[Path]
    """Zip that somebody gave you."""
    folder: Positional[Path]
    """Model folder to make; it must not exist."""

    def run(self) -> None:
        """Import."""
        from backsplit.nnunet.sharing import how_to_use, import_model

        say("\n".join([f"{import_model(self.file, self.folder)}", *how_to_use(self.folder)]))
