"""`backsplit fisher` and `select --model`: tiles, maps, records, tables; the commands on a tiny arm, and bad input."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backsplit import cases
from backsplit.cli import main
from backsplit.experiments.looking import border_of
from backsplit.experiments.paths import Workspace
from backsplit.labels import identity, to_target
from backsplit.nnunet.features import load_network, on_image, places, read_labelled, tiles
from backsplit.nnunet.training import FINAL
from backsplit.report.likelihoods import falls
from backsplit.selection import forward_greedy
from backsplit.theory import information as information_of_logits
from backsplit.theory.last_layer import Voxels, within_block
from backsplit.theory.sampling import thinned
from backsplit.volume import Grid, Volume, read_grid, read_volume, write_volume
from studies import AUXILIARIES, compose_phantom, prepare, run, train
from test_labels import seeds

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch.func itself
NUM_CASES = 4
FAST = ("--step-size", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A workspace with an arm of six iterations."""
    root = tmp_path_factory.mktemp("study")
    composed = compose_phantom(root, num_cases=NUM_CASES)
    prepare(composed, root / "workspace")
    train(root / "workspace", "backsplit")
    return composed, root / "workspace"


@settings(max_examples=30)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(4, 12)] * 3), st.sampled_from([0.3, 0.5, 1.0]))
def test_tiles_part_the_volume(shape, patch_size, step_size):
    times, padded = np.zeros(shape, int), np.maximum(shape, patch_size)
    first = (padded - shape) // 2
    for taken, owned in places(patch_size, shape, step_size=step_size):
        for edge, whole, own, length in zip(taken, patch_size, owned, padded, strict=True):
            assert edge.stop - edge.start == whole
            assert 0 <= edge.start <= own.start < own.stop <= edge.stop <= length
        times[tuple(slice(own.start - low, own.stop - low) for own, low in zip(owned, first, strict=True))] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("shape", [(24, 16, 20), (16, 40, 9)])
def test_a_tile_holds_what_the_network_says_there(study, shape):
    (model,) = (study[1] / "results").glob("*/*__backsplit__*")
    trained = load_network(model, 0, checkpoint=FINAL, device=torch.device("cpu"))
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    patch = trained.model.network.patch
    lack = max(0, patch[2] - shape[2])
    padded = np.pad(volume.numpy(), [(0, 0)] * 3 + [(lack // 2, lack - lack // 2)])
    found = list(tiles(trained, volume, step_size=0.5))
    for tile, (taken, owned) in zip(found, places(patch, shape, step_size=0.5), strict=True):
        alone = trained.network(torch.from_numpy(padded[:, *taken])[None])[0].softmax(dim=0)
        inside = tuple(
            slice(own.start - each.start, own.stop - each.start) for own, each in zip(owned, taken, strict=True)
        )
        expected = alone[:, *inside].detach()
        assert expected.shape[1:] == tuple(each.stop - each.start for each in tile.box)
        torch.testing.assert_close(tile.voxels.probabilities, expected.flatten(1), atol=1e-5, rtol=1e-4)


def test_a_map_lies_where_the_image_lies(study, tmp_path):
    """The image itself, cropped, resampled and normalised, is brought back to where it was; 0 where it was cropped."""
    case = cases.read(study[0]).cases[0]
    spacing, place = (5.0, 4.0, 7.5), (slice(3, 35), slice(2, 34), slice(7, 39))
    grid = Grid((40, 36, 44), spacing, (1.0, -2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    written = {}
    for name, path in (("image", case.images[0]), ("labels", case.labels)):
        inner = read_volume(path).voxels
        voxels = np.zeros(grid.shape, inner.dtype)
        voxels[place] = inner
        written[name] = tmp_path / f"{name}.nii.gz"
        write_volume(Volume(voxels, grid), written[name])
    (model,) = (study[1] / "results").glob("*/*__backsplit__*")
    trained = load_network(model, 0, checkpoint=FINAL, device=torch.device("cpu"))
    moved = replace(case, images=(written["image"],), labels=written["labels"])
    seen = read_labelled(trained, moved, ignore=None)
    assert seen.volume.shape[1:] != (32, 32, 32)
    shown = on_image(trained, seen.volume[0].numpy(), seen)
    assert shown.grid.difference(grid) is None
    outside = np.ones(grid.shape, bool)
    outside[place] = False
    assert (shown.voxels[outside] == 0).all()
    image = read_volume(written["image"]).voxels[place].ravel()
    assert stats.spearmanr(shown.voxels[place].ravel(), image).statistic > 0.9


def test_the_border_has_two_sides():
    labels = np.zeros((7, 5, 5), int)
    labels[2:5, 1:4, 1:4] = 1
    labels[1, 2, 2] = -1  # nobody annotated
    border = border_of(labels, 1)
    inside, outside = border & (labels == 1), border & (labels == 0)
    assert inside.sum() == 26
    assert outside.sum() == 6 * 9 - 1
    assert not border_of(labels, 2).any()


def test_a_sample_stands_for_all_voxels():
    """Its weighted information has the true one as its mean over draws, within 4 standard errors, entry by entry."""
    generator = np.random.default_rng(0)
    p = generator.dirichlet((0.1, 0.2, 0.3), 60).T
    voxels = Voxels(torch.tensor(generator.normal(size=(2, 60))), torch.tensor(p))
    truth = within_block(voxels, (0, 1, 2))
    drawn = []
    for _ in range(300):
        once = thinned(voxels, 30, generator)
        twice = thinned(once, 15, generator)
        assert twice.features.shape[1] == 15
        drawn.append(within_block(twice, (0, 1, 2)))
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - truth) <= 4 * error + 1e-12).all()
    np.testing.assert_allclose(within_block(thinned(voxels, 60, generator), (0, 1, 2)), truth, atol=1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0.1, 1), min_size=1, max_size=6))
def test_greedy_takes_the_best_next_class(factors):
    names = [str(number) for number in range(len(factors))]

    def variance(kept):
        return 2 * np.prod([factors[names.index(name)] for name in kept])

    walk = forward_greedy(names, variance)
    assert [factors[names.index(turn.name)] for turn in walk] == sorted(factors)
    assert [turn.number for turn in walk] == list(range(1, len(factors) + 1))
    assert sum(turn.drop for turn in walk) == pytest.approx(1 - np.prod(factors))
    assert all(turn.drop_alone == pytest.approx(1 - factors[names.index(turn.name)]) for turn in walk)


@settings(max_examples=20)
@given(seeds)
def test_level_sets_nest_and_curve_as_the_information(seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(4), 9).T
    weights, step = np.ones(9), 1e-3
    fine, binary = falls(p, weights, 1, 2, np.array([-1.5, -step, 0, step, 1.5]))
    assert (fine >= binary - 1e-12).all()
    assert (binary >= -1e-12).all()
    for found, coarsening in ((fine, identity(4)), (binary, to_target(num_targets=1, num_fine=4))):
        expected = information_of_logits(p, coarsening)
        assert 2 * found[2, 3] / step**2 == pytest.approx(expected[1, 1], rel=1e-2, abs=1e-5)
        assert 2 * found[3, 2] / step**2 == pytest.approx(expected[2, 2], rel=1e-2, abs=1e-5)


def test_the_commands_from_arm_to_tables(study, capsys):
    composed, workspace = study
    run("fisher", "backsplit", composed, "--workspace", workspace, *FAST, "--probes", 2)
    told = capsys.readouterr().out
    assert "without kidney" in told
    folder = Workspace(workspace).information_of("backsplit")
    labels = pd.read_csv(folder / "labels.csv").set_index("labels")
    assert list(labels.index) == ["fine", "binary", *(f"without {name}" for name in AUXILIARIES)]
    assert (labels["ratio"] >= 1 - 1e-6).all()
    assert labels["ratio"].idxmax() == "binary"
    assert labels["lost_image"].between(0, 1).all()
    classes = pd.read_csv(folder / "classes.csv", keep_default_na=False)
    image = classes[classes["region"] == "image"]
    single, pairs = image[image["other"] == ""], image[image["other"] != ""]
    assert (single["lost"] <= single["fine"] + 1e-6).all()
    assert single.set_index("class").loc["cyst", "lost"] == pytest.approx(0, abs=1e-3)
    for column in ("fine", "lost"):
        assert pairs[column].sum() == pytest.approx(single[column].sum(), rel=1e-6)
    estimated = pd.read_csv(folder / "all-parameters.csv").set_index("labels")
    assert (estimated["trace"] <= estimated.loc["fine", "trace"] * (1 + 1e-9)).all()
    assert (estimated["target_direction"] <= estimated.loc["fine", "target_direction"] * (1 + 1e-9)).all()
    lost = []
    for case in cases.read(composed).cases:
        shown = read_volume(folder / "maps" / f"{case.name}.nii.gz")
        assert shown.grid.difference(read_grid(case.images[0])) is None
        assert shown.voxels.min() >= 0
        assert shown.voxels.max() <= 1
        lost.append(shown.voxels.mean())
    assert 1000 * np.mean(lost) == pytest.approx(single["lost"].sum(), rel=0.02)  # nothing is cropped, spacing is kept
    assert (folder / "likelihoods.svg").stat().st_size > 1000


def test_a_second_call_looks_at_what_is_missing(study):
    composed, workspace = study
    arguments = ("fisher", "backsplit", composed, "--workspace", workspace, *FAST)
    run(*arguments)
    folder = Workspace(workspace).information_of("backsplit")
    records = sorted((folder / "records").iterdir())
    assert len(records) == NUM_CASES
    before, table = [path.stat().st_mtime_ns for path in records], (folder / "labels.csv").read_bytes()
    records[0].write_bytes(records[0].read_bytes()[:1000])
    (folder / "maps" / f"{records[1].stem}.nii.gz").unlink()
    run(*arguments)
    after = [path.stat().st_mtime_ns for path in records]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, *[False] * (NUM_CASES - 2)]
    assert (folder / "labels.csv").read_bytes() == table


def test_select_weighs_what_a_model_is_told(study, capsys):
    composed, workspace = study
    run("select", composed, "--workspace", workspace, "--model", "backsplit", *FAST)
    assert "recommended: kidney" in capsys.readouterr().out
    table = pd.read_csv(Workspace(workspace).selection_table).set_index("class")
    assert sorted(table["turn"]) == [1, 2, 3]
    labels = pd.read_csv(Workspace(workspace).information_of("backsplit") / "labels.csv").set_index("labels")
    exact = 1 - 1 / labels.loc["binary", "ratio"]
    assert table["drop"].sum() == pytest.approx(exact, abs=0.1)  # from a sample of the voxels
    assert (table["drop"] <= table["score"]).all()
    first = table["turn"].idxmin()
    assert table.loc[first, "drop"] == table.loc[first, "drop_alone"] == table["drop_alone"].max()


def told(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_bad_input(study, tmp_path, capsys):
    composed, workspace = study
    fisher = ("fisher", "backsplit", composed, "--workspace", workspace, *FAST)
    (model,) = (workspace / "results").glob("*/*__backsplit__*")
    shutil.copytree(model, tmp_path / "binary")
    plans = json.loads((model / "plans.json").read_text())
    plans["backsplit"]["arm"]["kind"] = "binary"
    (tmp_path / "binary" / "plans.json").write_text(json.dumps(plans))
    assert "trained without auxiliary classes" in told(capsys, "fisher", tmp_path / "binary", *fisher[2:])
    assert "above 0 to 1; got 2" in told(capsys, *fisher, "--step-size", 2)
    assert "above 0; got -1" in told(capsys, *fisher, "--ridge", -1)
    assert "2 random directions or more" in told(capsys, *fisher, "--probes", 1)
    run(
        "compose",
        composed.parent / "drawn",
        "--targets",
        "cyst",
        "--auxiliaries",
        "kidney",
        "--output",
        tmp_path / "few",
    )
    other = told(capsys, "fisher", "backsplit", tmp_path / "few", *fisher[3:])
    assert "was trained on background, cyst, kidney, liver, bowel, cohort phantom has background, cyst, kidney" in other
    cohort = cases.read(composed)
    case = cohort.cases[0]
    for change, expected in (
        (lambda labels: np.where(labels == 1, 9, labels), r"labels [9] are outside the scheme background, cyst"),
        (lambda labels: np.where(labels == 1, 0, labels), "no case has a voxel of a target"),
    ):
        labels = read_volume(case.labels)
        write_volume(Volume(change(labels.voxels).astype(np.uint8), labels.grid), tmp_path / "labels.nii.gz")
        broken = replace(cohort, cases=(replace(case, labels=tmp_path / "labels.nii.gz"),))
        cases.write(broken, tmp_path / "broken")
        line = told(capsys, "fisher", "backsplit", tmp_path / "broken", *fisher[3:], "--output", tmp_path / "out")
        assert expected in line
    cases.write(replace(cohort, cases=(replace(case, labels=None),)), tmp_path / "broken")
    assert f"{case.name}: no label map" in told(capsys, "fisher", "backsplit", tmp_path / "broken", *fisher[3:])
