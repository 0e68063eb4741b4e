"""Work in processes of its own, some of which die."""

import os
import signal
from pathlib import Path

import pytest

from backsplit.workers import run_each, run_isolated


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


def halve(number, given):
    if number % 2:
        raise given(f"{number} is odd")
    if number == 6:
        raise OSError("disk full")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_faults_of_items_are_given_back_and_other_errors_raised(num_processes):
    ended = dict(run_each(halve, [0, 1, 2, 3], given=KeyError, num_processes=num_processes, faults=(KeyError,)))
    assert sorted(item for item, error in ended.items() if error is None) == [0, 2]
    assert "1 is odd" in str(ended[1])
    with pytest.raises(OSError, match="disk full"):
        list(run_each(halve, [4, 6], given=KeyError, num_processes=num_processes, faults=(KeyError,)))
