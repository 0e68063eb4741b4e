"""Masks from VIBESegmentator, as TPTBox runs it, in a process of its own and without a download."""

import ast
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.sources.process import image_of, installed_version, nifti_of, read_output, run_tool
from backsplit.sources.protocol import Masks
from backsplit.sources.structures import choose_structures
from backsplit.sources.weights import LICENCES, hash_weights, missing_weights

NAME = "VIBESegmentator"
LICENCE = LICENCES["vibesegmentator"]
NUMBER = 100
DOWNLOAD = f"from TPTBox.segmentation.VibeSeg.auto_download import download_weights as get; get({NUMBER})"
RESULTS = "nnUNet_results"


@dataclass(frozen=True, slots=True)
class VibeSegmentatorSource:
    """A `MaskSource`; `open_vibesegmentator` makes one."""

    structures: tuple[str, ...]
    how: Mapping[str, Any]
    root: Path
    """Folder that holds `nnUNet_results`, or is it."""
    device: Literal["cpu", "cuda", "mps"]
    channel: int

    def inputs(self, case: Case) -> tuple[Path, ...]:
        """The image of the channel."""
        return (image_of(case, self.channel),)

    def segment(self, case: Case, scratch: Path) -> Masks:
        """Run the tool on one case.

        Raises:
            SourceError: it failed, or gave what its table does not name.
        """
        output = scratch / "masks.nii.gz"
        image = nifti_of(image_of(case, self.channel), scratch)
        arguments = [str(image), str(output), str(self.root), self.device]
        run_tool("backsplit.sources.vibe_main", arguments, tool=NAME, case=case.name, environment={})
        table = _table()
        groups = [[value for value, name in table.items() if name == structure] for structure in self.structures]
        return Masks(read_output(output, tool=NAME, case=case.name, groups=groups, known=table))


def open_vibesegmentator(
    *,
    structures: Sequence[str] | None,
    weights: Path | None,
    device: Literal["cpu", "cuda", "mps"],
    channel: int,
    force: bool,
) -> VibeSegmentatorSource:
    """VIBESegmentator's model of the whole body, ready to run: installed, its weights found and hashed.

    Args:
        structures: names of its classes; None: all. The tool always finds all of them.
        weights: folder that holds `nnUNet_results/Dataset100...`; None: where TPTBox itself would look.
        device: what to run it on.
        channel: which image of a case it gets, from 0.
        force: take classes that are lesions too; model 100 has none.

    Raises:
        SourceError: TPTBox is not installed, weights are missing, or a structure cannot be had.
    """
    version = installed_version("TPTBox", extra="vibe")
    available = [name for name in _table().values() if not name.startswith("unused")]
    chosen = choose_structures(available, structures, force=force)
    root = default_root() if weights is None else weights.resolve()
    model = _model(root)
    how = {
        "tool": NAME,
        "version": f"TPTBox {version}, model {NUMBER}",
        "weights": {"sha256": hash_weights([model], model.parent), "models": [model.name]},
        "licence": LICENCE,
        "channel": channel,
    }
    return VibeSegmentatorSource(chosen, how, root, device, channel)


def _package() -> Path:
    """Folder of TPTBox, found without importing it: that takes seconds, and changes the search path of modules."""
    spec = find_spec("TPTBox")
    if spec is None or not spec.submodule_search_locations:
        raise SourceError('TPTBox cannot be imported; install it again with `pip install "backsplit[vibe]"`')
    return Path(spec.submodule_search_locations[0])


def _table() -> dict[int, str]:
    """Label values of model 100 and their names, as TPTBox writes them down."""
    module = _package() / "segmentation" / "VibeSeg" / "vibeseg.py"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VibeSeg_map":
            return ast.literal_eval(node.value)
    raise SourceError(f'{module} has no VibeSeg_map; install a TPTBox that has it with `pip install "backsplit[vibe]"`')


def _model(root: Path) -> Path:
    """The folder of the model: the only one with its number, because TPTBox takes any that it meets."""
    results = root if root.name == RESULTS else root / RESULTS
    found = sorted(folder for folder in results.glob(f"*{NUMBER}*") if folder.is_dir())
    if not found:
        command = f"VIBESEG_WEIGHTS_PATH={shlex.quote(str(results))} python -c {shlex.quote(DOWNLOAD)}"
        raise missing_weights(NAME, [f"Dataset{NUMBER}"], folder=results, licence=LICENCE, command=command)
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found)
        raise SourceError(f"{NAME}: {results} has several folders for {NUMBER}: {names}; leave one of them there")
    return found[0]


def default_root() -> Path:
    """Where TPTBox looks for weights if it is not told."""
    own = _package() / "segmentation" / "nnUNet" / RESULTS
    return Path(os.environ.get("VIBESEG_WEIGHTS_PATH", own)).resolve()
