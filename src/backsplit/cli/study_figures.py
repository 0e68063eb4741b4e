"""The figures that a recipe ends in."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backsplit.experiments.grid import Grid


def draw_figures(grid: "Grid") -> Iterator[Path]:
    """Draw what the recipe names, into the folder of its study; the files, and the numbers of curves as CSV."""
    from backsplit.cli.page import inputs_of
    from backsplit.evaluation import write_table
    from backsplit.experiments.figure_points import AXES, points_of
    from backsplit.report import draw_points, draw_slices

    for kind in grid.recipe.report.figures:
        if kind == "slices":
            groups = {group.data: group for group in reversed(grid.groups) if len(group.trained) > 1}
            inputs = {name: inputs_of(grid.store.group(grid.study, groups[name].folder)) for name in reversed(groups)}
            yield from draw_slices(inputs, grid.store.figure_of(grid.study, kind))
            continue
        for points in points_of(grid, kind):
            path = grid.store.figure_of(grid.study, points.name)
            write_table(points.table, path.with_name(f"{path.name}.csv"))
            yield from draw_points(points.table, points.levels, AXES[kind], path)
