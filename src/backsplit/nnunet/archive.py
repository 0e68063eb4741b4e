"""Zips of trained models, as `nnUNetv2_export_model_to_zip` makes them, unpacked without trust in what they say."""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from backsplit.errors import ModelError

LARGEST_BYTES = 64 * 2**30
"""Of all files together. Five folds of nnU-Net's largest residual network, with optimiser states, are about 10 GiB."""
LARGEST_RATIO = 100
"""Of unpacked to packed bytes. Weights barely shrink; zeros shrink a thousand times."""
ALWAYS_ALLOWED_BYTES = 2**20
PARTS = ("plans.json", "dataset.json")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the one model of a zip: its plans, description, licence and folds; other files stay packed.

    Args:
        archive: zip file.
        folder: where to; empty, made if need be.

    Returns:
        The model folder: the one that holds plans.json, dataset.json and fold_*.

    Raises:
        ModelError: no zip, a damaged one, one that would write outside the folder, make links or fill the disk, or one
            with no model or several.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            files = check_entries(opened.infolist(), archive)
            model = _model_among([PurePosixPath(info.filename) for info in files], archive)
            for info in files:
                if PurePosixPath(info.filename).is_relative_to(model):
                    _extract(opened, info, folder)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(f"{archive} cannot be unpacked ({error}); expected a zip of a trained model") from error
    return folder / model


def check_entries(entries: Sequence[zipfile.ZipInfo], archive: Path) -> list[zipfile.ZipInfo]:
    """The files among the entries, if all entries are harmless.

    Raises:
        ModelError: an entry would be written outside, is a link, or the whole would fill the disk.
    """
    for info in entries:
        if fault := _fault_of(info):
            raise ModelError(
                f"{archive}: {info.filename!r} {fault}; this is no archive that nnU-Net made, do not use it"
            )
    files = [info for info in entries if not info.is_dir()]
    if len({info.filename.lower() for info in files}) < len(files):
        raise ModelError(f"{archive} holds several files of one name; unpack it yourself and give the model folder")
    unpacked, packed = sum(info.file_size for info in files), archive.stat().st_size
    if unpacked > min(LARGEST_BYTES, max(ALWAYS_ALLOWED_BYTES, LARGEST_RATIO * packed)):
        raise ModelError(
            f"{archive}: {packed} bytes would unpack to {unpacked}; expected a model: at most {LARGEST_RATIO} times as "
            f"much and {LARGEST_BYTES} bytes; if it is one, unpack it yourself and give the model folder"
        )
    return files


def _fault_of(info: zipfile.ZipInfo) -> str | None:
    path, kind = PurePosixPath(info.filename), stat.S_IFMT(info.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or set("\\:\0") & set(info.orig_filename):
        return "would be written outside the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted, or packed in a way that nnU-Net does not use"
    return None


def _model_among(files: Sequence[PurePosixPath], archive: Path) -> PurePosixPath:
    """The one folder that looks like a model."""
    present = set(files)
    trained = {path.parents[1] for path in files if path.suffix == ".pth" and path.parent.name.startswith("fold_")}
    models = sorted(folder for folder in trained if present.issuperset(folder / part for part in PARTS))
    if not models:
        raise ModelError(f"{archive} holds no trained model: no folder with plans.json, dataset.json and fold_*/*.pth")
    if len(models) > 1:
        raise ModelError(
            f"{archive} holds {len(models)} models: {', '.join(map(str, models))}; unpack it and give the folder of one"
        )
    return models[0]


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / info.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file)
