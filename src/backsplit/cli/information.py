"""What labels tell about a trained arm."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, device_of, folders_of, say
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from backsplit.experiments.looking import Looked
    from backsplit.labels import LabelScheme


@dataclass(frozen=True)
class Fisher:
    """Measure what labels tell about a trained arm, and what merging classes would lose about the target.

    Fisher information by class and by pair of classes; for binary labels and for each auxiliary left out, the share of
    information that is lost and the variance of the target's posterior at the border of lesions; a map of lost
    information per case, and the level sets of the two likelihoods. Cases that are done are not done again.

    Example: backsplit fisher backsplit

    Example: backsplit fisher models/kidney-cysts cohorts/new --step-size 1 --device cuda
    """

    model: Positional[str]
    """Arm of the workspace that was trained with auxiliaries, or its model folder."""
    cohort: Annotated[Path | None, tyro.conf.Positional] = None
    """Composed cohort with the classes that the arm was trained on; by default that of the workspace."""
    fold: int = 0
    """Whose weights."""
    checkpoint: str = "checkpoint_final.pth"
    """File of the fold."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch; 1 takes about an eighth of the time, with less around
    each voxel."""
    ridge: float = 1e-3
    """Added to the information before it is inverted, as a share of its mean eigenvalue; the same for all labels."""
    probes: int = 0
    """Random directions for the information about all parameters, which is estimated with a standard error; 0: none."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""
    output: Path | None = None
    """Folder for tables, figure, maps and records; by default information/<arm> in the workspace."""
    device: Device = "auto"
    """Where the network runs."""

    def run(self) -> None:
        """Measure."""
        from backsplit import cases
        from backsplit.evaluation import format_table, write_table
        from backsplit.experiments.all_parameters import of_all_parameters
        from backsplit.experiments.information import by_class, by_coarsening, look_at_cohort
        from backsplit.experiments.study import model_of
        from backsplit.nnunet.features import load_network

        workspace = Workspace(self.workspace)
        model = model_of(folders_of(self.workspace), workspace, self.model)
        trained = load_network(model, self.fold, checkpoint=self.checkpoint, device=device_of(self.device))
        folder = self.output or workspace.information_of(trained.arm.name)
        cohort = cases.read(self.cohort or workspace.cohort)
        looked = look_at_cohort(trained, cohort, folder, step_size=self.step_size)
        classes = by_class(looked, trained.scheme)
        labels = by_coarsening(looked, trained.scheme, ridge_share=self.ridge)
        write_table(classes, folder / "classes.csv")
        write_table(labels, folder / "labels.csv")
        say("Information of fine labels about the logits, and what binary ones lose of it, per 1000 voxels:")
        say(format_table(_single(classes)))
        say("Shares of information that other labels lose, and variance of the target's posterior at its border:")
        say(format_table(labels.drop(columns=["ridge", "num_voxels", "num_border"])))
        if self.probes:
            table = of_all_parameters(trained, cohort, num_probes=self.probes)
            write_table(table, folder / "all-parameters.csv")
            say("Information about all parameters, per voxel:")
            say(format_table(table))
        self.draw(looked, trained.scheme, classes, folder)
        say(f"{folder}")

    def draw(self, looked: "Looked", scheme: "LabelScheme", classes: "pd.DataFrame", folder: Path) -> None:
        """Draw the level sets for the first target and the auxiliary that binary labels lose most about."""
        from backsplit.report.likelihoods import write_level_sets

        at_border = classes[(classes["region"] == "border") & (classes["other"] == "")].set_index("class")["lost"]
        other = str(at_border[list(scheme.auxiliaries)].idxmax())
        voxels = looked.border_sample
        write_level_sets(
            voxels.probabilities.double().numpy(),
            voxels.counts.double().numpy(),
            target=(1, scheme.targets[0]),
            other=(scheme.index(other), other),
            path=folder / "likelihoods",
        )


def _single(classes: "pd.DataFrame") -> "pd.DataFrame":
    """What fits a terminal: classes alone, image beside border."""
    alone = classes[classes["other"] == ""]
    sides = [
        alone[alone["region"] == region].set_index("class")[["fine", "lost"]].add_suffix(f"_{region}")
        for region in ("image", "border")
    ]
    return sides[0].join(sides[1]).reset_index()
