"""`backsplit predict`: masks that are stock nnU-Net's, posteriors, stages that overlap, and one line per bad case."""

import json
import os
import shutil
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from backsplit import cases
from backsplit.cases import Case
from backsplit.cli import main
from backsplit.errors import CohortError, ConfigurationError, VolumeError
from backsplit.experiments.paths import Workspace
from backsplit.labels import to_target
from backsplit.nnunet.inference import find, load_model, masks_of
from backsplit.nnunet.pipeline import overlapped
from backsplit.nnunet.prediction import TargetPredictor
from backsplit.nnunet.prediction_settings import PredictionSettings
from backsplit.nnunet.reading import read_case
from backsplit.nnunet.screening import Question
from backsplit.volume import Grid, Volume, read_grid, read_labels, read_volume, write_volume
from studies import compose_phantom, prepare, run, train
from tinymodels import write_model

CPU = torch.device("cpu")
NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CHECKPOINT = "checkpoint_final.pth"
FINE = {"background": 0, "cyst": 1, "kidney": 2, "liver": 3, "spleen": 4}
SEED = 6
"""Of random weights by which every class wins at least 2 % of the voxels of each image here."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A phantom cohort, and the folder of a BackSplit arm that was trained on it for six steps."""
    folder = tmp_path_factory.mktemp("predict")
    composed = compose_phantom(folder, num_cases=4)
    workspace = Workspace(folder / "workspace")
    prepare(composed, workspace.root)
    train(workspace.root, "backsplit")
    (model,) = workspace.results.glob("*/*__backsplit__*")
    favour_target(model, cases.read(composed).cases[0])
    return composed, model


def favour_target(model: Path, case: Case) -> None:
    """Six steps find no lesion: raise the target's logit until it wins in half of the voxels of a case."""
    loaded = load_model(model, (0,), PredictionSettings(), CPU)
    slabs = loaded.network.slabs(read_case(loaded.nnunet, case).volume)
    logits = np.concatenate([loaded.network.logits(slab.values.flatten(1)) for slab in slabs], 1)
    lacking = np.quantile(np.delete(logits, 1, 0).max(0) - logits[1], 0.5)
    path = model / "fold_0" / CHECKPOINT
    checkpoint = torch.load(path, weights_only=False)
    for name, weights in checkpoint["network_weights"].items():
        if "seg_layers" in name and name.endswith("bias"):
            weights[1] += lacking
    torch.save(checkpoint, path)


@pytest.fixture
def images(trained, tmp_path) -> Path:
    """A folder of two images, on a finer grid than the network's, so that logits are resampled."""
    folder = tmp_path / "images"
    for case in cases.read(trained[0]).cases[:2]:
        whole = read_volume(case.images[0])
        fine = np.repeat(np.repeat(whole.voxels, 2, 0), 2, 1)[3:, :-2]
        spacing = (whole.grid.spacing_mm[0] / 2, whole.grid.spacing_mm[1] / 2, whole.grid.spacing_mm[2])
        grid = Grid(fine.shape, spacing, (7.0, -3.0, 11.5), whole.grid.direction)
        write_volume(Volume(fine, grid), folder / f"{case.name}_0000.nii.gz")
    return folder


def stock_labels(model: Path, image: Path, folder: Path, **options) -> np.ndarray:
    """What nnU-Net's own loading, prediction and writing make of an image: classes of the network."""
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(str(model), (0,), CHECKPOINT)
    folder.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential([[str(image)]], [str(folder / "out")])
    return read_labels(folder / "out.nii.gz").voxels


def dice(mask: Volume, expected: np.ndarray) -> float:
    return 2 * np.count_nonzero(mask.voxels & expected) / (np.count_nonzero(mask.voxels) + np.count_nonzero(expected))


def of_target(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return to_target(num_targets=1, num_fine=num_classes).of_labels(labels)


@pytest.mark.parametrize("options", [(), ("--exact",), ("--exact", "--no-mirroring"), ("--tiles-at-once", 3)])
def test_masks_are_stock_nnunets_and_exact_ones_in_every_voxel(trained, images, tmp_path, options):
    output = tmp_path / "masks"
    run("predict", trained[1], images, output, "--device", "cpu", *options)
    for path in sorted(images.iterdir()):
        labels = stock_labels(trained[1], path, tmp_path / "stock", use_mirroring="--no-mirroring" not in options)
        mask = read_labels(output / path.name.replace("_0000", ""))
        expected = of_target(labels, 5)
        assert np.count_nonzero(mask.voxels != expected) == 0 if "--exact" in options else dice(mask, expected) > 0.999
        assert mask.grid.difference(read_grid(path)) is None
        assert 0 < mask.voxels.mean() < 1


def test_all_classes_are_stock_nnunets(trained, images, tmp_path):
    run("predict", trained[1], images, tmp_path / "fine", "--all-classes", "--device", "cpu", "--step-size", 1)
    path = sorted(images.iterdir())[0]
    fine = read_labels(tmp_path / "fine" / path.name.replace("_0000", "")).voxels
    np.testing.assert_array_equal(fine, stock_labels(trained[1], path, tmp_path / "stock", tile_step_size=1))


def test_a_model_of_stock_nnunet_is_told_its_targets(images, tmp_path, capfd):
    model = tmp_path / NAME
    write_model(model, FINE, patch_size=(16, 16, 16), seed=SEED)
    command = ("predict", model, images, tmp_path / "masks", "--device", "cpu")
    for names in ((), ("--targets", "lesion")):
        assert main([str(word) for word in (*command, *names)]) == 1
        assert "tells apart cyst, kidney, liver, spleen; name those" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "masks").exists()
    run(*command, "--exact", "--targets", "spleen", "cyst")
    for path in images.iterdir():
        labels = stock_labels(model, path, tmp_path / "stock")
        mask = read_labels(tmp_path / "masks" / path.name.replace("_0000", "")).voxels
        np.testing.assert_array_equal(mask, np.array([0, 2, 0, 0, 1], np.uint8)[labels])
        assert {*np.unique(mask)} == {0, 1, 2}


class Bomb:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_checkpoint_that_could_run_code_needs_trust(images, tmp_path, capfd):
    model = tmp_path / NAME
    write_model(model, FINE, patch_size=(16, 16, 16), seed=SEED)
    path = model / "fold_0" / CHECKPOINT
    torch.save({**torch.load(path), "other": Bomb(tmp_path / "ran")}, path)
    command = ("predict", model, images, tmp_path / "masks", "--device", "cpu", "--targets", "cyst")
    assert main([str(word) for word in command]) == 1
    assert "may run code; if you trust who made it, predict, finetune and annotate take it with --trust" in (
        capfd.readouterr().err
    )
    assert not (tmp_path / "ran").exists()
    run(*command, "--trust")
    assert (tmp_path / "ran").exists()
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (5.0, 1.5, 1.5)])
def test_a_hippocampus_is_stock_nnunets_isotropic_and_in_slices(real_data, tmp_path, spacing):
    image = sorted((real_data / "hippocampus" / "imagesTr").iterdir())[0]
    assert_equals_stock(image, tmp_path, spacing)


@pytest.fixture(scope="module")
def kits_images(real_data, tmp_path_factory) -> list[Path]:
    """Images made up around three KiTS23 label maps, in coarse voxels."""
    folder = tmp_path_factory.mktemp("kits")
    (folder / "labels").mkdir()
    for name in ("case_00050", "case_00129", "case_00147"):
        (folder / "labels" / f"{name}.nii.gz").symlink_to(real_data / "kits23_labels" / f"{name}.nii.gz")
    made = ("--synthetic-images", "--spacing-mm", 6, "--jobs", 1)
    run("convert", "kits23", folder / "labels", folder / "cohort", *made)
    return [case.images[0] for case in cases.read(folder / "cohort").cases]


@pytest.mark.parametrize("spacing", [(7.5, 7.5, 7.5), (18.0, 4.8, 4.8)])
def test_made_up_kits_images_are_stock_nnunets_isotropic_and_in_slices(kits_images, tmp_path, spacing):
    assert len(kits_images) == 3
    for image in kits_images:
        assert_equals_stock(image, tmp_path / image.parent.name / image.name, spacing)


def assert_equals_stock(image: Path, folder: Path, spacing) -> None:
    model = folder / NAME
    channel = "MR" if "hippocampus" in image.name else "CT"
    write_model(model, FINE, patch_size=(16, 16, 16), spacing=spacing, channel_names=(channel,), seed=SEED)
    assert_mask_is_stock(model, image, folder)


def assert_mask_is_stock(model: Path, image: Path, folder: Path) -> None:
    labels = stock_labels(model, image, folder / "stock")
    assert {*np.unique(labels)} == {*FINE.values()}
    np.testing.assert_array_equal(exact_mask(model, image), of_target(labels, 5))


def exact_mask(model: Path, image: Path) -> np.ndarray:
    loaded = load_model(model, (0,), PredictionSettings(exact=True), CPU)
    question = Question(to_target(num_targets=1, num_fine=5))
    seen = read_case(loaded.nnunet, Case("c", (image,), None, "c"), resampling="stock")
    found = find(loaded, seen, question)
    return masks_of(loaded, found, question)


def test_another_resampling_of_the_plans_is_followed(real_data, tmp_path):
    model = tmp_path / NAME
    write_model(model, FINE, patch_size=(16, 16, 16), channel_names=("MR",), seed=SEED)
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= {
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "num_threads": 1},
    }
    (model / "plans.json").write_text(json.dumps(plans))
    image = sorted((real_data / "hippocampus" / "imagesTr").iterdir())[0]
    assert_mask_is_stock(model, image, tmp_path)


def test_posteriors_lie_beside_the_masks(trained, images, tmp_path):
    output = tmp_path / "pooled"
    run("predict", trained[1], images, output, "--probabilities", "--rule", "pooled", "--device", "cpu")
    for path in sorted(images.iterdir()):
        name = path.name.removesuffix("_0000.nii.gz")
        mask, posterior = (
            read_labels(output / f"{name}.nii.gz"),
            read_volume(output / "probabilities" / f"{name}_0001.nii.gz"),
        )
        assert posterior.voxels.dtype == np.uint8
        assert posterior.grid == mask.grid
        assert (posterior.voxels[mask.voxels == 1] >= 127).all()
        assert (posterior.voxels[mask.voxels == 0] <= 128).all()


def test_air_is_left_out_and_the_body_is_not(trained, images, tmp_path):
    """Air wider than a tile around the same image; both models see the same voxels inside the body."""
    (path, *_) = sorted(images.iterdir())
    near = read_volume(path)
    margin = 96
    far = np.pad(near.voxels, ((0, margin), (0, 0), (0, 0)), constant_values=-1000)
    folder = tmp_path / "far"
    write_volume(
        Volume(far, Grid(far.shape, near.grid.spacing_mm, (0, 0, 0), near.grid.direction)), folder / "a_0000.nii.gz"
    )
    predictor = TargetPredictor(trained[1], (0,), PredictionSettings(mirroring=False, skip_air=True), CPU)
    loaded = load_model(trained[1], (0,), predictor.settings, CPU)
    seen = read_case(loaded.nnunet, Case("a", (folder / "a_0000.nii.gz",), None, "a"), find_body=True)
    assert seen.body[2].stop < seen.volume.shape[3] / 2
    run("predict", trained[1], folder, tmp_path / "skipped", "--skip-air", "--no-mirroring", "--device", "cpu")
    run("predict", trained[1], folder, tmp_path / "whole", "--no-mirroring", "--device", "cpu")
    skipped, whole = (read_labels(tmp_path / name / "a.nii.gz").voxels for name in ("skipped", "whole"))
    body = near.voxels.shape[0]
    np.testing.assert_array_equal(skipped[:body], whole[:body])
    assert not skipped[-margin // 2 :].any()


def test_bfloat16_is_close(trained, images, tmp_path):
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        pytest.skip("this CPU has no bfloat16")
    for precision in ("float32", "bfloat16"):
        output = tmp_path / precision
        run("predict", trained[1], images, output, "--precision", precision, "--device", "cpu", "--no-mirroring")
    for path in (tmp_path / "float32").glob("*.nii.gz"):
        one, other = (read_labels(tmp_path / name / path.name).voxels for name in ("float32", "bfloat16"))
        assert np.mean(one != other) < 0.02


# --- stages -----------------------------------------------------------------------------------------------------------


def test_stages_overlap_and_few_items_wait():
    """Work on an item ends only once the next one is read and the last one is being written."""
    alive, most, lock = 0, 0, threading.Lock()
    is_read, is_written = ([threading.Event() for _ in range(10)] for _ in range(2))

    def count(step: int) -> None:
        nonlocal alive, most
        with lock:
            alive += step
            most = max(most, alive)

    def read(item: int) -> int:
        count(1)
        is_read[item].set()
        return item

    def work(item: int) -> int:
        for event in (*is_read[item + 1 : item + 2], *is_written[max(0, item - 1) : item]):
            assert event.wait(60)
        return item

    written = []

    def write(item: int) -> None:
        is_written[item].set()
        written.append(item)
        count(-1)

    assert list(overlapped(range(10), read, work, write)) == [(item, None) for item in range(10)]
    assert written == list(range(10))
    assert most <= 3, "one that is read, one under way, one that is written"


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_is_wrong_with_one_item_stops_no_other(stage):
    def fail_at(index: int):
        def step(item: int) -> int:
            if index == stage and item == 1:
                raise VolumeError("broken")
            return item

        return step

    told = list(overlapped(range(4), *(fail_at(index) for index in range(3))))
    assert [(item, str(error or "")) for item, error in told] == [(0, ""), (1, "broken"), (2, ""), (3, "")]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_nobody_can_mend_ends_it(stage):
    def fail_at(index: int):
        def step(item: int) -> int:
            if index == stage:
                raise OSError(28, "no space")
            return item

        return step

    with pytest.raises(OSError, match="no space"):
        list(overlapped(range(4), *(fail_at(index) for index in range(3))))


# --- bad input --------------------------------------------------------------------------------------------------------


def spoil(path: Path, change) -> None:
    image = nibabel.load(path)
    voxels, affine = change(np.asarray(image.dataobj).astype(np.float32), image.affine)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def with_nan(voxels, affine):
    voxels[3, 4, 5] = np.nan
    return voxels, affine


BAD = {
    "4d": (lambda voxels, affine: (np.stack([voxels, voxels], -1), affine), "expected one 3-D scalar image"),
    "constant": (lambda voxels, affine: (np.zeros_like(voxels), affine), "empty, all voxels are 0; expected an image"),
    "nan": (with_nan, "voxels are NaN or infinite"),
    "metres": (
        lambda voxels, affine: (voxels, affine @ np.diag([1e-3, 1e-3, 1e-3, 1])),
        "the model was trained on 5-5",
    ),
}


@pytest.mark.parametrize("kind", [*BAD, "damaged", "channels"])
def test_a_bad_image_is_one_line_and_the_others_are_done(trained, images, tmp_path, capfd, kind):
    bad, good = sorted(images.iterdir())
    message = {"damaged": "damaged or cut short", "channels": "2 images, the model takes 1 channels"}.get(kind)
    if kind in BAD:
        change, message = BAD[kind]
        spoil(bad, change)
    elif kind == "damaged":
        bad.write_bytes(bad.read_bytes()[:-400])
    else:
        shutil.copy(bad, bad.with_name(bad.name.replace("_0000", "_0001")))
    name = bad.name.removesuffix("_0000.nii.gz")
    command = ("predict", trained[1], images, tmp_path / "masks", "--no-mirroring", "--device", "cpu")
    assert main([str(word) for word in command]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(f"{name}: ") and message in line]
    assert lines[-1].startswith(f"backsplit: error: 1 of 2 cases failed ({name}; each has a line above)")
    assert "Traceback" not in "\n".join(lines)
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {
        good.name.replace("_0000", ""),
        "predictions.json",
    }


def test_far_spacings_are_taken_by_those_who_want_them(trained, images, tmp_path):
    for path in images.iterdir():
        spoil(path, lambda voxels, affine: (voxels[::4, ::4], affine @ np.diag([9, 9, 4, 1])))
    command = ("predict", trained[1], images, tmp_path / "masks", "--no-mirroring", "--device", "cpu")
    assert main([str(word) for word in command]) == 1
    run(*command[:3], tmp_path / "any", *command[4:], "--any-spacing")
    assert len(list((tmp_path / "any").glob("*.nii.gz"))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"all_classes": True, "probabilities": True}, "--probabilities are those of the targets"),
        ({"all_classes": True, "rule": "pooled"}, "--all-classes shows what argmax chooses"),
        ({"all_classes": True, "targets": ("cyst",)}, "leave out --all-classes"),
        ({"tiles_at_once": 0}, "--tiles-at-once is 1 or more"),
        ({"precision": "bfloat16", "exact": True}, "--precision bfloat16 is for CPUs"),
        ({"step_size": 1.5}, "--step-size is a share"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        PredictionSettings(**settings)


def test_outputs_that_cannot_be_folders(trained, images, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert main(["predict", str(trained[1]), str(images), str(tmp_path / "file"), "--device", "cpu"]) == 1
    assert "file is a file; name a folder for the masks" in capfd.readouterr().err
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    assert main(["predict", str(trained[1]), str(images), str(tmp_path / "locked"), "--device", "cpu"]) == 1
    assert "use a folder that you may write to" in capfd.readouterr().err


def test_a_folder_with_no_image(trained, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(trained[1]), str(tmp_path / "empty"), str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "no image named <case>_0000" in capfd.readouterr().err
    predictor = TargetPredictor(trained[1], (0,), PredictionSettings(), CPU)
    with pytest.raises(CohortError, match="no cases to predict"):
        predictor.predict([], tmp_path / "out", cohort="none")


def test_air_is_known_in_ct_alone(trained, images, tmp_path):
    model = tmp_path / "mr" / trained[1].name
    shutil.copytree(trained[1], model)
    description = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "MR"}}))
    predictor = TargetPredictor(model, (0,), PredictionSettings(skip_air=True), CPU)
    with pytest.raises(ConfigurationError, match="--skip-air finds the body in CT"):
        predictor.predict(cases.read(trained[0]).cases, tmp_path / "out", cohort="any")
