"""Zips of models: what nnU-Net exports is unpacked, what would do harm is not."""

import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.model_sharing.model_export import export_pretrained_model

from backsplit.errors import ModelError
from backsplit.nnunet import archive
from backsplit.nnunet.archive import unpack
from tinymodels import write_model

MODEL = "Dataset000_Tiny/nnUNetTrainer__nnUNetPlans__3d_fullres"
FILES = {"plans.json": b"{}", "dataset.json": b"{}", "fold_0/checkpoint_final.pth": os.urandom(2000)}


def zip_of(path: Path, files: dict[str, bytes], *, top: str = MODEL) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(f"{top}/{name}" if top else name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_nnunet_exports_comes_back(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    model = tmp_path / "results" / MODEL
    write_model(model, {"background": 0, "liver": 1})
    for name in ("fold_0/progress.png", "fold_0/validation/summary.json", "dataset_fingerprint.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    export_pretrained_model("Dataset000_Tiny", str(tmp_path / "model.zip"), ("3d_fullres",), folds=(0,))
    unpacked = unpack(tmp_path / "model.zip", tmp_path / "unpacked")
    assert unpacked == tmp_path / "unpacked" / MODEL
    assert contents(unpacked) == contents(model)


@given(st.lists(st.text("ab .-_", min_size=1, max_size=5).filter(lambda name: name.strip(" .")), max_size=3))
@settings(max_examples=30)
def test_however_deep_the_model_lies(tmp_path_factory, folders):
    root = tmp_path_factory.mktemp("zip")
    packed = zip_of(root / "model.zip", {**FILES, "fold_0/validation/x.json": b"1"}, top="/".join(folders))
    assert contents(unpack(packed, root / "out")) == {**FILES, "fold_0/validation/x.json": b"1"}


def test_what_lies_beside_the_model_stays_packed(tmp_path):
    packed = zip_of(tmp_path / "model.zip", {f"{MODEL}/{name}": b"1" for name in FILES} | {"README.md": b"1"}, top="")
    unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize(
    "name", ["../evil.txt", f"{MODEL}/../../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:evil.txt"]
)
def test_no_name_leads_outside(tmp_path, name):
    packed = zip_of(tmp_path / "model.zip", {**{f"{MODEL}/{part}": b"1" for part in FILES}, name: b"evil"}, top="")
    with pytest.raises(ModelError, match="would be written outside the folder"):
        unpack(packed, tmp_path / "in" / "side")
    assert [path.name for path in tmp_path.rglob("*")] == ["model.zip"]
    assert not Path("/evil.txt").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    packed = zip_of(tmp_path / "model.zip", FILES)
    link = zipfile.ZipInfo(f"{MODEL}/fold_1")
    link.create_system, link.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as opened:
        opened.writestr(link, "/etc")
    with pytest.raises(ModelError, match="fold_1' is a link or a device"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_known_by_its_declared_size(tmp_path):
    packed = zip_of(tmp_path / "model.zip", {**FILES, "fold_0/zeros.bin": bytes(8 * 2**20)})
    with pytest.raises(ModelError, match=r"would unpack to 83[0-9]*; expected a model: at most 100 times"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_files_are_a_bomb_together(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_BYTES", 10_000)
    packed = zip_of(tmp_path / "model.zip", {**FILES, **{f"fold_0/{n}": os.urandom(3000) for n in range(3)}})
    with pytest.raises(ModelError, match="would unpack to"):
        unpack(packed, tmp_path / "out")


def test_a_size_that_lies_unpacks_no_more_than_it_says(tmp_path):
    packed = zip_of(tmp_path / "model.zip", {**FILES, "fold_0/zeros.bin": bytes(2**20)})
    size, lie = (2**20).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert packed.read_bytes().count(size) == 2, "local header and directory"
    packed.write_bytes(packed.read_bytes().replace(size, lie))
    with pytest.raises(ModelError, match="cannot be unpacked"):
        unpack(packed, tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("zeros.bin")
    assert written.stat().st_size <= 1000


@pytest.mark.parametrize("missing", FILES)
def test_no_model_is_one_line(tmp_path, missing):
    packed = zip_of(tmp_path / "model.zip", {name: content for name, content in FILES.items() if name != missing})
    with pytest.raises(ModelError, match="holds no trained model: no folder with"):
        unpack(packed, tmp_path / "out")


def test_several_models_are_named(tmp_path):
    both = {f"{which}/{name}": content for which in ("2d", "3d") for name, content in FILES.items()}
    with pytest.raises(ModelError, match="holds 2 models: 2d, 3d; unpack it and give the folder of one"):
        unpack(zip_of(tmp_path / "model.zip", both, top=""), tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_files_of_one_name_are_refused(tmp_path):
    packed = zip_of(tmp_path / "model.zip", FILES)
    with zipfile.ZipFile(packed, "a") as opened:
        opened.writestr(f"{MODEL}/plans.json", "other")
    with pytest.raises(ModelError, match="several files of one name"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_damaged_zip_is_one_line(tmp_path, keep):
    packed = zip_of(tmp_path / "model.zip", FILES)
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.zip cannot be unpacked"):
        unpack(packed, tmp_path / "out")
