"""A composed cohort as an nnU-Net raw data set, without copying an image."""

import re
from itertools import count
from typing import Any

from backsplit.cases import Cohort
from backsplit.errors import CohortError
from backsplit.files import write_json
from backsplit.labels import LabelScheme
from backsplit.nnunet.folders import Folders

READER = "SimpleITKIO"
IGNORE = "ignore"
"""nnU-Net's name of the label whose voxels nobody annotated."""


def dataset_name(cohort: Cohort, dataset_id: int) -> str:
    """nnU-Net's name of the data set: `Dataset001_name`, with what file systems dislike replaced by `-`."""
    return f"Dataset{dataset_id:03}_{re.sub(r'[^A-Za-z0-9-]+', '-', cohort.name)}"


def dataset_id_of(name: str) -> int:
    """The number in nnU-Net's name of a data set."""
    return int(name.removeprefix("Dataset").partition("_")[0])


def free_dataset_id(folders: Folders) -> int:
    """The smallest number that no data set in nnU-Net's folders has; nnU-Net itself takes data sets by number."""
    roots = (folders.raw, folders.preprocessed, folders.results)
    taken = {dataset_id_of(path.name) for root in roots for path in root.glob("Dataset[0-9][0-9][0-9]_*")}
    return next(number for number in count(1) if number not in taken)


def scheme_of(cohort: Cohort) -> LabelScheme:
    """The scheme of a composed cohort.

    Raises:
        CohortError: it has not been composed, or has no case.
    """
    if cohort.scheme is None:
        raise CohortError(f"cohort {cohort.name!r} has no fine labels yet; run `backsplit compose` on it first")
    if not cohort.cases:
        raise CohortError(f"cohort {cohort.name!r} has no cases; nothing can be trained on it")
    return cohort.scheme


def describe(cohort: Cohort) -> dict[str, Any]:
    """nnU-Net's `dataset.json`, with the files listed in place instead of copied.

    Raises:
        CohortError: a case without labels, or the cohort is not composed.
    """
    scheme = scheme_of(cohort)
    unlabelled = [case.name for case in cohort.cases if case.labels is None]
    if unlabelled:
        raise CohortError(f"{unlabelled[0]}: no label map; training needs one per case ({len(unlabelled)} lack it)")
    ignored = {} if cohort.ignore is None else {IGNORE: cohort.ignore}
    return {
        "name": cohort.name,
        "channel_names": {str(index): channel for index, channel in enumerate(cohort.channels)},
        "labels": {name: index for index, name in enumerate(scheme.names)} | ignored,
        "numTraining": len(cohort.cases),
        "file_ending": _ending(cohort.cases[0].images[0].name),
        "overwrite_image_reader_writer": READER,
        "dataset": {
            case.name: {"images": [str(image) for image in case.images], "label": str(case.labels)}
            for case in cohort.cases
        },
    }


def export(cohort: Cohort, folders: Folders, *, dataset_id: int) -> str:
    """Write `raw/DatasetXXX_name/dataset.json`; return the name of the data set."""
    name = dataset_name(cohort, dataset_id)
    write_json(describe(cohort), folders.raw / name / "dataset.json")
    return name


def _ending(file_name: str) -> str:
    known = (".nii.gz", ".nii", ".nrrd", ".mha")
    return next((ending for ending in known if file_name.endswith(ending)), ".nii.gz")
