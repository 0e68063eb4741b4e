"""Reading the next item and writing the last one while this one is worked on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from backsplit.errors import BackSplitError

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Read], Made],
    write: Callable[[Made], None],
) -> Iterator[tuple[Item, BackSplitError | None]]:
    """Do three stages for each item, in order; yield each item once it is written, with what was wrong with it.

    Reading and writing have a thread each, `work` runs in the caller's. However slow the other stages are, one item at
    most has been read and waits, and one at most has been worked on and is being written: this bounds the memory. Any
    error that is no `BackSplitError` ends it all.

    Args:
        items: what to do.
        read: first stage.
        work: second stage.
        write: third stage.
    """
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        reading: list[Future[Read]] = [reader.submit(read, item) for item in items[:1]]
        writing: list[tuple[Item, Future[None]]] = []
        for index, item in enumerate(items):
            seen = reading.pop()
            seen.exception()  # waits; the next item is read from here on
            reading += [reader.submit(read, following) for following in items[index + 1 : index + 2]]
            made: Future[Made] = _done(lambda seen=seen: work(seen.result()))
            yield from ((before, _told(written)) for before, written in writing)
            writing = [(item, writer.submit(lambda made=made: write(made.result())))]
        yield from ((before, _told(written)) for before, written in writing)


def _done(work: Callable[[], Made]) -> Future[Made]:
    """What came of some work in this thread, the user's errors among it."""
    future: Future[Made] = Future()
    try:
        future.set_result(work())
    except BackSplitError as error:
        future.set_exception(error)
    return future


def _told(written: Future[None]) -> BackSplitError | None:
    error = written.exception()
    if error is not None and not isinstance(error, BackSplitError):
        raise error
    return error
