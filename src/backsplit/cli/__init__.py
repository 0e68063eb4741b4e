"""The command line: one dataclass per command; it parses, calls one function, reports."""

from backsplit.cli.main import main

__all__ = ["main"]
