"""The figures of a study, of a workspace or of a recipe."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backsplit.experiments.figure_points import Kind, Points
    from backsplit.experiments.grid import Grid
    from backsplit.experiments.paths import Workspace
    from backsplit.report import ReportInputs


def draw_workspace(workspace: "Workspace", inputs: "ReportInputs") -> Iterator[Path]:
    """Draw what the page shows, curves over arms that were trained for it, and the level sets of `backsplit fisher`."""
    from backsplit.experiments.workspace_points import points_of_workspace
    from backsplit.report import file_name, write_figures

    folder = workspace.report.parent / "figures"
    yield from write_figures(inputs, folder)
    for kind, points in points_of_workspace(workspace):
        yield from _draw_points(kind, points, folder / file_name(points.name))
    for arm in inputs.prediction_folders:
        for drawn in sorted(workspace.information_of(arm).glob("likelihoods.*")):
            yield Path(shutil.copyfile(drawn, folder / f"likelihoods-{file_name(arm)}{drawn.suffix}"))


def draw_figures(grid: "Grid") -> Iterator[Path]:
    """Draw what the recipe names, and masks that it checks, into the folder of its study; curves come as CSV, too."""
    from backsplit.cli.page import inputs_of
    from backsplit.experiments.figure_points import points_of
    from backsplit.report import draw_slices

    yield from _draw_checks(grid)
    for kind in grid.recipe.report.figures:
        if kind == "slices":
            groups = {group.data: group for group in reversed(grid.groups) if len(group.trained) > 1}
            inputs = {name: inputs_of(grid.store.group(grid.study, groups[name].folder)) for name in reversed(groups)}
            yield from draw_slices(inputs, grid.store.figure_of(grid.study, kind))
            continue
        for points in points_of(grid, kind):
            yield from _draw_points(kind, points, grid.store.figure_of(grid.study, points.name))


def _draw_checks(grid: "Grid") -> Iterator[Path]:
    import pandas as pd

    from backsplit.evaluation import read_table
    from backsplit.report import draw_masks

    for data, reference in dict.fromkeys((check.data, check.reference) for check in grid.checks):
        chosen = [check for check in grid.checks if (check.data, check.reference) == (data, reference)]
        tables = [read_table(check.table).assign(masks=check.masks) for check in chosen]
        path = grid.store.figure_of(grid.study, f"masks-{data}-{reference}")
        yield from draw_masks(pd.concat(tables, ignore_index=True), reference, path)


def _draw_points(kind: "Kind", points: "Points", path: Path) -> Iterator[Path]:
    """The figure, and its numbers as CSV."""
    from backsplit.evaluation import write_table
    from backsplit.experiments.figure_points import AXES
    from backsplit.report import draw_points

    write_table(points.table, path.with_name(f"{path.name}.csv"))
    yield from draw_points(points.table, points.levels, AXES[kind], path)
