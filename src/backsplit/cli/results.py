"""Scores, comparison, page."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from backsplit.cli.arguments import DEFAULT_WORKSPACE, say
from backsplit.errors import ConfigurationError
from backsplit.experiments.paths import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from backsplit.evaluation import EmptyPolicy

SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Evaluate:
    """Score all predicted arms of a workspace; one row per arm, case and target.

    Example: backsplit evaluate --tolerance-mm 1 3 --min-lesion-voxels 10

    Example: backsplit evaluate --tolerance-mm 1 --empty-policy penalty --penalty-mm 300

    Example: backsplit evaluate --tolerance-mm 1 --regions mass=cyst+tumor
    """

    tolerance_mm: tuple[float, ...]
    """Accepted surface deviations for NSD, in mm; clinical choices, so they have no default."""
    min_lesion_voxels: int = 1
    """Components of fewer voxels (26 neighbours) are no lesions in lesion-wise scores."""
    min_lesion_mm3: float = 0.0
    """Components of less volume are no lesions either."""
    regions: tuple[str, ...] = ()
    """Targets to score together as well, each as name=target+target."""
    border: bool = False
    """Also score HD95 and NSD by border voxels, as MONAI does, in columns of their own."""
    empty_policy: Literal["undefined", "penalty", "nnunet", "challenge-brats"] = "undefined"
    """What means do with cases without a lesion in reference, prediction or both. undefined: leave distances out and
    count them; penalty: the image diagonal; nnunet: its own rule; challenge-brats: 374 mm, and full marks for both
    empty. Scores on disk stay as they are."""
    penalty_mm: float | None = None
    """With --empty-policy penalty: this distance instead of the image diagonal."""
    folds: tuple[int, ...] | None = None
    """Only the cases that the models of these folds predicted; by default all."""
    jobs: int = min(8, os.cpu_count() or 1)
    """Cases at a time."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Evaluate."""
        from backsplit.evaluation import Scoring, format_table
        from backsplit.experiments.evaluating import evaluate

        policy, workspace = self.policy(), Workspace(self.workspace)
        regions = tuple(_region(text) for text in self.regions)
        scoring = Scoring(self.tolerance_mm, self.min_lesion_voxels, self.border, self.min_lesion_mm3, regions)
        summary = evaluate(workspace, scoring=scoring, policy=policy, folds=self.folds, num_processes=self.jobs)
        say(format_table(_main_columns(summary)))
        say(policy.describe())
        say(f"{workspace.scores}")

    def policy(self) -> "EmptyPolicy":
        """The empty policy, with the stated penalty if there is one."""
        from backsplit.evaluation import policy_named, stated_penalty

        if self.penalty_mm is None:
            return policy_named(self.empty_policy)
        if self.empty_policy != "penalty":
            raise ConfigurationError(f"--penalty-mm needs --empty-policy penalty, not {self.empty_policy}")
        return stated_penalty(self.penalty_mm)


def _region(text: str) -> tuple[str, tuple[str, ...]]:
    """A name and what it merges, of `name=target+target`."""
    name, equals, targets = text.partition("=")
    if not (name and equals and targets):
        raise ConfigurationError(f"--regions takes name=target+target, got {text!r}")
    return name, tuple(targets.split("+"))


def _main_columns(summary: "pd.DataFrame") -> "pd.DataFrame":
    """What fits a terminal: Dice, HD95, NSD and counts; the file has all."""
    from backsplit.evaluation import metric_of

    def is_shown(column: str) -> bool:
        name = column.removeprefix("mean_").removeprefix("num_undefined_")
        if metric_of(name) is None:
            return True
        is_main = name in ("dice", "hd95_mm", "lesion_f1") or name.startswith("nsd_")
        return is_main and (column.startswith("mean_") or column == "num_undefined_hd95_mm")

    return summary[[column for column in summary.columns if not column.startswith("median_") and is_shown(column)]]


@dataclass(frozen=True)
class Compare:
    """Compare arms case by case; refuses arms that were not trained under equal conditions.

    Example: backsplit compare --baseline binary

    Example: backsplit compare --format latex --with-paper 1 > table.tex

    Example: backsplit compare --attribution
    """

    baseline: str = "binary"
    """Arm that the others are compared with."""
    attribution: bool = False
    """Compare each rung of `backsplit train --attribution` with the rung before it, instead of arms with --baseline.
    Rungs are left out of all other comparisons: the first ones are not fair."""
    format: Literal["text", "markdown", "latex", "csv", "html"] = "text"
    """text: all differences, for a terminal; the others: means of each arm in a paper's layout, ready to paste."""
    with_paper: int | None = None
    """Number of a table of the paper to put below, in those layouts; as far as its numbers are known here."""
    plots: bool = False
    """Also draw scores, differences and detection, as PNG and SVG."""
    workspace: Path = DEFAULT_WORKSPACE
    """Folder of the study."""

    def run(self) -> None:
        """Compare."""
        from backsplit.evaluation import format_table
        from backsplit.experiments.attribution import RUNGS, compare_rungs, left_out
        from backsplit.experiments.study import compare

        workspace = Workspace(self.workspace)
        if self.attribution:
            say(format_table(compare_rungs(workspace)))
            for rung, reason in left_out(workspace).items():
                say(f"{rung} is left out: {reason}")
            say(f"{workspace.attribution}")
            return
        table = compare(workspace, baseline=self.baseline, without=RUNGS)
        say(format_table(table) if self.format == "text" else self.laid_out(table, without=RUNGS))
        if self.plots:
            self.draw(workspace)
        if self.format == "text":
            say(f"{workspace.comparison}")

    def laid_out(self, table: "pd.DataFrame", *, without: Collection[str]) -> str:
        """The means of all arms as a paper prints them."""
        from backsplit.evaluation import arrange, paper_numbers, read_scores, render, summarise
        from backsplit.experiments.study import evaluated_policy

        workspace = Workspace(self.workspace)
        scores = read_scores(workspace.scores)
        summary = summarise(scores[~scores["arm"].isin(list(without))], evaluated_policy(workspace))
        paper = None if self.with_paper is None else paper_numbers(self.with_paper)
        return render(arrange(summary, table, paper=paper), self.format).rstrip("\n")

    def draw(self, workspace: Workspace) -> None:
        """Draw the plots."""
        from backsplit.evaluation import read_scores, read_table
        from backsplit.experiments.study import evaluated_policy
        from backsplit.report.plots import write_plots

        scores = evaluated_policy(workspace).apply(read_scores(workspace.scores))
        for path in write_plots(scores, read_table(workspace.lesions), self.baseline, workspace.plots):
            say(f"{path}")


@dataclass(frozen=True)
class Report:
    """Write a page with tables, training curves, pictures and a viewer of every case; it opens by double click.

    Example: backsplit report

    Example: backsplit report --single-file study.html

    Example: backsplit report --serve
    """

    directory: Annotated[Path, tyro.conf.Positional] = DEFAULT_WORKSPACE
    """Workspace with scores and a comparison."""
    single_file: Path | None = None
    """Write one HTML file with everything inside, without whole volumes, instead of the folder."""
    figures: bool = False
    """Also write the figures as PNG, SVG and PDF, beside the page."""
    serve: bool = False
    """Show it at 127.0.0.1 and write it again whenever the results have changed, until interrupted."""
    port: int = 8000
    """Of --serve; 0 takes any free one."""
    jobs: int = min(8, os.cpu_count() or 1)
    """Cases at a time."""

    def run(self) -> None:
        """Report."""
        from backsplit.cli.page import inputs_of
        from backsplit.cli.study_figures import draw_workspace
        from backsplit.report import write, write_single

        workspace = Workspace(self.directory)
        if self.serve:
            self.keep_serving(workspace)
            return
        inputs = inputs_of(workspace)
        if self.single_file is not None:
            say(f"{write_single(inputs, self.single_file)}")
        else:
            say(f"{write(inputs, workspace.report, num_processes=self.jobs)}")
        if self.figures:
            for path in draw_workspace(workspace, inputs):
                say(f"{path}")

    def keep_serving(self, workspace: Workspace) -> None:
        """Serve until interrupted."""
        from backsplit.cli.page import Rebuilding
        from backsplit.errors import ConfigurationError
        from backsplit.report import ReportServer

        if self.single_file is not None:
            raise ConfigurationError("--serve shows the folder; leave out --single-file")
        rebuilding = Rebuilding(workspace, self.jobs)
        try:
            server = ReportServer(workspace.report.parent, self.port)
        except OSError as error:
            raise ConfigurationError(
                f"port {self.port} cannot be used ({error.strerror}); choose another --port"
            ) from error
        server.build = rebuilding.rebuild()
        say(f"{server.url}")
        try:
            server.run(rebuilding.rebuild, seconds=SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            say("ended")
