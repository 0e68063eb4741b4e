"""What a folder of masks has of each case.

Layouts, one for the whole folder, files with any of `backsplit.volume.FILE_ENDINGS`:

* `<case>/<structure>.nii.gz`, as TotalSegmentator writes them, or `<case>/segmentations/<structure>.nii.gz`, as its
  data set and AbdomenAtlas have them. Where there is `segmentations`, only what lies in it counts. Every volume is a
  structure by its file name; other files, such as `statistics.json`, are ignored.
* `<case>.nii.gz`, a label map.

Names of cases and structures are compared with what a listing gives and never joined into a path, so none leads out of
the folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backsplit.errors import SourceError
from backsplit.labels import BACKGROUND
from backsplit.volume import FILE_ENDINGS

SUBFOLDER = "segmentations"


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """One of the two, or nothing."""

    masks: Mapping[str, Path]
    """Structure to its file; a file called `background` is none."""
    label_map: Path | None


def files_of(root: Path, case_name: str) -> CaseFiles:
    """List the masks of a case.

    Raises:
        SourceError: both layouts, or two files of one name with different endings.
    """
    found = [path for path in sorted(root.iterdir()) if case_name == (path.name if path.is_dir() else _stem(path))]
    if len(found) > 1:
        raise SourceError(
            f"{case_name}: {root} has {' and '.join(path.name for path in found)}; expected one of them; move the "
            "others away"
        )
    if not found or not found[0].is_dir():
        return CaseFiles({}, found[0] if found else None)
    subfolder = next((path for path in found[0].iterdir() if path.name == SUBFOLDER and path.is_dir()), found[0])
    return CaseFiles(_masks_in(subfolder, case_name), None)


def _masks_in(folder: Path, case_name: str) -> Mapping[str, Path]:
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = None if path.is_dir() else _stem(path)
        if name in masks:
            raise SourceError(f"{case_name}: {masks[name].name} and {path.name} are the same structure; keep one")
        if name not in {None, BACKGROUND}:
            masks[str(name)] = path
    return masks


def _stem(path: Path) -> str | None:
    """The name of a volume without its ending; None for other and hidden files."""
    ending = next((ending for ending in FILE_ENDINGS if path.name.endswith(ending)), None)
    return None if ending is None or path.name.startswith(".") else path.name.removesuffix(ending)
