"""MSWAL: seven kinds of lesions on abdominal CT.

Layout: nnU-Net's, `imagesTr/MSWAL_0001_0000.nii.gz` and `labelsTr/MSWAL_0001.nii.gz`; a `dataset.json` may be missing,
and is not needed: label values are those of the paper's table.

Source:
    Wu et al., MSWAL, MICCAI 2025.
"""

from pathlib import Path

from backsplit.datasets.download import folder_with
from backsplit.datasets.nnunet import Description, RawDataset
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
        CohortError: no folder `imagesTr`.
    """
    description = Description(
        channels=("CT",),
        label_names=tuple(enumerate((BACKGROUND, *TARGETS))),
        file_ending=".nii.gz",
        files={},
        num_training=None,
    )
    return RawDataset(folder_with("imagesTr", source, depth=1), description, "training", "mswal")
