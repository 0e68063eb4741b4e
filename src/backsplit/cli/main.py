"""Choose the command, and turn what the user can mend into one line on stderr."""

import errno
import logging
import os
import sys
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from backsplit.cli.convert import Convert
from backsplit.cli.data import Compose, Prepare, Select
from backsplit.cli.demo import Demo
from backsplit.cli.doctor import Doctor
from backsplit.cli.grid import Reproduce, Run
from backsplit.cli.information import Fisher
from backsplit.cli.masks import Annotate, command_of
from backsplit.cli.models import Export, Import, Predict
from backsplit.cli.results import Compare, Evaluate, Report
from backsplit.cli.training import Finetune, Train
from backsplit.errors import BackSplitError, RecipeError
from backsplit.memory import use_huge_pages

DESCRIPTION = (
    "Lesion segmentation that trains with the background split into anatomy, and predicts the lesion alone.\n\n"
    "The usual order: convert, annotate, compose, prepare, train (once per arm), predict, evaluate, compare, report;\n"
    "select says which auxiliary classes are worth it, fisher what labels tell; run does it all, as a recipe says.\n"
    "`backsplit demo` walks through it on a made-up data set in minutes; `backsplit COMMAND --help` has examples."
)
COMMANDS = (
    Demo,
    Convert,
    Annotate,
    Compose,
    Select,
    Prepare,
    Train,
    Finetune,
    Predict,
    Evaluate,
    Compare,
    Fisher,
    Report,
    Run,
    Reproduce,
    Export,
    Import,
    Doctor,
)
LIFELINE, SLOTS = "BACKSPLIT_LIFELINE", "BACKSPLIT_GPU_SLOTS"  # as in experiments/jobs.py, which Windows has not
DISK_ADVICE = {
    errno.ENOSPC: "free some space or use another folder",
    errno.EDQUOT: "free some of your quota or use another folder",
    errno.EACCES: "use a folder that you may write to",
    errno.EROFS: "use a folder that you may write to",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 done, 1 something that the user can mend. Wrong usage ends the process with 2 in the parser.
    """
    command = _parse(list(sys.argv[1:] if arguments is None else arguments))
    _show_progress()
    use_huge_pages()
    try:
        _take_part(command)
        command.run()
    except RecipeError as error:
        return _fail_of_recipe(error)
    except BackSplitError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno not in DISK_ADVICE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{os.strerror(error.errno)}; {DISK_ADVICE[error.errno]}")
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from here")
    return 0


def _parse(arguments: list[str]) -> Any:  # noqa: ANN401  one of the commands
    """The command with its arguments; a command's own help is whole, the list of commands has a line for each."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    by_name = {command.__name__.lower(): command for command in COMMANDS}
    if arguments and (chosen := by_name.get(arguments[0])):
        chosen = command_of(arguments[1:]) if chosen is Annotate else chosen
        return tyro.cli(chosen, prog=f"backsplit {arguments[0]}", args=arguments[1:], config=config)
    lines = {name: (command.__doc__ or "").partition("\n")[0] for name, command in by_name.items()}
    listed = [
        Annotated[by_name[name], tyro.conf.subcommand(name, description=line)]  # ty: ignore[invalid-type-form] made here
        for name, line in lines.items()
    ]
    return tyro.cli(reduce(or_, listed), prog="backsplit", description=DESCRIPTION, args=arguments, config=config)


def _take_part(command: Any) -> None:  # noqa: ANN401  one of the commands
    """As a job of a grid: end with it, and use the GPUs that nobody else of it uses."""
    if not {LIFELINE, SLOTS} & os.environ.keys():
        return
    from backsplit.experiments import jobs

    jobs.die_with_run()
    if getattr(command, "device", "cpu") in ("auto", "cuda"):
        jobs.take(getattr(command, "gpus", 1))


def _show_progress() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("backsplit")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


def _fail_of_recipe(error: RecipeError) -> int:
    for fault in error.faults:
        sys.stderr.write(f"{fault}\n")
    count = len(error.faults)
    return _fail(f"{count} fault{'s' * (count > 1)} in the recipe; nothing was started")


def _fail(message: str) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"backsplit: error: {line}\n")
    return 1
