"""Masks from TotalSegmentator, the real tool in a process of its own: offline, and with its statistics switched off."""

import importlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources.process import image_of, installed_version, nifti_of, read_output, run_tool
from backsplit.sources.protocol import Masks
from backsplit.sources.structures import choose_structures
from backsplit.sources.weights import LICENCES, hash_weights, missing_weights

Task = Literal["total", "total_mr"]
Device = Literal["cpu", "cuda", "mps"]

NAME = "TotalSegmentator"
LICENCE = LICENCES["totalsegmentator"]
DEVICES: Mapping[Device, str] = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
JOINED: Mapping[Task, Mapping[str, tuple[str, ...]]] = {
    "total": {
        "lung_left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
        "lung_right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    },
    "total_mr": {},
}
"""Structures that several classes of the tool make up, and that it does not have itself."""
CROPPING: Mapping[Task, int] = {"total": 298, "total_mr": 852}
"""The data set whose model finds the region of the structures, where some are named."""
DOWNLOADS: Mapping[str, tuple[int, ...]] = {
    "total_fast": (297, 298),
    "total": (291, 292, 293, 294, 295, 298),
    "total_mr": (850, 851),
    "total_fast_mr": (852, 853),
}
"""What `totalseg_download_weights -t` fetches."""
CONFIGURATION = {
    "totalseg_id": "backsplit",
    "send_usage_stats": False,
    "prediction_counter": 0,
    "statistics_disclaimer_shown": True,
}
PATHS_OF_REPORT = {"input", "output", "output_files"}


@dataclass(frozen=True, slots=True)
class TotalSegmentatorSource:
    """A `MaskSource`; `open_totalsegmentator` makes one."""

    structures: tuple[str, ...]
    how: Mapping[str, Any]
    task: Task
    fast: bool
    subset: tuple[str, ...]
    """Classes that the tool is asked for; none for all."""
    root: Path
    """Folder of the weights."""
    device: Device
    channel: int

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The image of the channel."""
        return (image_of(case, self.channel),)

    def segment(self, case: Case, scratch: Path) -> Masks:
        """Run the tool on one case.

        Raises:
            SourceError: it failed, or gave what its table does not name.
        """
        output, report = scratch / "masks.nii.gz", scratch / "report.json"
        image = nifti_of(image_of(case, self.channel), scratch)
        run_tool(
            "totalsegmentator.bin.TotalSegmentator",
            [*self._arguments(), "-i", str(image), "-o", str(output), "--report", str(report)],
            tool=NAME,
            case=case.name,
            environment={"TOTALSEG_WEIGHTS_PATH": str(self.root), "TOTALSEG_HOME_DIR": str(_home(scratch))},
        )
        values = _values(self.task)
        groups = [[values[name] for name in _classes(structure, self.task)] for structure in self.structures]
        volume = read_output(output, tool=NAME, case=case.name, groups=groups, known=values.values())
        told = json.loads(report.read_text(encoding="utf-8"))
        return Masks(volume, details={key: value for key, value in told.items() if key not in PATHS_OF_REPORT})

    def _arguments(self) -> list[str]:
        """The command line but for files."""
        fast = ["--fast"] if self.fast else []
        subset = ["--roi_subset", *self.subset] if self.subset else []
        threads = ["--nr_thr_resamp", "1", "--nr_thr_saving", "1"]
        return ["--ml", "--task", self.task, *fast, *subset, *threads, "--device", DEVICES[self.device], "--quiet"]


def open_totalsegmentator(  # noqa: PLR0913  what a user may choose
    *,
    task: Task,
    fast: bool,
    structures: Sequence[str] | None,
    weights: Path | None,
    device: Device,
    channel: int,
    force: bool,
) -> TotalSegmentatorSource:
    """TotalSegmentator, ready to run: installed, its weights found and hashed.

    Args:
        task: `total` for CT, `total_mr` for MR.
        fast: the model of 3 mm instead of those of 1.5 mm.
        structures: names of its classes; on CT also `lung_left` and `lung_right`, which are joined from the lobes. The
            tool then works in their region alone. None: all its classes but lesions (so on CT the lobes themselves), in
            the whole image.
        weights: folder that holds its `Dataset...` folders; None: where the tool itself would look.
        device: what to run it on.
        channel: which image of a case it gets, from 0.
        force: take its classes that are lesions too.

    Raises:
        SourceError: the tool is not installed, weights are missing, or a structure cannot be had.
    """
    version = installed_version(NAME, extra="totalseg")
    own = tuple(_values(task))
    chosen = choose_structures(own if structures is None else (*own, *JOINED[task]), structures, force=force)
    wanted = [name for structure in chosen for name in _classes(structure, task)]
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise SourceError(f"structure {twice[0]!r} is also part of another that is named; leave one of them out")
    root = default_root() if weights is None else weights.resolve()
    datasets = _datasets(task, fast=fast, is_subset=structures is not None)
    _check_weights(datasets, root)
    how = {
        "tool": NAME,
        "version": version,
        "weights": {
            "sha256": hash_weights([root / name for name in datasets.values()], root),
            "models": list(datasets.values()),
        },
        "licence": LICENCE,
        "task": task,
        "fast": fast,
        "subset": structures is not None,
        "channel": channel,
    }
    subset = () if structures is None else tuple(name for name in own if name in wanted)
    return TotalSegmentatorSource(chosen, how, task, fast, subset, root, device, channel)


def _values(task: Task) -> dict[str, int]:
    """Classes of a task and their label values, in order of value."""
    names = importlib.import_module("totalsegmentator.map_to_binary").class_map[task]
    return {name: value for value, name in sorted(names.items())}


def _classes(structure: str, task: Task) -> tuple[str, ...]:
    return JOINED[task].get(structure, (structure,))


def _datasets(task: Task, *, fast: bool, is_subset: bool) -> dict[int, str]:
    """Folders of weights that the tool insists on, by the number of their data set."""
    tables: Any = importlib.import_module("totalsegmentator.map_tasks_config")
    given: int | list[int] = tables.TASK_CONFIGS[task]["sub_modes"]["fast" if fast else "default"]["task_id"]
    numbers = [given] if isinstance(given, int) else given
    cropping = [CROPPING[task]] if is_subset else []
    return {number: tables.TASK_ID_WEIGHTS_CONFIGS[number]["foldername"] for number in (*numbers, *cropping)}


def _check_weights(datasets: Mapping[int, str], root: Path) -> None:
    missing = [number for number, name in datasets.items() if not (root / name).is_dir()]
    if missing:
        fetch = f"TOTALSEG_WEIGHTS_PATH={shlex.quote(str(root))} totalseg_download_weights -t "
        command = " && ".join(fetch + name for name in _downloads(missing))
        names = [datasets[number] for number in missing]
        raise missing_weights(NAME, names, folder=root, licence=LICENCE, command=command)


def _downloads(missing: Sequence[int]) -> list[str]:
    """Names of downloads that bring all that is missing."""
    chosen: list[str] = []
    for number in missing:
        if not any(number in DOWNLOADS[name] for name in chosen):
            chosen.append(next(name for name, fetched in DOWNLOADS.items() if number in fetched))
    return chosen


def default_root() -> Path:
    """Where the tool looks for weights if it is not told."""
    home = Path(os.environ.get("TOTALSEG_HOME_DIR", Path.home() / ".totalsegmentator"))
    return Path(os.environ.get("TOTALSEG_WEIGHTS_PATH", home / "nnunet" / "results")).resolve()


def _home(scratch: Path) -> Path:
    """A home of the tool's own in which nothing has to be asked, counted or sent."""
    home = scratch / "home"
    home.mkdir()
    (home / "config.json").write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    return home
