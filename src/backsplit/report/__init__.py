"""One page about one comparison: tables in, HTML out. No torch here."""

from backsplit.report.gather import ReportInputs, write

__all__ = ["ReportInputs", "write"]
