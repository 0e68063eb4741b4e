"""Which label value is which structure: JSON tables, `dataset.json`, and the table in the header of a NIfTI file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import nibabel
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from backsplit.arrays import LabelMap
from backsplit.errors import LabelError, SourceError
from backsplit.labels import BACKGROUND

LabelTable = tuple[tuple[int, str], ...]
"""Label value and structure, sorted by value, without 0."""
LARGEST_LABEL = 2**16 - 1


def read_table(path: Path) -> LabelTable:
    """Read `{"liver": 5}`, `{"5": "liver"}`, or either under the key `labels`, as in a `dataset.json`.

    Value 0 is nothing, whatever its name; values may have gaps.

    Raises:
        SourceError: it is missing or no JSON.
        LabelError: a value that is no whole number up to 65535, a region, or a value or name that comes twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f'{path}: no table of labels ({error}); expected JSON such as {{"liver": 5}}') from error
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        content = content["labels"]
    if not isinstance(content, dict):
        raise LabelError(
            f'{path}: expected a table such as {{"liver": 5}} or {{"5": "liver"}}, got {str(content)[:60]}'
        )
    is_by_value = all(key.isdecimal() and isinstance(entry, str) for key, entry in content.items())
    return _checked([(key, entry) if is_by_value else (entry, key) for key, entry in content.items()], path)


def header_table(path: Path) -> LabelTable | None:
    """The table that TotalSegmentator writes into the header of a NIfTI file; None where there is none.

    The header is a stranger's XML: a document type, which is what entities need, is refused, and nothing is fetched.

    Raises:
        SourceError: the header cannot be read.
        LabelError: as `read_table`.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    try:
        extensions = nibabel.Nifti1Image.from_filename(path).header.extensions
    except (ImageFileError, HeaderDataError, OSError, EOFError) as error:
        raise SourceError(f"{path}: its header cannot be read ({error}); copy or make it again") from error
    for content in (bytes(extension.get_content()) for extension in extensions):
        if b"<LabelTable" in content:
            return _checked(_labels_in(content, path), path)
    return None


def pick(labels: LabelMap, table: LabelTable, structures: Sequence[str], *, origin: str) -> LabelMap:
    """Number the structures as a mask set does: value `i + 1` is `structures[i]`, anything else 0.

    Args:
        labels: any whole numbers.
        table: names of all values in it; a structure that it does not name has no voxel.
        structures: which to keep.
        origin: case and file, for the error.

    Raises:
        LabelError: values without a name.
    """
    present = sorted(pd.unique(labels.ravel(order="K")).tolist())
    unnamed = [value for value in present if value not in {0, *dict(table)}]
    if unnamed:
        shown = ", ".join(map(str, unnamed[:10])) + (" and more" if len(unnamed) > 10 else "")
        raise LabelError(
            f"{origin}: {len(unnamed)} label values have no name: {shown}; add them to the table of labels"
        )
    index = {name: number for number, name in enumerate(structures, start=1)}
    lookup = np.zeros(max(present) + 1, np.min_scalar_type(len(structures)))
    for value, name in table:
        if value < lookup.size:
            lookup[value] = index.get(name, 0)
    return lookup[labels]


def _labels_in(content: bytes, path: Path) -> list[tuple[object, object]]:
    """Key and text of each `<Label>`."""
    found: list[tuple[str, list[str]]] = []
    parser = expat.ParserCreate()

    def begin(tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "Label":
            found.append((attributes.get("Key", ""), []))
            parser.CharacterDataHandler = found[-1][1].append

    def end(tag: str) -> None:  # noqa: ARG001  expat's signature
        parser.CharacterDataHandler = None

    def refuse(*_: object) -> NoReturn:
        raise SourceError(f"{path}: the table in its header has a document type, which none needs; give --table")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = begin, end, refuse
    try:
        parser.Parse(content.rstrip(b"\0 \t\r\n"), True)  # noqa: FBT003  expat's signature
    except expat.ExpatError as error:
        raise SourceError(f"{path}: the table in its header is damaged ({error}); give --table") from error
    return [(key, "".join(text).strip()) for key, text in found]


def _checked(entries: Sequence[tuple[object, object]], path: Path) -> LabelTable:
    table: dict[int, str] = {}
    for value, name in entries:
        if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) > LARGEST_LABEL:
            raise LabelError(
                f"{path}: label {name!r} has the value {value!r}, expected a whole number to {LARGEST_LABEL}"
            )
        if int(str(value)) in table or str(name) in table.values():
            raise LabelError(f"{path}: value {value} or name {name!r} comes twice; give each value one name of its own")
        table[int(str(value))] = str(name)
    table.pop(0, None)
    if not table or BACKGROUND in table.values() or "" in table.values():
        raise LabelError(f"{path}: expected names for values above 0, none empty or {BACKGROUND!r}, got {table}")
    return tuple(sorted(table.items()))
