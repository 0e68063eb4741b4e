"""A training that is asked to stop: SIGUSR1 is what Slurm can send when the time limit is near."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has none


@contextmanager
def listening() -> Generator[threading.Event]:
    """Give an event that the signal sets for as long as the block runs."""
    is_asked = threading.Event()
    with _handling(lambda *_: is_asked.set()):
        yield is_asked


def ignoring() -> AbstractContextManager[None]:
    """Let the signal pass for as long as the block runs; processes that start in it do the same until they listen.

    Without that, the signal ends a process, and with it a training that others share.
    """
    return _handling(signal.SIG_IGN)


@contextmanager
def _handling(handler: Callable[..., Any] | signal.Handlers) -> Generator[None]:
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(SIGNAL, handler)
    try:
        yield
    finally:
        signal.signal(SIGNAL, before)
