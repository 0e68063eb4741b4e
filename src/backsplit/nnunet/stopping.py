"""A training that is asked to stop: SIGUSR1 is what Slurm can send when the time limit is near."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has none


@contextmanager
def listening() -> Generator[threading.Event]:
    """Give an event that the signal sets for as long as the block runs; without it, the signal ends the process."""
    is_asked = threading.Event()
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield is_asked
        return
    before = signal.signal(SIGNAL, lambda *_: is_asked.set())
    try:
        yield is_asked
    finally:
        signal.signal(SIGNAL, before)
