"""A report about one comparison: tables in, HTML out. No torch here."""

from backsplit.report.gather import ReportInputs
from backsplit.report.site import write, write_single

__all__ = ["ReportInputs", "write", "write_single"]
