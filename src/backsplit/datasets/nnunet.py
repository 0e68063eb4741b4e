"""nnU-Net v2 raw data sets, and Medical Segmentation Decathlon folders with one file per channel.

Layout: `dataset.json`, `imagesTr/<case>_0000.nii.gz` (one file per channel), `labelsTr/<case>.nii.gz`, `imagesTs/`. The
Decathlon names the image of a single channel `<case>.nii.gz` and writes labels as `{"1": "liver"}`; nnU-Net writes
`{"liver": 1}`, and may list the files under the key `dataset` instead.

Source:
    nnU-Net v2, documentation/dataset_format.md; http://medicaldecathlon.com.
"""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backsplit.cases import Case
from backsplit.datasets.download import Described, FoundFiles, Listing, check_files, stems
from backsplit.errors import CohortError
from backsplit.labels import BACKGROUND
from backsplit.volume import FILE_ENDINGS

CHANNEL_SUFFIX = re.compile(r"_(\d{4})$")
FOLDERS = {"training": ("imagesTr", "labelsTr"), "test": ("imagesTs", None)}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Description:
    """What `dataset.json` says."""

    channels: tuple[str, ...]
    label_names: tuple[tuple[int, str], ...]
    file_ending: str
    files: Mapping[str, Any]
    """Case name to `{"images": [...], "label": ...}`; empty where the folders tell."""
    num_training: int | None
    ignore: int | None = None
    """Label value of voxels that nobody annotated."""


@dataclass(frozen=True, slots=True)
class DescribedFolder:
    """A folder with `dataset.json`."""

    source: Path
    description: Description

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.source.name

    @property
    def channels(self) -> tuple[str, ...]:
        """As the description names them."""
        return self.description.channels

    @property
    def label_names(self) -> tuple[tuple[int, str], ...]:
        """As the description names them."""
        return self.description.label_names


@dataclass(frozen=True, slots=True)
class RawDataset(DescribedFolder):
    """nnU-Net's. Every case is a patient of its own: the format does not say who shares one."""

    split: Literal["training", "test"]
    kind: str = "nnunet"
    """Name of the converter."""

    @property
    def ignore(self) -> int | None:
        """The label called `ignore`, if there is one."""
        return self.description.ignore

    @property
    def how(self) -> dict[str, str]:
        """Converter and split."""
        return {"data set": self.kind, "split": self.split}

    def find(self) -> Listing:
        """Cases that the description lists, else those of which the folders hold an image or a label.

        Raises:
            CohortError: there is none, or a listed case is not described as it should be.
        """
        if self.split == "training" and self.description.files:
            found = _listed_cases(self.source, self.description)
        else:
            found = _found_cases(self.source, self.description, self.split)
        if not found:
            raise CohortError(
                f"{self.source}: no {self.split} case; expected "
                f"{FOLDERS[self.split][0]}/<case>_0000{self.description.file_ending}; "
                "check file_ending in dataset.json"
            )
        if self.split == "training" and self.description.num_training not in {None, len(found)}:
            logger.warning("%s: %d cases, dataset.json says %d", self.source, len(found), self.description.num_training)
        return Listing(found)

    def describe(self, found: FoundFiles) -> Described:
        """Take the files as they are.

        Raises:
            CohortError: one is missing.
        """
        check_files(found, self.channels)
        return Described(found.images, found.labels, group=found.name)

    def splits(self, names: Sequence[str], /) -> None:
        """The format has none."""


def open_raw(source: Path, *, split: Literal["training", "test"] = "training") -> RawDataset:
    """A data set folder.

    Args:
        source: folder of `dataset.json`.
        split: `training` reads imagesTr and labelsTr, `test` reads imagesTs and no labels.

    Raises:
        CohortError: no usable `dataset.json`.
    """
    source = source.resolve()
    return RawDataset(source, describe_dataset(source / "dataset.json"), split)


def images_in(folder: Path) -> tuple[Case, ...]:
    """Cases of a folder of images named `<case>_0000.nii.gz`, one number per channel; no labels, no file is opened.

    Raises:
        CohortError: no such folder, or no image in it.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise CohortError(f"{folder}: no such folder; give a cohort, or a folder of images named <case>_0000.nii.gz")
    numbered = re.compile(r"(?P<name>[^.].*)_\d{4}(" + "|".join(map(re.escape, FILE_ENDINGS)) + ")")
    images: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := numbered.fullmatch(path.name):
            images.setdefault(match["name"], []).append(path)
    if not images:
        raise CohortError(f"{folder}: no image named <case>_0000 with ending {', '.join(FILE_ENDINGS)}; rename them")
    return tuple(Case(name, tuple(files), None, group=name) for name, files in images.items())


def describe_dataset(path: Path) -> Description:
    """Read `dataset.json`.

    Raises:
        CohortError: it is missing, or says something that cannot be used.
    """
    if not path.is_file():
        raise CohortError(f"{path}: no such file; expected the folder of an nnU-Net raw data set; check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CohortError(f"{path}: not JSON ({error}); mend it by hand") from error
    try:
        ending, files, num_training = _options(content)
        names, ignore = _label_names(content)
        return Description(_channels(content), names, ending, files, num_training, ignore)
    except CohortError as error:
        raise CohortError(f"{path}: {error}") from error


def _options(content: object) -> tuple[str, Mapping[str, Any], int | None]:
    """File ending, listed files and number of training cases."""
    match content:
        case {"file_ending": ending} if ending not in FILE_ENDINGS:
            raise CohortError(
                f"file_ending is {ending!r}, expected one of {', '.join(FILE_ENDINGS)}; convert the images"
            )
        case {"dataset": files} if not isinstance(files, dict):
            raise CohortError(f"'dataset' should map case names to files, got {str(files)[:60]!r}")
        case {"numTraining": number} if not isinstance(number, int):
            raise CohortError(f"'numTraining' should be a number, got {str(number)[:60]!r}")
        case dict():
            return content.get("file_ending", ".nii.gz"), content.get("dataset", {}), content.get("numTraining")
    raise CohortError(f"expected a JSON object, got {str(content)[:60]!r}")


def _channels(content: Mapping[str, Any]) -> tuple[str, ...]:
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or {*channels} != {str(index) for index in range(len(channels))} or not channels:
        raise CohortError(f"'channel_names' should be such as {{'0': 'CT'}}, numbered from 0 up, got {channels!r}")
    return tuple(str(channels[str(index)]) for index in range(len(channels)))


def _label_names(content: Mapping[str, Any]) -> tuple[tuple[tuple[int, str], ...], int | None]:
    """Label values and names, in order of value, 0 called background; and the value to ignore.

    Labels come as `{"liver": 1}`, `{"1": "liver"}`, or as regions, `{"whole": [1, 2], "core": [2]}`.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict):
        raise CohortError(f"'labels' should be such as {{'background': 0, 'liver': 1}}, got {labels!r}")
    by_value = all(str(key).isdecimal() for key in labels)
    pairs = [(str(entry), [key]) if by_value else (str(key), _values(entry)) for key, entry in labels.items()]
    regions = {name: [_whole(value, name) for value in values] for name, values in pairs}
    if len(regions) < len(pairs):
        raise CohortError(f"'labels' names a class twice: {labels}; each value needs a name of its own")
    if mixed := [name for name, values in regions.items() if 0 in values and len(values) > 1]:
        raise CohortError(f"label {mixed[0]!r}: {regions[mixed[0]]} holds the background, expected values above 0")
    ignored = regions.pop("ignore", [])
    names = _atoms(regions)
    if 0 not in names:
        raise CohortError(f"no label has the value 0, expected the background there, got {labels}")
    if ignored and (len(ignored) > 1 or ignored[0] <= max(names)):
        raise CohortError(f"label 'ignore' has the value {ignored}, expected one above all others, as in nnU-Net")
    return tuple(sorted((names | {0: BACKGROUND}).items())), ignored[0] if ignored else None


def _values(entry: object) -> list[Any]:
    return list(entry) if isinstance(entry, list) else [entry]


def _whole(value: object, name: str) -> int:
    if not str(value).isdecimal():
        raise CohortError(f"label {name!r} has the value {value!r}, expected a whole number of its own, 0 or more")
    return int(str(value))


def _atoms(regions: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """A name for each label value: regions overlap, classes must not.

    A value is called as the smallest region that holds it; with `_only` where that region holds other values as well,
    which a smaller region has: enhancing [3] in core [2, 3] in whole [1, 2, 3] gives `whole_only`, `core_only` and
    `enhancing`. A region is then the union of the classes that it holds.
    """
    names: dict[int, str] = {}
    for value in sorted({value for values in regions.values() for value in values}):
        alone = [name for name, values in regions.items() if list(values) == [value]]
        if len(alone) > 1:
            raise CohortError(
                f"label {alone[1]!r} has the value {value}, expected a whole number of its own, 0 or more"
            )
        smallest = min((name for name in regions if value in regions[name]), key=lambda name: len(regions[name]))
        names[value] = smallest if alone else f"{smallest}_only"
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {value: f"{name}_{value}" if name in twice else name for value, name in names.items()}


def _listed_cases(source: Path, description: Description) -> list[FoundFiles]:
    """Cases of the key `dataset`; paths are relative to `source` or absolute, with environment variables."""

    def absolute(text: str) -> Path:
        path = source / os.path.expandvars(text)
        return path.parent.resolve() / path.name

    cases = []
    for name, entry in sorted(description.files.items()):
        match entry:
            case {"images": [*images], "label": str(label)} if all(isinstance(image, str) for image in images):
                cases.append(FoundFiles(name, tuple(map(absolute, images)), absolute(label)))
            case _:
                raise CohortError(f"{name}: 'dataset' should give images and a label, got {str(entry)[:60]!r}")
    return cases


def _found_cases(source: Path, description: Description, split: Literal["training", "test"]) -> list[FoundFiles]:
    """Cases that the folders hold an image or a label of; whether the other files exist is checked later."""
    image_folder, label_folder = FOLDERS[split]
    imaged = stems(source / image_folder, description.file_ending)
    labelled = set() if label_folder is None else stems(source / label_folder, description.file_ending)
    names = labelled | {stem if stem in labelled else CHANNEL_SUFFIX.sub("", stem) for stem in imaged}
    cases = []
    for name in sorted(names):
        numbered = [f"{name}_{index:04}" for index in range(len(description.channels))]
        found = [name] if name in imaged and len(numbered) == 1 and numbered[0] not in imaged else numbered
        images = tuple(source / image_folder / f"{stem}{description.file_ending}" for stem in found)
        labels = None if label_folder is None else source / label_folder / f"{name}{description.file_ending}"
        cases.append(FoundFiles(name, images, labels))
    return cases
