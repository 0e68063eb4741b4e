"""Whole grids: a recipe from data set to tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from backsplit.cli.arguments import DEFAULT_WORKSPACE, Device, say

if TYPE_CHECKING:
    from backsplit.experiments.profiles import Profile
    from backsplit.experiments.recipes import Recipe

PACKAGES = ("psutil", "pydantic", "snakemake", "yaml")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How and where a grid runs; none of it changes the results."""

    workspace: Path = DEFAULT_WORKSPACE
    """Store that recipes share: data sets, trainings and predictions are found again by their settings."""
    profile: str = "local"
    """Where jobs run: on this machine, or as a folder with a profile of Snakemake's says, such as `backsplit-slurm
    profile` writes."""
    dry_run: bool = False
    """Say what would be done, GPU-hours and disk, and stop."""
    device: Device = "auto"
    """For trainings and predictions."""
    at_a_time: int = 1
    """Trainings at a time on a CPU; they divide the cores. On GPUs one each."""

    def carry_out(self, recipe: "Recipe") -> None:
        """Forecast or run a recipe."""
        from backsplit.cli.study_figures import draw_figures
        from backsplit.experiments.building import build_grid
        from backsplit.experiments.forecast import forecast
        from backsplit.experiments.tabulate import tabulate
        from backsplit.experiments.workflow.driver import run_grid
        from backsplit.experiments.workflow.progress import Progress

        grid = build_grid(recipe, self.workspace)
        say(forecast(grid).text())
        if recipe.report.note is not None:
            say(recipe.report.note)
        if self.dry_run:
            return
        run_grid(grid, self.chosen_profile(), extra=self.extra(), view=Progress(grid))
        say(tabulate(grid))
        for path in draw_figures(grid):
            say(f"{path}")
        say(f"{grid.store.study(grid.study)}")

    def chosen_profile(self) -> "Profile":
        """The profile; if it is this machine, with its GPUs."""
        import torch

        from backsplit.experiments.profiles import cluster_profile, local_profile

        if self.profile != "local":
            return cluster_profile(Path(self.profile), has_gpus=self.device != "cpu")
        uses_cuda = self.device in ("auto", "cuda") and torch.cuda.is_available()
        num_gpus = torch.cuda.device_count() if uses_cuda else 0
        return local_profile(num_gpus=num_gpus, at_a_time=self.at_a_time)

    def extra(self) -> dict[str, tuple[str, ...]]:
        """What jobs with a network are told beside what they make."""
        return dict.fromkeys(("train", "predict"), ("--device", self.device))


@dataclass(frozen=True, kw_only=True)
class Run(RunOptions):
    """Run a recipe: every arm, network, fold and seed, from the data set to tables and pages.

    The same command goes on after any crash. What another recipe has done already is not done again.

    Example: backsplit run study.yaml --dry-run

    Example: backsplit run study.yaml --set budget.epochs=50 folds=[0,1]
    """

    recipe: Positional[Path]
    """YAML; docs/recipes.md says what may stand in it."""
    set: tuple[str, ...] = ()
    """Settings to put over those of the recipe."""

    def run(self) -> None:
        """Run."""
        check_installed()
        from backsplit.experiments.reading import read_recipe

        self.carry_out(read_recipe(self.recipe, self.set))


@dataclass(frozen=True, kw_only=True)
class Reproduce(RunOptions):
    """Run a table or figure of the paper: its arms with its loss, its numbers beside ours as far as they are known.

    Example: backsplit reproduce table-1 --data kits23=kits23/dataset panther=PANTHER_Task1

    Example: backsplit reproduce table-1 --data phantom --budget demo --folds 0
    """

    name: Positional[str]
    """Such as table-1; without it, or with a wrong one, the names are listed."""
    data: tuple[str, ...]
    """NAME=FOLDER for each data set to run, or `phantom`: made-up cases of the same structure in place of all, or of
    those that are named behind it."""
    budget: Literal["paper", "short", "demo"] = "paper"
    """paper: 1000 epochs of 250 iterations; short: 100 of 250; demo: minutes on a CPU."""
    folds: tuple[int, ...] | None = None
    """Folds to train; by default those of the recipe."""
    ours: bool = False
    """Also train this package's default arm, with the loss `target-first`."""
    set: tuple[str, ...] = ()
    """Settings to put over those of the recipe."""

    def run(self) -> None:
        """Reproduce."""
        check_installed()
        from backsplit.experiments.reproducing import recipe_of_paper

        settings = [f"budget.name={self.budget}"]
        settings += [] if self.folds is None else [f"folds={list(self.folds)}"]
        recipe = recipe_of_paper(self.name, self.data, [*settings, *self.set], has_ours=self.ours)
        self.carry_out(recipe)


def check_installed() -> None:
    """Say in one line what to install.

    Raises:
        ConfigurationError: a package of the extra is missing.
    """
    from importlib.util import find_spec

    from backsplit.errors import ConfigurationError

    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigurationError(f'recipes need {", ".join(missing)}; pip install "backsplit[workflow]"')
