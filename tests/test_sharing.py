"""Models in one file: what comes back, what is left out, and what is refused."""

import hashlib
import io
import json
import pickle
import stat
import zipfile

import pytest
import safetensors.torch
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from backsplit.cli import main
from backsplit.errors import ModelError
from backsplit.nnunet.archive import unpack
from backsplit.nnunet.models import licence_of
from backsplit.nnunet.reading import trained_spacings
from backsplit.nnunet.sharing import MANIFEST, export_model, export_stock, how_to_use, import_model
from backsplit.nnunet.start import read_checkpoint
from tinymodels import write_model

LABELS = {"background": 0, "cyst": 1, "kidney": 2}


@pytest.fixture
def model(tmp_path):
    """A stock model whose description names files of patients."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    write_model(folder, LABELS)
    described = json.loads((folder / "dataset.json").read_text())
    plans = json.loads((folder / "plans.json").read_text())
    block = {"annotated": {"Doe_01": ["kidney"]}, "start": {"model": "/home/doe/model", "checkpoint": "x"}, "seed": 0}
    (folder / "plans.json").write_text(json.dumps({**plans, "backsplit": block}))
    files = {"patient Doe": {"images": ["/home/doe/scan.nii.gz"], "label": "/home/doe/labels.nii.gz"}}
    (folder / "dataset.json").write_text(json.dumps({**described, "dataset": files, "name": "Doe study"}))
    return folder


@pytest.fixture
def shared(model, tmp_path):
    export_model(model, tmp_path / "model.zip", licence="CC BY 4.0")
    return tmp_path / "model.zip"


def members_of(file):
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def crafted(tmp_path, members, *, listed=True, compression=zipfile.ZIP_STORED, **manifest):
    """A file of other members, whose manifest lists them as they are."""
    told = {**json.loads(members[MANIFEST]), **manifest}
    if listed:
        told["members"] = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != MANIFEST
        }
    path = tmp_path / "crafted.zip"
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in {**members, MANIFEST: json.dumps(told).encode()}.items():
            opened.writestr(name, content)
    return path


def refused(file, tmp_path, told):
    with pytest.raises(ModelError, match=told) as raised:
        import_model(file, tmp_path / "imported")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "imported").exists()
    assert not list(tmp_path.glob(".importing*"))


def test_a_model_comes_back_as_it_was(model, shared, tmp_path):
    imported = import_model(shared, tmp_path / "imported")
    there, back = (read_checkpoint(each / "fold_0" / "checkpoint_final.pth") for each in (model, imported))
    assert there["network_weights"].keys() == back["network_weights"].keys()
    for name, tensor in there["network_weights"].items():
        assert torch.equal(tensor, back["network_weights"][name])
    assert back["trainer_name"] == there["trainer_name"]
    assert back["init_args"] == {"configuration": "3d_fullres"}
    ours, theirs = (json.loads((each / "plans.json").read_text()) for each in (model, imported))
    assert theirs.pop("backsplit") == {"annotated": {}, "start": {"model": "model", "checkpoint": "x"}, "seed": 0}
    assert {key: value for key, value in ours.items() if key != "backsplit"} == theirs
    assert json.loads((imported / "dataset.json").read_text())["labels"] == LABELS


def test_a_file_says_nothing_about_patients_and_holds_no_pickle(shared):
    members = members_of(shared)
    assert set(members) == {MANIFEST, "plans.json", "dataset.json", "fold_0.safetensors"}
    assert not [name for name, content in members.items() if b"oe" in content and b"Doe" in content]
    assert not [name for name, content in members.items() if b"/home" in content]
    assert json.loads(members[MANIFEST])["licence"] == "CC BY 4.0"
    safetensors.torch.load(members["fold_0.safetensors"])


def test_the_same_model_gives_the_same_file(model, shared, tmp_path):
    export_model(model, tmp_path / "again.zip", licence="CC BY 4.0")
    assert (tmp_path / "again.zip").read_bytes() == shared.read_bytes()


def test_the_spacings_trained_on_come_along_without_the_cases(model, tmp_path):
    seen = {"spacings": [[3.0, 0.8, 0.7], [1.0, 0.9, 0.8]], "shapes_after_crop": {"Doe": [1, 2, 3]}}
    (model / "dataset_fingerprint.json").write_text(json.dumps(seen))
    export_model(model, tmp_path / "spaced.zip")
    imported = import_model(tmp_path / "spaced.zip", tmp_path / "spaced")
    assert trained_spacings(imported) == trained_spacings(model) == ((0.7, 0.8), (0.8, 0.9), (1.0, 3.0))
    members = members_of(tmp_path / "spaced.zip")
    assert json.loads(members["dataset_fingerprint.json"]) == {"spacings": [[0.7, 0.8, 1.0], [0.8, 0.9, 3.0]]}
    damaged = {**members, "dataset_fingerprint.json": b'{"spacings": ["thin"]}'}
    refused(crafted(tmp_path, damaged), tmp_path, "expected `spacings`, three edges of each image")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_views_and_shared_memory(model, tmp_path, kind):
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    base = torch.randn(8, 8).to(kind)
    content["network_weights"] = {"a": base.T, "b": base, "c": base[::2]}
    torch.save(content, path)
    export_model(model, tmp_path / "odd.zip")
    weights = safetensors.torch.load(members_of(tmp_path / "odd.zip")["fold_0.safetensors"])
    assert torch.equal(weights["a"], base.T)
    assert torch.equal(weights["c"], base[::2])
    assert weights["b"].dtype == kind


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "C:evil.json"])
def test_members_that_would_be_written_elsewhere(shared, tmp_path, name):
    file = crafted(tmp_path, {**members_of(shared), name: b"{}"})
    refused(file, tmp_path, "would be written outside the folder")
    assert not (tmp_path.parent / "evil.json").exists()


def test_links(shared, tmp_path):
    file = crafted(tmp_path, members_of(shared))
    with zipfile.ZipFile(file, "a") as opened:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    refused(file, tmp_path, "is a link or a device")


def test_zip_bombs(shared, tmp_path):
    bomb = {**members_of(shared), "fold_0.safetensors": bytes(200 * 2**20)}
    refused(crafted(tmp_path, bomb, compression=zipfile.ZIP_DEFLATED), tmp_path, "would unpack to")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"plans.json": b"{}"}, "plans.json has 2 bytes, which its manifest does not say"),
        ({"fold_0.pth": b"x"}, "members 'fold_0.pth' are missing, or have no place in a model"),
        ({"dataset.json": None}, "members 'dataset.json' are missing"),
        ({MANIFEST: b"[]"}, "is no JSON object"),
        ({MANIFEST: b"{"}, "is not JSON"),
        ({MANIFEST: None}, "it is no file of `backsplit export`"),
    ],
)
def test_members_that_are_not_those_of_the_manifest(shared, tmp_path, change, told):
    members = {name: content for name, content in {**members_of(shared), **change}.items() if content is not None}
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    refused(path, tmp_path, told)


def test_a_wrong_hash(shared, tmp_path):
    members = members_of(shared)
    weights = bytearray(members["fold_0.safetensors"])
    weights[-1] ^= 1
    refused(
        crafted(tmp_path, {**members, "fold_0.safetensors": bytes(weights)}, listed=False), tmp_path, "wrong SHA-256"
    )


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (eval, ("1/0",))


def test_a_pickle_in_the_place_of_weights(shared, tmp_path):
    members = {**members_of(shared), "fold_0.safetensors": pickle.dumps(Evil())}
    refused(crafted(tmp_path, members), tmp_path, "weights of fold 0 cannot be used")
    buffer = io.BytesIO()
    torch.save({"a": Evil()}, buffer)
    refused(crafted(tmp_path, {**members, "fold_0.safetensors": buffer.getvalue()}), tmp_path, "cannot be used")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"dynamic_network_architectures.architectures.unet.PlainConvUNet", b"os.system", "is no network of"),
        (b"SimpleITKIO", b"EvilIO", "image_reader_writer is 'EvilIO'"),
    ],
)
def test_plans_that_name_code_of_others(shared, tmp_path, old, new, told):
    members = members_of(shared)
    assert old in members["plans.json"]
    refused(crafted(tmp_path, {**members, "plans.json": members["plans.json"].replace(old, new)}), tmp_path, told)


def test_weights_of_another_network(shared, tmp_path):
    members = members_of(shared)
    weights = safetensors.torch.load(members["fold_0.safetensors"])
    name = next(iter(weights))
    other = safetensors.torch.save({**weights, name: torch.zeros(3)})
    refused(
        crafted(tmp_path, {**members, "fold_0.safetensors": other}), tmp_path, "do not fit the network of plans.json"
    )


def test_a_later_format_and_a_folder_that_exists(shared, tmp_path, capsys):
    refused(crafted(tmp_path, members_of(shared), format=2), tmp_path, "has format 2, this BackSplit reads 1")
    (tmp_path / "there").mkdir()
    assert main(["import", str(shared), str(tmp_path / "there")]) == 1
    assert "exists; import into a new folder" in capsys.readouterr().err
    (tmp_path / "no.zip").write_bytes(b"no zip")
    refused(tmp_path / "no.zip", tmp_path, "cannot be read")


def test_what_a_killed_import_left_is_cleared(shared, tmp_path):
    left = tmp_path / ".importing-imported-abc"
    left.mkdir()
    (left / "plans.json").write_text("{")
    import_model(shared, tmp_path / "imported")
    assert not left.exists()


def test_the_commands(model, tmp_path, capsys):
    assert main(["export", str(model), str(tmp_path / "m.zip"), "--licence", "MIT"]) == 0
    assert main(["import", str(tmp_path / "m.zip"), str(tmp_path / "m")]) == 0
    assert main(["export", str(tmp_path / "m"), str(tmp_path / "n.zip"), "--folds", "3"]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "n.zip").exists()


def test_the_licence_stays_with_the_model(model, shared, tmp_path):
    imported = import_model(shared, tmp_path / "imported")
    assert (imported / "LICENSE").read_text() == "CC BY 4.0\n"
    export_model(imported, tmp_path / "again.zip")
    assert json.loads(members_of(tmp_path / "again.zip")[MANIFEST])["licence"] == "CC BY 4.0"
    export_stock(imported, tmp_path / "stock.zip")
    (name,) = [name for name in members_of(tmp_path / "stock.zip") if name.endswith("/LICENSE")]
    assert members_of(tmp_path / "stock.zip")[name] == b"CC BY 4.0\n"
    assert licence_of(unpack(tmp_path / "stock.zip", tmp_path / "unpacked")) == "CC BY 4.0"


def test_a_licence_that_is_not_stated_is_not_made_up(model, tmp_path):
    export_model(model, tmp_path / "model.zip")
    imported = import_model(tmp_path / "model.zip", tmp_path / "imported")
    assert not (imported / "LICENSE").exists()
    assert how_to_use(imported)[0] == "licence: not stated"
    refused(crafted(tmp_path, members_of(tmp_path / "model.zip"), licence=3), tmp_path / "x", "states no licence")


def test_import_says_how_to_use_the_model_and_nnunet_loads_it(model, shared, tmp_path, capsys):
    folder = tmp_path / "cysts"
    assert main(["import", str(shared), str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(folder),
        "licence: CC BY 4.0",
        f"masks of the targets: backsplit predict {folder} IMAGES MASKS --folds 0",
        f"all classes, without this package: nnUNetv2_predict_from_modelfolder -m {folder} -i IMAGES -o MASKS -f 0",
    ]
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    weights = read_checkpoint(model / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in predictor.network.state_dict().items())


def test_networks_of_ours_are_not_said_to_run_without_us(model):
    plans = json.loads((model / "plans.json").read_text())
    plans.pop("backsplit")
    (configuration,) = plans["configurations"].values()
    configuration["architecture"]["network_class_name"] = "backsplit.learning.networks.segresnet"
    (model / "plans.json").write_text(json.dumps(plans))
    lines = how_to_use(model)
    assert lines[1].endswith("--folds 0 --targets CLASS")
    assert len(lines) == 2


def test_an_unsafe_checkpoint_is_not_exported(model, tmp_path):
    path = model / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": Evil()}}, path)
    for export in (export_model, export_stock):
        with pytest.raises(ModelError, match="safe to load"):
            export(model, tmp_path / "x.zip")
