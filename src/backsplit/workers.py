"""Work on many items in processes of their own, none of which can take the others down."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

Item = TypeVar("Item")


def run_isolated(
    work: Callable[[Item], None],
    items: Iterable[Item],
    *,
    num_processes: int,
    begin: Callable[..., None],
    given: Any,  # noqa: ANN401  passed on
) -> Iterator[tuple[Item, BaseException | None]]:
    """Call `work(item)` for each item in spawned processes; yield each item as it ends, with its error if it had one.

    A process that dies (killed for memory, a crash in C) costs only the item that killed it: the items that were under
    way are done again, each alone, to see which it was.

    Args:
        work: function of a module, so that it can be found in another process.
        items: what to work on; anything that pickles.
        num_processes: items at a time.
        begin: called once in each process with `given`, before any work.
        given: argument of `begin`.
    """
    waiting, suspects = deque(items), deque[Item]()
    while waiting or suspects:
        batch, width = (suspects, 1) if suspects else (waiting, num_processes)
        pool = ProcessPoolExecutor(width, multiprocessing.get_context("spawn"), _begin, (begin, given))
        running: dict[Future[None], Item] = {}
        with pool:
            while batch or running:
                try:
                    while batch and len(running) < width:
                        running[pool.submit(work, batch[0])] = batch[0]
                        batch.popleft()
                except BrokenProcessPool:
                    break
                done = wait(running, return_when=FIRST_COMPLETED).done
                ended = [future for future in done if not isinstance(future.exception(), BrokenProcessPool)]
                for future in ended:
                    yield running.pop(future), future.exception()
                if len(ended) < len(done):
                    break
        under_way = list(running.values())
        if width == 1 or len(under_way) == 1:
            for item in under_way:
                yield item, BrokenProcessPool("its process was killed, most often for lack of memory")
        else:
            suspects.extend(under_way)


def run_each(
    work: Callable[[Item, Any], None],
    items: Sequence[Item],
    *,
    given: Any,  # noqa: ANN401  passed on
    num_processes: int,
    faults: tuple[type[Exception], ...],
) -> Iterator[tuple[Item, Exception | None]]:
    """Call `work(item, given)` for each item, here or in processes; yield each item as it ends, with its fault or None.

    Args:
        work: function of a module.
        items: what to work on.
        given: the same for all items; pickles.
        num_processes: items at a time; 1 works in this process, which costs no start.
        faults: errors that concern an item alone, as does a process that was killed. Others, about this program or the
            disk, are raised.
    """
    if num_processes > 1 and len(items) > 1:
        width = min(num_processes, len(items))
        ended = run_isolated(_work_here, items, num_processes=width, begin=_remember, given=(work, given))
    else:
        ended = ((item, _error_of(work, item, given)) for item in items)
    for item, error in ended:
        if error is not None and not isinstance(error, (*faults, BrokenProcessPool)):
            raise error
        yield item, error


_HERE: list[Any] = []
"""Work and what is given, of this worker process."""


def _remember(work_and_given: tuple[Any, Any]) -> None:
    _HERE[:] = work_and_given


def _work_here(item: Any) -> None:  # noqa: ANN401  any item
    work, given = _HERE
    work(item, given)


def _error_of(work: Callable[[Item, Any], None], item: Item, given: Any) -> Exception | None:  # noqa: ANN401  passed on
    try:
        work(item, given)
    except Exception as error:  # noqa: BLE001  the caller raises what is no fault of the item
        return error
    return None


def _begin(begin: Callable[..., None], given: Any) -> None:  # noqa: ANN401  passed on
    die_with_parent()
    begin(given)


def die_with_parent() -> None:
    """End this worker when the command that started it is killed; by itself it would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
