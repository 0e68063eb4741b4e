"""PANTHER, task 1: pancreatic tumours on arterial T1 MR.

Layout: `PANTHER_Task1/{ImagesTr, LabelsTr, ImagesTr_unlabeled}`, in MetaImage: `ImagesTr/10000_0001_0000.mha` and
`LabelsTr/10000_0001.mha`, patient and examination in the name. Some copies have the two folders at the top. Unlabelled
images are of other sequences and are not used.

Source:
    Zenodo record 15192302; panther.grand-challenge.org.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backsplit.datasets.download import Described, FoundFiles, Listing, check_files, folder_with, stems
from backsplit.errors import CohortError
from backsplit.labels import BACKGROUND

ENDING, CHANNEL = ".mha", "_0000"
UNLABELLED = "ImagesTr_unlabeled"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Panther:
    """The data set, at the folder that holds `ImagesTr`."""

    root: Path

    name = "panther"
    channels = ("MR",)
    ignore = None
    label_names = ((0, BACKGROUND), (1, "tumor"), (2, "pancreas"))

    @property
    def how(self) -> Mapping[str, Any]:
        """Name of the converter; it has no options."""
        return {"data set": "panther"}

    def find(self) -> Listing:
        """Every case that has an image or a label map; the log tells how many images are not used.

        Raises:
            CohortError: there is none.
        """
        images, labels = self.root / "ImagesTr", self.root / "LabelsTr"
        labelled = stems(labels, ENDING) if labels.is_dir() else set()
        names = {stem.removesuffix(CHANNEL) for stem in stems(images, ENDING)} | labelled
        if not names:
            raise CohortError(f"{images}: no image named 10000_0001_0000.mha; unpack PANTHER_Task1.zip again")
        if num_unlabelled := len(list(self.root.glob(f"{UNLABELLED}/[!.]*{ENDING}"))):
            logger.info("%s: %d images of %s are not used", self.name, num_unlabelled, UNLABELLED)
        return Listing(
            [
                FoundFiles(name, (images / f"{name}{CHANNEL}{ENDING}",), labels / f"{name}{ENDING}")
                for name in sorted(names)
            ]
        )

    def describe(self, found: FoundFiles) -> Described:
        """Take the files as they are; where a label map has no pancreas at all, nobody drew it.

        Raises:
            CohortError: image or label map is missing.
        """
        check_files(found, self.channels)
        patient = found.name.partition("_")[0]
        return Described(found.images, found.labels, patient, unknown_if_absent=("pancreas",))

    def splits(self, names: Sequence[str], /) -> None:
        """There are none."""


def open_panther(source: Path) -> Panther:
    """A download of task 1, at either depth.

    Raises:
        CohortError: no folder `ImagesTr`.
    """
    return Panther(folder_with("ImagesTr", source, depth=1))
