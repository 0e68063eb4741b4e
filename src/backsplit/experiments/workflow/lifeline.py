"""One run per store, and no job of it that outlives it.

A run holds the lock of a file. Its jobs wait for that lock (`jobs.die_with_run`); when they get it the run is gone. Who
holds it stands in a file beside it, so that a second command can say whom it waits for.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Generator
from datetime import UTC, datetime
from typing import IO

import psutil

from backsplit.errors import ConfigurationError
from backsplit.experiments.paths import Store
from backsplit.files import write_json

logger = logging.getLogger(__name__)
SECONDS_FOR_JOBS_TO_END = 10


@contextlib.contextmanager
def only_run(store: Store) -> Generator[None]:
    """Be the one run of a store; one that was killed is told and cleared.

    Raises:
        ConfigurationError: another run is at work.
    """
    _clear(store)
    store.lifeline.parent.mkdir(parents=True, exist_ok=True)
    with store.lifeline.open("a") as file:
        _lock(file, store)
        write_json({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}, store.driver)
        try:
            yield
        finally:
            store.driver.unlink(missing_ok=True)


def _lock(file: IO[str], store: Store) -> None:
    """Take the lock; jobs of a killed run hold it for the moment in which they end.

    Raises:
        ConfigurationError: somebody keeps it.
    """
    for _ in range(SECONDS_FOR_JOBS_TO_END * 10):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.1)
    raise ConfigurationError(f"another run starts in {store.root}; wait for it, or stop it")


def _clear(store: Store) -> None:
    """Refuse while another run lives; say so where one was killed.

    Raises:
        ConfigurationError: it lives, or is on another machine, where that cannot be seen.
    """
    if not store.driver.exists():
        return
    told = json.loads(store.driver.read_text())
    since = datetime.fromtimestamp(told["started"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    who = f"process {told['pid']} on {told['host']}, started {since}"
    if told["host"] != socket.gethostname():
        raise ConfigurationError(f"{store.root} is used by {who}; if that is gone, remove {store.driver}")
    if _started(told["pid"]) == told["started"]:
        raise ConfigurationError(f"{store.root} is used by {who}; wait for it, or stop it")
    logger.info("the last run here (%s) was killed; its lock is cleared, and what it finished is kept", who)
    store.driver.unlink()


def _started(pid: int) -> float | None:
    """When a process began, in seconds of the epoch; None if there is none. Another of that number began later."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
