"""Arms whose labels come from different sources share one data set: the same images, plan and patches."""

import json
from pathlib import Path

import blosc2
import numpy as np
import pytest

from backsplit import cases
from backsplit.cli import main
from backsplit.volume import Volume, read_labels, write_volume
from studies import TINY_NETWORK, run, train

AUXILIARIES = ("kidney", "liver")
ARM = "backsplit-model+labels"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A phantom whose kidneys are in its labels and, eroded, in a folder of masks, where the last case is missing."""
    root = tmp_path_factory.mktemp("sources")
    run("convert", "phantom", root / "drawn", "--num-cases", 4, "--size", 32)
    cohort = cases.read(root / "drawn")
    value = {name: value for value, name in cohort.label_names}["kidney"]
    for case in cohort.cases[:-1]:
        labels = read_labels(case.labels)
        eroded = (labels.voxels == value) & (np.roll(labels.voxels, 1, axis=0) == value)
        write_volume(Volume(eroded.astype(np.uint8), labels.grid), root / "masks" / case.name / "kidney.nii.gz")
    empty = root / "masks" / cohort.cases[-1].name / "spleen.nii.gz"
    write_volume(Volume(np.zeros(labels.grid.shape, np.uint8), labels.grid), empty)
    run("annotate", root / "drawn", "--source", "folder", "--masks", root / "masks", "--name", "model")
    classes = ["--targets", "cyst", "--auxiliaries", *AUXILIARIES]
    ways = ["--sources", "labels", "model+labels"]
    run("compose", root / "drawn", *classes, *ways, "--workspace", root / "study")
    run("prepare", "--workspace", root / "study", *TINY_NETWORK, "--folds", 2, "--processes", 1)
    return root / "study"


def preprocessed(study: Path, suffix: str) -> Path:
    (folder,) = study.glob(f"preprocessed/*/nnUNetPlans_3d_fullres{suffix}")
    return folder


def test_images_are_shared_and_labels_are_not(study):
    first, other = preprocessed(study, ""), preprocessed(study, "@model+labels")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        if not name.endswith(("_seg.b2nd", ".pkl")):
            assert (other / name).resolve() == (first / name).resolve()
    name = cases.read(study / "cohort").cases[0].name
    ours, theirs = (np.asarray(blosc2.open(str(folder / f"{name}_seg.b2nd"))[:]) for folder in (first, other))
    np.testing.assert_array_equal(ours == 1, theirs == 1)  # the target
    np.testing.assert_array_equal(ours == 3, theirs == 3)  # the liver, of the labels both times
    assert (theirs == 2).sum() < (ours == 2).sum()
    assert not (theirs == 2)[ours != 2].any()


def test_the_arms_can_be_compared(study):
    train(study, "backsplit")
    train(study, "backsplit", "--source", "model+labels")
    train(study, "binary")
    for arm in ("binary", "backsplit", ARM):
        run("predict", arm, "--workspace", study, "--no-mirroring")
    run("evaluate", "--tolerance-mm", 5, "--workspace", study)
    run("compare", "--workspace", study)
    (model,) = study.glob(f"results/*/*__{ARM}__*")
    block = json.loads((model / "plans.json").read_text())["backsplit"]
    last = cases.read(study / "cohort").cases[-1].name
    assert block["annotated"] == {last: ["liver"]}
    assert block["source"] == "model+labels"


@pytest.mark.parametrize(
    ("arm", "source", "message"),
    [
        ("backsplit", "clicks", "--source 'clicks': the cohort was composed from model+labels"),
        ("binary", "model+labels", "arm 'binary' has no auxiliaries, so no --source"),
    ],
)
def test_a_source_that_cannot_be(study, capfd, arm, source, message):
    words = ["train", "--arm", arm, "--source", source, "--workspace", str(study), "--device", "cpu"]
    assert main(words) == 1
    assert message in capfd.readouterr().err


def test_only_the_label_maps_are_called_labels(study, capfd):
    drawn = study.parent / "drawn"
    assert main(["annotate", str(drawn), "--source", "tissue", "--name", "labels"]) == 1
    assert "--name labels: that is what the cohort's own label maps are called" in capfd.readouterr().err


def test_another_source_later_keeps_the_images(study):
    """Last in this file, because it prepares the study anew."""
    drawn, first = study.parent / "drawn", preprocessed(study, "")
    made = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    run("annotate", drawn, "--source", "folder", "--masks", study.parent / "masks", "--name", "again")
    classes = ["--targets", "cyst", "--auxiliaries", *AUXILIARIES]
    run("compose", drawn, *classes, "--sources", "labels", "again+labels", "--workspace", study)
    run("prepare", "--workspace", study, *TINY_NETWORK, "--folds", 2, "--processes", 1)
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == made
    assert preprocessed(study, "@again+labels").is_dir()
