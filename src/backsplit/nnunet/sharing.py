"""Models in one file that cannot run anything: weights as safetensors, the rest as JSON, every member hashed.

A file is a zip of `backsplit-model.json` (the manifest), `plans.json`, `dataset.json`, `fold_<k>.safetensors` and the
range of spacings. It names no patient, no case and no path. Equal models give equal bytes.
"""

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from backsplit.errors import ModelError
from backsplit.files import replacing, write_json, write_text
from backsplit.nnunet.archive import check_entries
from backsplit.nnunet.arms import BLOCK
from backsplit.nnunet.inference import load_model
from backsplit.nnunet.models import NOT_STATED, OURS, folds_of, licence_of
from backsplit.nnunet.networks import configuration_of_model
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.reading import trained_spacings
from backsplit.nnunet.start import dataset_of, plans_of, read_checkpoint, without_wrappers
from backsplit.nnunet.training import FINAL

FORMAT = 1
MANIFEST, PLANS, DATASET = "backsplit-model.json", "plans.json", "dataset.json"
SPACINGS = "dataset_fingerprint.json"
"""Shortest and longest edges of the voxels trained on, where the model has them; nothing else of nnU-Net's file."""
LICENCE = "LICENSE"
"""Beside an imported model, where a licence was stated; it goes along when the model is exported again."""
LARGEST_JSON_BYTES = 16 * 2**20
DESCRIBED = (
    "channel_names",
    "modality",
    "labels",
    "file_ending",
    "overwrite_image_reader_writer",
    "regions_class_order",
)
"""What is kept of `dataset.json`; the rest may name files and cases."""
STOCK_FOLDER = "nnUNetTrainer__nnUNetPlans__{configuration}"
OLDEST_DATE = (1980, 1, 1, 0, 0, 0)
"""Of members, so that the same model gives the same file."""


@dataclass(frozen=True, slots=True)
class Fold:
    """What inference needs of a checkpoint beside its weights."""

    trainer_name: str
    configuration: str
    mirroring_axes: tuple[int, ...] | None


def export_model(
    model: Path, file: Path, *, folds: Sequence[str] | None = None, checkpoint: str = FINAL, licence: str | None = None
) -> None:
    """Write a model into one file, whole or not at all.

    Args:
        model: folder of nnU-Net's layout, ours or stock.
        file: zip to write.
        folds: which to put in; by default all that are trained.
        checkpoint: file of each fold.
        licence: of the weights, in words; by default the one beside the model.

    Raises:
        ModelError: no such model or fold, or a checkpoint that is not safe to load.
    """
    chosen = folds or folds_of(model, checkpoint)
    plans, members = _without_places(plans_of(model)), {}
    members[PLANS], members[DATASET] = _json(plans), _json(_described(model))
    if spacings := trained_spacings(model):
        members[SPACINGS] = _json({"spacings": list(zip(*spacings, strict=True))})
    told: dict[str, Any] = {}
    for fold in chosen:
        content = read_checkpoint(model / f"fold_{fold}" / checkpoint)
        members[f"fold_{fold}.safetensors"] = safetensors.torch.save(_own_memory(content["network_weights"]))
        told[fold] = asdict(_fold(content, model))
    manifest = {
        "format": FORMAT,
        "licence": licence or licence_of(model),
        "training": plans.get(BLOCK, {}),
        "versions": {name: version(name) for name in ("backsplit", "nnunetv2", "torch")},
        "folds": told,
        "members": {name: _entry(content) for name, content in members.items()},
    }
    _write_zip({MANIFEST: _json(manifest), **members}, file)


def export_stock(
    model: Path, file: Path, *, folds: Sequence[str] | None = None, checkpoint: str = FINAL, licence: str | None = None
) -> None:
    """Write the zip that `nnUNetv2_install_pretrained_model_from_zip` takes, for those without this package.

    Its checkpoints are pickles, as nnU-Net has them.

    Raises:
        ModelError: as `export_model`.
    """
    plans, members = _without_places(plans_of(model)), {}
    chosen = folds or folds_of(model, checkpoint)
    contents = {fold: read_checkpoint(model / f"fold_{fold}" / checkpoint) for fold in chosen}
    configuration = _fold(next(iter(contents.values())), model).configuration
    top = f"{plans['dataset_name']}/{STOCK_FOLDER.format(configuration=configuration)}"
    members[f"{top}/{PLANS}"], members[f"{top}/{DATASET}"] = _json(plans), _json(_described(model))
    if (told := licence or licence_of(model)) != NOT_STATED:
        members[f"{top}/{LICENCE}"] = f"{told}\n".encode()
    for fold, content in contents.items():
        weights = _own_memory(content["network_weights"])
        members[f"{top}/fold_{fold}/{FINAL}"] = _checkpoint(weights, _fold(content, model))
    _write_zip(members, file)


def import_model(file: Path, folder: Path) -> Path:
    """Unpack a file of `export_model` as a model folder of nnU-Net's layout; all is checked before the folder appears.

    Args:
        file: zip.
        folder: the model folder to make; it must not exist.

    Returns:
        The folder.

    Raises:
        ModelError: no such file, members that are not those of the manifest, that would be written elsewhere, that are
            too large or changed; plans that name code of others; weights that do not fit the network; or the folder
            exists.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists; import into a new folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".importing-{folder.name}-*"):
        shutil.rmtree(leftover)
    scratch = Path(tempfile.mkdtemp(prefix=f".importing-{folder.name}-", dir=folder.parent))
    try:
        _unpack(file, scratch)
        settings = PredictionSettings()
        load_model(scratch, folds_of(scratch, FINAL), settings, torch.device("cpu"))
        trained_spacings(scratch)  # as prediction will read them
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def how_to_use(model: Path) -> list[str]:
    """Lines that say what an imported model is and how to predict with it, here and with nnU-Net alone."""
    plans, folds = plans_of(model), folds_of(model, FINAL)
    networks = [each.get("architecture", {}).get("network_class_name", "") for each in plans["configurations"].values()]
    targets = "" if BLOCK in plans else " --targets CLASS"
    lines = [
        f"licence: {licence_of(model).splitlines()[0]}",
        f"masks of the targets: backsplit predict {model} IMAGES MASKS --folds {' '.join(folds)}{targets}",
    ]
    if not any(name.startswith(OURS) for name in networks):
        lines.append(
            f"all classes, without this package: nnUNetv2_predict_from_modelfolder -m {model} -i IMAGES -o MASKS "
            f"-f {' '.join(folds)}"
        )
    return lines


def _unpack(file: Path, folder: Path) -> None:
    """Write the model folder; the names in its plans are checked later, when the network is built."""
    try:
        with zipfile.ZipFile(file) as opened:
            entries = {info.filename: info for info in check_entries(opened.infolist(), file)}
            manifest = _manifest(opened, entries, file)
            contents = {name: _member(opened, entries[name], told, file) for name, told in manifest["members"].items()}
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelError(f"{file} cannot be read ({error}); expected a file of `backsplit export`") from error
    if manifest["licence"] != NOT_STATED:
        write_text(f"{manifest['licence']}\n", folder / LICENCE)
    for name in (PLANS, DATASET, SPACINGS):
        if name in contents:
            write_json(_parsed(contents[name], f"{file}: {name}"), folder / name)
    for fold, told in manifest["folds"].items():
        try:
            weights = safetensors.torch.load(contents[f"fold_{fold}.safetensors"])
            kept = Fold(str(told["trainer_name"]), str(told["configuration"]), _axes(told["mirroring_axes"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{file}: weights of fold {fold} cannot be used ({error}); export the model again"
            ) from error
        with replacing(folder / f"fold_{fold}" / FINAL) as temporary:
            temporary.write_bytes(_checkpoint(weights, kept))


def _manifest(opened: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], file: Path) -> dict[str, Any]:
    """The manifest, if the zip holds exactly what it lists, and nothing that a model of this kind does not have."""
    if MANIFEST not in entries:
        raise ModelError(
            f"{file} has no {MANIFEST}: it is no file of `backsplit export`; see `annotate --source nnunet`"
        )
    if entries[MANIFEST].file_size > LARGEST_JSON_BYTES:
        raise ModelError(f"{file}: {MANIFEST} has {entries[MANIFEST].file_size} bytes, expected a few thousand")
    manifest = _parsed(opened.read(MANIFEST), f"{file}: {MANIFEST}")
    if manifest.get("format") != FORMAT:
        raise ModelError(f"{file} has format {manifest.get('format')!r}, this BackSplit reads {FORMAT}; update it")
    folds, members = manifest.get("folds"), manifest.get("members")
    is_whole = isinstance(folds, dict) and isinstance(members, dict) and isinstance(manifest.get("licence"), str)
    if not is_whole or not folds or not all(map(_is_fold, folds)):
        raise ModelError(
            f"{file}: {MANIFEST} states no licence, folds and members as it should; export the model again"
        )
    expected = {PLANS, DATASET, *(f"fold_{fold}.safetensors" for fold in folds)} | ({SPACINGS} & set(members))
    if odd := sorted((set(members) ^ expected) | ((set(entries) - {MANIFEST}) ^ expected)):
        raise ModelError(
            f"{file}: members {', '.join(map(repr, odd[:3]))} are missing, or have no place in a model; do not use it"
        )
    return manifest


def _is_fold(name: object) -> bool:
    return isinstance(name, str) and (name == "all" or name.isdecimal())


def _member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, told: Any, file: Path) -> bytes:  # noqa: ANN401  JSON
    """The content of a member, if it is what the manifest says."""
    is_json = info.filename.endswith(".json")
    if (
        not isinstance(told, dict)
        or told.get("bytes") != info.file_size
        or (is_json and info.file_size > LARGEST_JSON_BYTES)
    ):
        raise ModelError(f"{file}: {info.filename} has {info.file_size} bytes, which its manifest does not say")
    content = opened.read(info)
    if hashlib.sha256(content).hexdigest() != told.get("sha256"):
        raise ModelError(f"{file}: {info.filename} is not what was exported (wrong SHA-256); copy the file again")
    return content


def _parsed(content: bytes, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is not JSON ({error}); export the model again") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{what} is no JSON object; export the model again")
    return parsed


def _fold(content: Mapping[str, Any], model: Path) -> Fold:
    configuration = content.get("init_args", {}).get("configuration", configuration_of_model(model))
    axes = content.get("inference_allowed_mirroring_axes")
    return Fold(str(content.get("trainer_name")), configuration, _axes(axes))


def _axes(axes: Any) -> tuple[int, ...] | None:  # noqa: ANN401  from a checkpoint or JSON
    return None if axes is None else tuple(int(axis) for axis in axes)


def _own_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without wrappers, each in memory of its own: safetensors refuses views and shared tensors."""
    return {name: tensor.detach().contiguous().clone() for name, tensor in without_wrappers(weights).items()}


def _checkpoint(weights: Mapping[str, Tensor], fold: Fold) -> bytes:
    """A checkpoint in nnU-Net's format that holds what inference needs."""
    buffer = io.BytesIO()
    content = {
        "network_weights": dict(weights),
        "trainer_name": fold.trainer_name,
        "init_args": {"configuration": fold.configuration},
        "inference_allowed_mirroring_axes": fold.mirroring_axes,
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def _described(model: Path) -> dict[str, Any]:
    return {key: value for key, value in dataset_of(model).items() if key in DESCRIBED}


def _without_places(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Plans without case names, and without the folder that a fine-tuned model started from: they may say too much."""
    if BLOCK not in plans:
        return dict(plans)
    block, start = plans[BLOCK], plans[BLOCK].get("start")
    named = start and {**start, "model": Path(start["model"]).name}
    return {**plans, BLOCK: {**block, "start": named, "annotated": {}}}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _write_zip(members: Mapping[str, bytes], file: Path) -> None:
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as opened:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, OLDEST_DATE)
            info.external_attr = 0o644 << 16
            opened.writestr(info, content)
