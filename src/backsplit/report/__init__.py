"""A report about one comparison: tables in, HTML out. No torch here."""

from backsplit.report.gather import ReportInputs
from backsplit.report.paper import write_figures
from backsplit.report.plots import file_name
from backsplit.report.recipe_figures import draw_masks, draw_points, draw_slices
from backsplit.report.serving import ReportServer
from backsplit.report.site import write, write_single, write_waiting

__all__ = [
    "ReportInputs",
    "ReportServer",
    "draw_masks",
    "draw_points",
    "draw_slices",
    "file_name",
    "write",
    "write_figures",
    "write_single",
    "write_waiting",
]
