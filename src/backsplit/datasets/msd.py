"""The Medical Segmentation Decathlon.

Layout: `TaskXX_Name/{dataset.json, imagesTr/<case>.nii.gz, labelsTr/<case>.nii.gz}`, and files that begin with `._`.
Images of several channels have four axes, and are split into a file per channel. Lesion tasks get the names that the
rest of this package uses; the other tasks keep those of their `dataset.json`.

Source:
    Antonelli et al., Nature Communications 13, 4128, 2022; medicaldecathlon.com.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backsplit.datasets.download import Described, FoundFiles, Listing, stems
from backsplit.datasets.nnunet import DescribedFolder, describe_dataset
from backsplit.errors import CohortError, VolumeError
from backsplit.labels import BACKGROUND
from backsplit.volume import read_channels

ENDING = ".nii.gz"
PRESETS = {
    "Task03_Liver": ("liver", "tumor"),
    "Task06_Lung": ("tumor",),
    "Task07_Pancreas": ("pancreas", "tumor"),
    "Task08_HepaticVessel": ("vessel", "tumor"),
    "Task10_Colon": ("tumor",),
}
"""Names of label values 1, 2, ...; the target is `tumor`."""


@dataclass(frozen=True, slots=True)
class Task(DescribedFolder):
    """One task; classes have the names of its preset, if there is one."""

    ignore = None

    @property
    def how(self) -> Mapping[str, Any]:
        """Name of the converter; it has no options."""
        return {"data set": "msd"}

    def find(self) -> Listing:
        """Every case that has an image or a label map.

        Raises:
            CohortError: there is none.
        """
        images, labels = self.source / "imagesTr", self.source / "labelsTr"
        names = stems(images, ENDING) | stems(labels, ENDING)
        if not names:
            raise CohortError(f"{images}: no image; unpack the archive of the task again")
        return Listing(
            [FoundFiles(name, (images / f"{name}{ENDING}",), labels / f"{name}{ENDING}") for name in sorted(names)]
        )

    def describe(self, found: FoundFiles) -> Described:
        """Take the files as they are, or split the image by channel.

        Raises:
            CohortError: a missing file.
            VolumeError: an image with another number of channels, or one that cannot be read.
        """
        for what, path in zip(("image", "label map"), found.files, strict=True):
            if not path.is_file():
                raise CohortError(f"{found.name}: no {what}, expected {path}; add it or drop the case")
        if len(self.channels) == 1:
            return Described(found.images, found.labels, group=found.name)
        volumes = read_channels(found.images[0])
        if len(volumes) != len(self.channels):
            raise VolumeError(
                f"{found.name}: {found.images[0]} has {len(volumes)} channels, expected {', '.join(self.channels)}"
            )
        return Described(tuple(volumes), found.labels, group=found.name)

    def splits(self, names: Sequence[str], /) -> None:
        """There are none."""


def open_msd(source: Path) -> Task:
    """A task's folder.

    Raises:
        CohortError: no usable `dataset.json`, or one whose label values a preset does not expect.
    """
    source = source.resolve()
    description = describe_dataset(source / "dataset.json")
    if names := PRESETS.get(source.name):
        renamed = tuple(enumerate((BACKGROUND, *names)))
        if [value for value, _ in description.label_names] != [value for value, _ in renamed]:
            raise CohortError(
                f"{source}: dataset.json has labels {dict(description.label_names)}, expected values 0 to {len(names)} "
                f"in {source.name}; rename the folder if it is another task"
            )
        description = replace(description, label_names=renamed)
    return Task(source, description)
