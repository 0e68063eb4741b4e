"""One run per store, and no job of it that outlives it.

A run holds the lock of the store, and that of a file of its own. Its jobs wait for the latter (`jobs.die_with_run`);
when they get it, or the file is not there any more, the run is gone. Who runs stands in a file beside them, so that a
second command can say whom it waits for.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

from backsplit.errors import ConfigurationError
from backsplit.experiments.paths import Store
from backsplit.files import write_json

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def only_run(store: Store) -> Generator[Path]:
    """Be the one run of a store; one that was killed is told and cleared.

    Yields:
        The lifeline of this run, for its jobs.

    Raises:
        ConfigurationError: another run is at work.
    """
    _clear(store)
    store.lock.parent.mkdir(parents=True, exist_ok=True)
    lifeline = store.lifeline(secrets.token_hex(8))
    with store.lock.open("a") as lock:
        _lock(lock, store)
        for old in store.lock.parent.glob(store.lifeline("*").name):
            old.unlink()
        write_json({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}, store.driver)
        with lifeline.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield lifeline
            finally:
                store.driver.unlink(missing_ok=True)
                lifeline.unlink(missing_ok=True)


def _lock(file: IO[str], store: Store) -> None:
    """Take the lock of the store.

    Raises:
        ConfigurationError: somebody has it who has not yet written down who it is.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(f"another run starts in {store.root}; wait for it, or stop it") from None


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
