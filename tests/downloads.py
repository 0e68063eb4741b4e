"""Small trees as public data sets lie on disk once they are downloaded and unpacked."""

import json

import numpy as np
import SimpleITK as sitk  # noqa: N813  as its own manual calls it

from backsplit.datasets.abdomenatlas import ORGANS
from backsplit.volume import Grid, Volume, write_volume

SHAPE, SPACING = (14, 12, 10), (1.0, 1.0, 2.0)


def grid(shape=SHAPE, spacing_mm=SPACING):
    return Grid(shape, spacing_mm, (3.0, 4.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def image(seed, shape=SHAPE):
    return Volume(np.random.default_rng(seed).normal(40, 30, shape).astype(np.int16), grid(shape))


def labels(*values, shape=SHAPE):
    """Nested boxes, the first value outermost; later ones inside it."""
    voxels = np.zeros(shape, np.uint8)
    for depth, value in enumerate(values, start=1):
        voxels[depth:-depth, depth:-depth, depth:-depth] = value
    return Volume(voxels, grid(shape))


def panther(folder, *, top=True, num_cases=3):
    """Task 1: two examinations of the first patient, an unlabelled folder, MetaImage."""
    root = folder / "PANTHER_Task1" if top else folder
    for number in range(num_cases):
        name = f"{10000 + max(0, number - 1)}_{1 + (number == 1):04}"
        write_volume(image(number), root / "ImagesTr" / f"{name}_0000.mha")
        write_volume(labels(2, 1), root / "LabelsTr" / f"{name}.mha")
    write_volume(image(9), root / "ImagesTr_unlabeled" / "20000_0001_0000.mha")
    return folder


AUTOPET_IDS = (
    "fdg_c02ebbf6ee_04-05-2006-NA-PET-CT  Ganzkoerper primaer mit KM-57878",
    "fdg_c02ebbf6ee_09-17-2007-NA-PET-CT Ganzkoerper-63019",
    "psma_95b833d65be26293_2018-04-16",
    "psma_95b833d65be26293_2019-10-01",
    "fdg_00000000aa_01-01-2001-NA-x-00001",
    "psma_aaaaaaaaaaaaaaaa_2020-01-01",
)


def autopet3(folder, *, top=True):
    """Two patients with two studies each, two with one; the last study has no lesion."""
    root = folder / "PSMA-FDG-PET-CT-Lesions_v2" if top else folder
    for number, name in enumerate(AUTOPET_IDS):
        for channel in (0, 1):
            write_volume(image(2 * number + channel), root / "imagesTr" / f"{name}_{channel:04}.nii.gz")
        write_volume(labels(*([] if number == 5 else [0, 1])), root / "labelsTr" / f"{name}.nii.gz")
    folds = [{"train": list(AUTOPET_IDS[2:]), "val": list(AUTOPET_IDS[:2])}]
    folds += [{"train": [*AUTOPET_IDS[:2], *AUTOPET_IDS[4:]], "val": list(AUTOPET_IDS[2:4])}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    (root / "psma_metadata.csv").write_text("Subject ID\n")
    return folder


def mswal(folder, *, num_cases=3):
    """Seven lesions, nested; no dataset.json."""
    for number in range(1, num_cases + 1):
        shape = (24, 22, 20)
        write_volume(image(number, shape), folder / "imagesTr" / f"MSWAL_{number:04}_0000.nii.gz")
        write_volume(labels(*range(1, 8), shape=shape), folder / "labelsTr" / f"MSWAL_{number:04}.nii.gz")
    return folder


def abdomenatlas(folder, *, inner="AbdomenAtlas1.0Mini/part1", num_cases=3, combined=True):
    """Nine organs, nested, so that single masks overlap where they are drawn whole."""
    for number in range(1, num_cases + 1):
        case, shape = folder / inner / f"BDMAP_{number:08}", (28, 26, 24)
        write_volume(image(number, shape), case / "ct.nii.gz")
        whole = labels(*range(1, 10), shape=shape)
        if combined:
            write_volume(whole, case / "combined_labels.nii.gz")
        for value, organ in enumerate(ORGANS, start=1):
            mask = Volume((whole.voxels == value).astype(np.uint8), whole.grid)
            write_volume(mask, case / "segmentations" / f"{organ}.nii.gz")
    return folder


def msd(folder, task="Task03_Liver", *, modality=None, names=None, num_cases=3):
    """A task; of several channels if `modality` names them."""
    modality = modality or {"0": "CT"}
    names = names or {"0": "background", "1": "liver", "2": "cancer"}
    root = folder / task
    for number in range(num_cases):
        name = f"{task[7:].lower()}_{number:03}"
        write_volume(labels(*range(1, len(names))), root / "labelsTr" / f"{name}.nii.gz")
        channels = [image(10 * number + channel) for channel in range(len(modality))]
        if len(channels) == 1:
            write_volume(channels[0], root / "imagesTr" / f"{name}.nii.gz")
        else:
            parts = []
            for channel in channels:
                part = sitk.GetImageFromArray(channel.voxels.transpose())
                part.SetSpacing(SPACING)
                part.SetOrigin(channel.grid.origin_mm)
                parts.append(part)
            (root / "imagesTr").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.JoinSeries(parts), root / "imagesTr" / f"{name}.nii.gz")
        (root / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"a Mac was here")
        (root / "labelsTr" / f"._{name}.nii.gz").write_bytes(b"a Mac was here")
    description = {"modality": modality, "labels": names, "numTraining": num_cases, "name": task}
    (root / "dataset.json").write_text(json.dumps(description))
    return root
