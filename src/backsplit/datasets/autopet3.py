"""AutoPET III: lesions on FDG and PSMA PET/CT of the whole body.

Layout: `imagesTr/<id>_0000.nii.gz` (CT on the grid of the PET), `imagesTr/<id>_0001.nii.gz` (PET in SUV),
`labelsTr/<id>.nii.gz`, `splits_final.json` (the official five folds); the archive may have a folder on top. Ids begin
with tracer and patient (`psma_<16 hex>_<date>`, `fdg_<10 hex>_<date>-NA-<free text>-<5 digits>`) and may hold spaces,
even two in a row. A third of the studies has no lesion; they stay.

Source:
    FDAT record PSMA-FDG-PET-CT-Lesions; autopet-iii.grand-challenge.org.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backsplit.cases import DroppedCase
from backsplit.datasets.download import Described, FoundFiles, Listing, check_files, folder_with, stems
from backsplit.errors import CohortError
from backsplit.labels import BACKGROUND

ENDING, SPLITS = ".nii.gz", "splits_final.json"


@dataclass(frozen=True, slots=True)
class AutoPet3:
    """The data set, at the folder that holds `imagesTr`."""

    root: Path

    name = "autopet3"
    channels = ("CT", "PET")
    """nnU-Net normalises what is called CT by the Hounsfield units of all cases, and anything else image by image."""
    ignore = None
    label_names = ((0, BACKGROUND), (1, "tumor"))

    @property
    def how(self) -> Mapping[str, Any]:
        """Name of the converter; it has no options."""
        return {"data set": "autopet3"}

    def find(self) -> Listing:
        """Every study that has a CT, a PET or a label map; one that only the folds name was not downloaded.

        Raises:
            CohortError: there is none, or the file of folds is none.
        """
        images, labels = self.root / "imagesTr", self.root / "labelsTr"
        names = {stem[:-5] for stem in stems(images, ENDING) if stem.endswith(("_0000", "_0001"))}
        names |= stems(labels, ENDING) if labels.is_dir() else set()
        if not names:
            raise CohortError(f"{images}: no study named <id>_0000.nii.gz; unpack the archive again")
        listed = {name for fold in self._folds() for side in fold.values() for name in side}
        return Listing(
            [
                FoundFiles(
                    name,
                    tuple(images / f"{name}_{channel:04}{ENDING}" for channel in (0, 1)),
                    labels / f"{name}{ENDING}",
                )
                for name in sorted(names)
            ],
            [
                DroppedCase(name, f"{SPLITS} names it, but it has no file; download it")
                for name in sorted(listed - names)
            ],
        )

    def describe(self, found: FoundFiles) -> Described:
        """Take the files as they are; the patient is the id up to the date.

        Raises:
            CohortError: an image or the label map is missing.
        """
        check_files(found, self.channels)
        return Described(found.images, found.labels, group="_".join(found.name.split("_")[:2]))

    def splits(self, names: Sequence[str], /) -> list[dict[str, list[str]]] | None:
        """The official folds, without studies that are not there; None where the file is missing.

        Raises:
            CohortError: the file is not one of folds.
        """
        present, folds = set(names), self._folds()
        return [{role: [name for name in fold[role] if name in present] for role in fold} for fold in folds] or None

    def _folds(self) -> list[dict[str, list[str]]]:
        path = self.root / SPLITS
        if not path.is_file():
            return []
        try:
            folds = json.loads(path.read_text(encoding="utf-8"))
            return [{role: [str(name) for name in fold[role]] for role in ("train", "val")} for fold in folds]
        except (ValueError, KeyError, TypeError) as error:
            raise CohortError(f"{path}: not a file of folds ({error!r}); download it again, or remove it") from error


def open_autopet3(source: Path) -> AutoPet3:
    """A download, at the folder of `imagesTr` or one above.

    Raises:
        CohortError: no folder `imagesTr`.
    """
    return AutoPet3(folder_with("imagesTr", source, depth=1))
