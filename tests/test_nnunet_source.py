"""Masks from trained nnU-Net models are those that nnU-Net itself predicts."""

import json
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from backsplit import cases
from backsplit.cases import Case
from backsplit.errors import CohortError, ConfigurationError, ModelError, SourceError
from backsplit.experiments.paths import Workspace
from backsplit.sources.nnunet_model import open_nnunet
from backsplit.volume import read_grid, read_labels
from studies import compose_phantom, prepare, train
from tinymodels import write_model

LABELS = {"background": 0, "liver": 1, "spleen": 2, "liver_lesion": 3, "kidney_left": 4}
NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Two folds, a licence."""
    folder = tmp_path_factory.mktemp("models") / NAME
    for fold in (1, 0):
        write_model(folder, LABELS, patch_size=(32, 64, 64), seed=fold)
        if fold:
            (folder / "fold_0").rename(folder / "fold_1")
    (folder / "LICENSE.txt").write_text("\n  Creative Commons BY 4.0\nAll the rest\n")
    return folder


@pytest.fixture(scope="module")
def packed(model) -> Path:
    return Path(shutil.make_archive(str(model.parent / "model"), "zip", model.parent, NAME))


@pytest.fixture(scope="module")
def case(real_data) -> Case:
    path = (real_data / "totalsegmentator" / "example_ct_sm.nii.gz").resolve()
    return Case("ct", (path,), None, "ct")


def predicted_by_nnunet(model: Path, image: Path, folder: Path, **options) -> np.ndarray:
    """What nnU-Net's own loading, prediction and writing make of an image, by value of the model."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(str(model), (0, 1), "checkpoint_final.pth")
    folder.mkdir()
    predictor.predict_from_files_sequential([[str(image)]], [str(folder / "out")])
    return read_labels(folder / "out.nii.gz").voxels


def test_masks_of_a_real_ct_are_nnunets_own_voxel_by_voxel(model, case, tmp_path):
    source = open_nnunet(model=model, structures=None, force=True)
    masks = source.segment(case, tmp_path).volume
    np.testing.assert_array_equal(masks.voxels, predicted_by_nnunet(model, case.images[0], tmp_path / "stock"))
    assert masks.grid == read_grid(case.images[0])
    assert len(np.unique(masks.voxels)) > 2


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_readers_that_turn_images_give_masks_in_the_order_of_the_file(model, real_data, tmp_path, reader):
    turned = tmp_path / NAME
    shutil.copytree(model, turned)
    plans = json.loads((turned / "plans.json").read_text())
    (turned / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": reader}))
    image = (real_data / "totalsegmentator" / "example_mr_sm.nii.gz").resolve()
    masks = open_nnunet(model=turned, structures=None, force=True, step_size=1.0)
    voxels = masks.segment(Case("mr", (image,), None, "mr"), tmp_path).volume.voxels
    stock = predicted_by_nnunet(turned, image, tmp_path / "stock", tile_step_size=1.0)
    np.testing.assert_array_equal(voxels, stock)
    assert len(np.unique(voxels)) > 2


def test_a_zip_gives_what_its_folder_gives_and_leaves_nothing(model, packed, case, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sources = [
        pickle.loads(pickle.dumps(open_nnunet(model=path, structures=("spleen",), folds=(1,), step_size=1.0)))
        for path in (model, packed)
    ]
    first, second = (source.segment(case, tmp_path).volume.voxels for source in sources)
    np.testing.assert_array_equal(first, second)
    assert first.any()
    assert sources[0].how == sources[1].how
    assert not list(tmp_path.iterdir())


def test_structures_are_numbered_as_asked_for_and_lesions_left_out(model, case, tmp_path):
    whole = open_nnunet(model=model, structures=None, force=True, folds=(0,), step_size=1.0)
    values = whole.segment(case, tmp_path).volume.voxels
    source = open_nnunet(model=model, structures=("kidney_left", "liver"), folds=(0,), step_size=1.0)
    masks = source.segment(case, tmp_path).volume.voxels
    np.testing.assert_array_equal(masks, np.array([0, 2, 0, 0, 1], np.uint8)[values])
    assert open_nnunet(model=model, structures=None).structures == ("liver", "spleen", "kidney_left")


def test_the_record_says_which_weights_and_how(model):
    how = json.loads(json.dumps(open_nnunet(model=model, structures=None).how))
    assert (how["tool"], how["folds"], how["licence"]) == ("nnunetv2", ["0", "1"], "Creative Commons BY 4.0")
    assert sorted(how["weights"]) == [
        "dataset.json",
        "fold_0/checkpoint_final.pth",
        "fold_1/checkpoint_final.pth",
        "plans.json",
    ]
    assert all(len(digest) == 64 for digest in how["weights"].values())
    assert str(model.parent) not in json.dumps(how)
    assert open_nnunet(model=model, structures=None, folds=(0,)).how != how


def test_one_channel_of_several_can_be_shown_to_the_model(model, case, tmp_path):
    absent = tmp_path / "absent.nii.gz"
    both = Case("ct", (absent, *case.images), None, "ct")
    source = open_nnunet(model=model, structures=None, folds=(0,), channel=1, step_size=1.0)
    alone = open_nnunet(model=model, structures=None, folds=(0,), step_size=1.0)
    np.testing.assert_array_equal(
        source.segment(both, tmp_path).volume.voxels, alone.segment(case, tmp_path).volume.voxels
    )
    assert source.inputs(both) == case.images
    with pytest.raises(CohortError, match="ct: 2 images, the model takes 1 channels"):
        alone.segment(both, tmp_path)
    with pytest.raises(CohortError, match="ct: no channel 1; it has 0 to 0"):
        source.segment(case, tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"structures": ("spleeen",)},
            SourceError,
            "structure 'spleeen' is not among 4 of this source; near it: spleen",
        ),
        ({"structures": ("liver_lesion",)}, SourceError, "is a lesion"),
        ({"folds": (7,)}, ModelError, "no checkpoint .*fold_7"),
        ({"checkpoint": "checkpoint_best.pth"}, ModelError, r"has no fold_\*/checkpoint_best.pth"),
        ({"step_size": 0.0}, ConfigurationError, "--step-size is a share of the patch"),
        ({"model": Path("nowhere")}, ModelError, "no model nowhere; give nnU-Net's model folder"),
    ],
)
def test_what_cannot_be_asked_for_is_told_before_any_case(model, options, error, message):
    with pytest.raises(error, match=message):
        open_nnunet(**{"model": model, "structures": None, **options})


@pytest.mark.slow
def test_a_model_that_backsplit_trained_is_a_source(tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    composed = compose_phantom(tmp_path, num_cases=2)
    prepare(composed, workspace.root)
    train(workspace.root, "backsplit", "--epochs", 1, "--iterations", 1)
    (model,) = workspace.results.glob("*/*__backsplit__*")
    source = open_nnunet(model=model, structures=None)
    assert source.structures == ("kidney", "liver", "bowel"), "the target is a lesion"
    (case, *_) = cases.read(composed).cases
    masks = source.segment(case, tmp_path).volume
    assert masks.grid == read_grid(case.images[0])
    assert masks.voxels.max() <= 3
