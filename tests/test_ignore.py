"""Voxels that nobody annotated, from the data set to the scores."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backsplit import cases
from backsplit.errors import CohortError
from backsplit.labels import clear_ignored
from backsplit.volume import read_labels, write_volume
from studies import TINY_BUDGET, TINY_NETWORK, compose_phantom, run


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A phantom of which the lower third was not annotated, as an nnU-Net data set, trained and scored."""
    root = tmp_path_factory.mktemp("ignore")
    phantom = cases.read(compose_phantom(root / "phantom", num_cases=5))
    source = root / "raw"
    for case in phantom.cases:
        labels = read_labels(case.labels)
        labels.voxels[:, :, :10] = 9
        write_volume(labels, source / "labelsTr" / f"{case.name}.nii.gz")
        (source / "imagesTr").mkdir(exist_ok=True)
        (source / "imagesTr" / f"{case.name}_0000.nii.gz").symlink_to(case.images[0])
    names = {name: value for value, name in phantom.label_names} | {"ignore": 9}
    description = {"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(description))
    workspace = root / "study"
    at = ("--workspace", workspace)
    run("convert", "nnunet", source, root / "cohort", "--jobs", 1)
    run("compose", root / "cohort", "--targets", "cyst", "--auxiliaries", "kidney", "liver", *at)
    run("prepare", *at, *TINY_NETWORK, "--folds", 2, "--processes", 1)
    for arm in ("binary", "backsplit"):
        run("train", "--arm", arm, *TINY_BUDGET, *at)
        run("predict", arm, *at, "--no-mirroring", "--device", "cpu")
    run("evaluate", "--tolerance-mm", 5, *at)
    return workspace


def test_composing_keeps_the_label_behind_the_last_class(study):
    cohort = cases.read(study / "cohort")
    assert cohort.ignore == cohort.scheme.num_classes == 4
    labels = read_labels(cohort.cases[0].labels).voxels
    assert (labels[:, :, :10] == 4).all()
    assert labels[:, :, 10:].max() < 4


def test_arms_know_it_as_the_label_behind_their_last_output(study):
    for arm, num_classes in (("binary", 2), ("backsplit", 4)):
        (folder,) = (study / "results").glob(f"*/BackSplitTrainer__{arm}__*")
        assert json.loads((folder / "dataset.json").read_text())["labels"]["ignore"] == num_classes
        rows = pd.read_csv(folder / "fold_0" / "progress.csv")
        assert np.isfinite(rows["train_loss"]).all()


def test_it_is_never_predicted_and_never_scored(study):
    scores = pd.read_csv(study / "scores" / "scores.csv")
    cohort = cases.read(study / "cohort")
    for row in scores.itertuples():
        reference = read_labels(cohort.case(row.case).labels)
        predicted = read_labels(study / "predictions" / row.arm / f"{row.case}.nii.gz").voxels
        assert predicted.max() <= 1
        volume = reference.grid.voxel_ml
        assert row.reference_ml == pytest.approx((reference.voxels == 1).sum() * volume, abs=1e-6)
        assert row.prediction_ml == pytest.approx((predicted[:, :, 10:] == 1).sum() * volume, abs=1e-6)


@given(arrays(np.uint8, (2, 3, 2), elements=st.integers(0, 4)), arrays(np.uint8, (2, 3, 2), elements=st.integers(0, 1)))
def test_clearing(reference, prediction):
    kept, predicted = clear_ignored(reference, prediction, ignore=4)
    assert not kept[reference == 4].any()
    assert not predicted[reference == 4].any()
    np.testing.assert_array_equal(kept[reference != 4], reference[reference != 4])
    np.testing.assert_array_equal(predicted[reference != 4], prediction[reference != 4])
    assert clear_ignored(reference, prediction, ignore=None) == (reference, prediction)


def test_a_label_to_ignore_that_a_class_has(study):
    cohort = cases.read(study / "cohort")
    with pytest.raises(CohortError, match="the label to ignore is 2"):
        cases.Cohort(cohort.name, cohort.channels, cohort.label_names, cohort.cases, ignore=2)
    content = json.loads((study / "cohort" / "cohort.json").read_text()) | {"ignore": 7}
    (study / "other").mkdir()
    (study / "other" / "cohort.json").write_text(json.dumps(content))
    with pytest.raises(CohortError, match="compose the cohort again"):
        cases.read(study / "other")
