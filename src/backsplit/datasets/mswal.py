"""MSWAL: seven kinds of lesions on abdominal CT.

Layout: nnU-Net's, `imagesTr/MSWAL_0001_0000.nii.gz` and `labelsTr/MSWAL_0001.nii.gz`; a `dataset.json` may be missing,
and is not needed: label values are those of the paper's table. One that gives a lesion another value is refused.

Source:
    Wu et al., MSWAL, MICCAI 2025.
"""

import re
from pathlib import Path

from backsplit.datasets.download import folder_with
from backsplit.datasets.nnunet import Description, RawDataset, describe_dataset
from backsplit.errors import CohortError
from backsplit.labels import BACKGROUND

TARGETS = (
    "gallstone",
    "kidney_stone",
    "liver_tumor",
    "kidney_tumor",
    "pancreatic_cancer",
    "liver_cyst",
    "kidney_cyst",
)


def open_mswal(source: Path) -> RawDataset:
    """A download, at the folder of `imagesTr` or one above.

    Raises:
        CohortError: no folder `imagesTr`, or a `dataset.json` with other values.
    """
    root = folder_with("imagesTr", source, depth=1)
    if (root / "dataset.json").is_file():
        _check_values(root / "dataset.json")
    description = Description(
        channels=("CT",),
        label_names=tuple(enumerate((BACKGROUND, *TARGETS))),
        file_ending=".nii.gz",
        files={},
        num_training=None,
    )
    return RawDataset(root, description, "training", "mswal")


def _check_values(path: Path) -> None:
    """Compare the lesions that go by a name of ours, however it is spaced and capitalised."""
    for value, written in describe_dataset(path).label_names:
        name = re.sub(r"[^a-z]+", "_", written.lower())
        if name in TARGETS and value != (expected := TARGETS.index(name) + 1):
            raise CohortError(
                f"{path}: {written!r} has the value {value}, expected {expected}; if this is another release, use "
                "`backsplit convert nnunet`, which goes by its dataset.json"
            )
