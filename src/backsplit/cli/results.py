"""Scores, comparison, page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from backsplit.cli.arguments import DEFAULT_WORKSPACE, say
from backsplit.experiments.paths import Workspace


@dataclass(frozen=True)
class Evaluate:
    """Score all predicted arms of a workspace; one row per arm, case and target.

    Example: backsplit evaluate --tolerance-mm 1
    """

    tolerance_mm: float
    """Accepted surface deviation for NSD, in mm; a clinical choice, so it has no default."""
    empty_policy: Literal["undefined", "penalty"] = "undefined"
    """What tables do with HD95 where one mask is empty: leave it out and count it, or the image diagonal."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Evaluate."""
        from backsplit.evaluation import POLICIES, format_table
        from backsplit.experiments.study import evaluate

        policy = POLICIES[self.empty_policy]
        workspace = Workspace(self.workspace)
        say(format_table(evaluate(workspace, tolerance_mm=self.tolerance_mm, policy=policy)))
        say(policy.describe())
        say(f"{workspace.scores}")


@dataclass(frozen=True)
class Compare:
    """Compare arms case by case; refuses arms that were not trained under equal conditions.

    Example: backsplit compare --baseline binary

    Example: backsplit compare --attribution
    """

    baseline: str = "binary"
    """Arm that the others are compared with."""
    attribution: bool = False
    """Compare each rung of `backsplit train --attribution` with the rung before it, instead of arms with --baseline.
    Rungs are left out of all other comparisons: the first ones are not fair."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Compare."""
        from backsplit.evaluation import format_table
        from backsplit.experiments.attribution import RUNGS, compare_rungs, left_out
        from backsplit.experiments.study import compare

        workspace = Workspace(self.workspace)
        if not self.attribution:
            say(format_table(compare(workspace, baseline=self.baseline, without=RUNGS)))
            say(f"{workspace.comparison}")
            return
        say(format_table(compare_rungs(workspace)))
        for rung, reason in left_out(workspace).items():
            say(f"{rung} is left out: {reason}")
        say(f"{workspace.attribution}")


@dataclass(frozen=True)
class Report:
    """Write one HTML page with tables, training curves and pictures.

    Example: backsplit report
    """

    directory: Annotated[Path, tyro.conf.Positional] = DEFAULT_WORKSPACE
    """Workspace with scores and a comparison."""

    def run(self) -> None:
        """Report."""
        from backsplit.cli.page import inputs_of
        from backsplit.report import write

        workspace = Workspace(self.directory)
        say(f"{write(inputs_of(workspace), workspace.report)}")
