"""Progress that suits both a terminal and a batch log."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


def format_duration(seconds: float) -> str:
    """Minutes and seconds, `0:42`, or hours, minutes and seconds, `1:02:03`; negative counts as zero."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def track(items: Collection[Item], done: str) -> Iterator[Item]:
    """Yield the items; show a bar on a terminal, else log one line per tenth with the time left.

    Args:
        items: anything with a length.
        done: what has been done to an item, as in `prepared`.
    """
    return track_some(items, done, total=len(items))


def track_some(items: Iterable[Item], done: str, *, total: int) -> Iterator[Item]:
    """The same for items that come without a length, such as results in the order in which they are ready."""
    console = Console(stderr=True)
    if console.is_terminal and logger.isEnabledFor(logging.INFO):
        yield from rich_track(items, description=done, total=total, console=console)
        return
    yield from _log_tenths(items, done, total)


def _log_tenths(items: Iterable[Item], done: str, total: int) -> Iterator[Item]:
    start = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if number * 10 // total > (number - 1) * 10 // total:
            left = (time.monotonic() - start) / number * (total - number)
            logger.info("%s %d of %d, %s left", done, number, total, format_duration(left))
