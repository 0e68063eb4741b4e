"""Work in processes of its own, some of which die."""

import os
import signal
from pathlib import Path

from backsplit.workers import run_isolated


def begin(folder: Path) -> None:
    os.chdir(folder)


def work(name: str) -> None:
    with Path(name).open("a") as stream:
        stream.write("x")
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "bug":
        raise ZeroDivisionError(name)


def test_every_item_comes_once_and_only_what_was_under_way_is_done_again(tmp_path):
    names = ["a", "b", "killed 1", "c", "bug", "d", "killed 2"]
    came = list(run_isolated(work, names, num_processes=2, begin=begin, given=tmp_path))
    assert sorted(name for name, _ in came) == sorted(names)
    errors = {name: type(error).__name__ for name, error in came if error is not None}
    assert errors == {"killed 1": "BrokenProcessPool", "killed 2": "BrokenProcessPool", "bug": "ZeroDivisionError"}
    tries = {name: len((tmp_path / name).read_text()) for name in names}
    assert max(tries.values()) <= 2
    assert sum(tries[name] == 2 for name in names if not name.startswith("killed")) <= 2, "one beside each that died"


def test_alone_nothing_is_done_again(tmp_path):
    names = ["a", "killed", "b"]
    came = run_isolated(work, names, num_processes=1, begin=begin, given=tmp_path)
    assert [(name, error is None) for name, error in came] == [("a", True), ("killed", False), ("b", True)]
    assert [(tmp_path / name).read_text() for name in names] == ["x"] * 3
