"""The report on disk: a folder that opens by double click, or one file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backsplit.cases import Case
from backsplit.errors import BackSplitError
from backsplit.files import stamps, write_text
from backsplit.progress import track_some
from backsplit.report.caseviews import Sight, case_view, files_of, safe_id
from backsplit.report.gather import ReportInputs, page_of, shown_cases, sight_of
from backsplit.report.page import LICENCES, SCRIPTS, STYLES, VIEWER_LIBRARY, Inline, asset, render, render_waiting
from backsplit.workers import run_each

VERSION = 2
"""Of the files of a case; with another one they are written again."""
CASES, ASSETS = "cases", "assets"


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs for every case."""

    sight: Sight
    folder: Path


def write(inputs: ReportInputs, path: Path, *, num_processes: int = 1) -> Path:
    """Write a report: the page at `path`, beside it `cases/` with a script per case, and `assets/`.

    The page comes last, so that what it opens is there. Files of cases whose volumes have not changed since are left as
    they are, those of cases that are no longer shown are removed; the same inputs give the same bytes.

    Args:
        inputs: what is shown.
        path: of the page.
        num_processes: cases at a time.

    Returns:
        `path`.

    Raises:
        As `page_of`.
    """
    page = page_of(inputs)
    sight, folder = sight_of(inputs), path.parent
    cases = [inputs.cohort.case(name) for name in shown_cases(inputs)]
    _write_cases(cases, _Work(sight, folder / CASES), num_processes)
    _write_assets(folder)
    write_text(render(page), path)
    _remove_strays(folder / CASES, {safe_id(case.name) for case in cases})
    return path


def write_waiting(reason: str, trainings: Sequence[tuple[str, str]], path: Path) -> None:
    """Write a page that says why there is no report yet, and how far each training is; it loads itself anew."""
    _write_assets(path.parent)
    write_text(render_waiting(reason, trainings), path)


def write_single(inputs: ReportInputs, path: Path) -> Path:
    """Write a report as one HTML file with the first view of every case inside; whole volumes are left out.

    Raises:
        As `page_of`.
    """
    page, sight = page_of(inputs), sight_of(inputs)
    views: dict[str, str] = {}
    for name in shown_cases(inputs):
        views[safe_id(name)] = _json(case_view(inputs.cohort.case(name), sight).first)
    write_text(render(page, Inline(views)), path)
    return path


def _write_assets(folder: Path) -> None:
    for name in (*STYLES, *SCRIPTS, VIEWER_LIBRARY, LICENCES):
        write_text(asset(name), folder / ASSETS / name)


def _write_cases(cases: list[Case], work: _Work, num_processes: int) -> None:
    waiting = [case for case in cases if not _is_done(case, work)]
    ended = run_each(_write_case, waiting, given=work, num_processes=num_processes, faults=(BackSplitError,))
    for _, error in track_some(ended, "made ready to view", total=len(waiting)):
        if error is not None:
            raise error


def _write_case(case: Case, work: _Work) -> None:
    """Write the whole volume first, then the first view with what it was made of: it marks the case as done."""
    first_line = _first_line(case, work)
    view = case_view(case, work.sight)
    whole = _whole_path(case, work)
    whole_bytes = 0
    if view.whole is None:
        whole.unlink(missing_ok=True)
    else:
        text = f"backsplit.receive({_json(view.whole)});\n"
        whole_bytes = len(text)
        write_text(text, whole)
    first = view.first | {"whole": whole_bytes and {"file": f"{CASES}/{whole.name}", "bytes": whole_bytes}}
    write_text(f"{first_line}backsplit.receive({_json(first)});\n", _path(case, work))


def _is_done(case: Case, work: _Work) -> bool:
    path = _path(case, work)
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as stream:
        return stream.readline() == _first_line(case, work)


def _first_line(case: Case, work: _Work) -> str:
    made_of = (VERSION, case.name, repr(work.sight), stamps(files_of(case, work.sight)))
    return f"// made of {hashlib.sha256(repr(made_of).encode()).hexdigest()}\n"


def _path(case: Case, work: _Work) -> Path:
    return work.folder / f"{safe_id(case.name)}.js"


def _whole_path(case: Case, work: _Work) -> Path:
    return work.folder / f"{safe_id(case.name)}.whole.js"


def _remove_strays(folder: Path, kept: set[str]) -> None:
    for path in _scripts(folder):
        if path.name.split(".")[0] not in kept:
            path.unlink()


def _scripts(folder: Path) -> Iterator[Path]:
    return folder.glob("[!.]*.js")


def _json(content: dict[str, Any]) -> str:
    """JSON that is also JavaScript, in ASCII."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
