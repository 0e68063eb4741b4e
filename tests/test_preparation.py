"""Folds and plans: laws and hand-made cases, without reading an image."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.cases import Case
from backsplit.errors import ConfigurationError
from backsplit.nnunet.plans import PlanSettings, override
from backsplit.nnunet.splits import make_splits

PLANNED = {
    "spacing": [2.0, 1.0, 1.0],
    "patch_size": [32, 64, 64],
    "batch_size": 9,
    "architecture": {
        "network_class_name": "PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 5,
            "features_per_stage": [32, 64, 128, 256, 320],
            "n_conv_per_stage": [2, 2, 2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2, 2, 2],
        },
    },
}


def case(name, group):
    return Case(name, (Path(f"/images/{name}.nii.gz"),), Path(f"/labels/{name}.nii.gz"), group=group)


@settings(max_examples=50)
@given(data=st.data(), num_folds=st.integers(2, 4), num_groups=st.integers(8, 14))
def test_folds_partition_the_cases_and_keep_patients_together(data, num_folds, num_groups):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=num_groups, max_size=num_groups))
    cohort = [case(f"c{g}-{i}", f"p{g}") for g, size in enumerate(sizes) for i in range(size)]
    has_target = {each.name: True for each in cohort}
    splits = make_splits(cohort, has_target, num_folds=num_folds)
    validated = [name for split in splits for name in split["val"]]
    assert sorted(validated) == sorted(each.name for each in cohort)
    for split in splits:
        assert set(split["train"]) | set(split["val"]) == set(validated)
        patients = [{name.partition("-")[0] for name in split[role]} for role in ("train", "val")]
        assert not patients[0] & patients[1]
    assert make_splits(data.draw(st.permutations(cohort)), has_target, num_folds=num_folds) == splits


def test_targets_are_spread_over_folds():
    cohort = [case(f"c{i}", f"c{i}") for i in range(20)]
    has_target = {each.name: index < 5 for index, each in enumerate(cohort)}
    for split in make_splits(cohort, has_target, num_folds=5):
        assert sum(has_target[name] for name in split["val"]) == 1


@pytest.mark.parametrize(
    ("num_patients", "num_folds", "num_targets", "told"),
    [
        (3, 5, 3, "3 patients cannot make 5 folds; use --folds with 2 to 3"),
        (4, 1, 4, "4 patients cannot make 1 folds"),
        (6, 4, 3, "3 cases with a lesion and 3 without cannot make 4 folds; use fewer --folds"),
        (6, 3, 2, r"fold \d: none of its 2 val cases has a voxel of a target"),
    ],
)
def test_folds_that_cannot_be_trained_or_judged_are_refused(num_patients, num_folds, num_targets, told):
    cohort = [case(f"c{i}", f"c{i}") for i in range(num_patients)]
    has_target = {each.name: index < num_targets for index, each in enumerate(cohort)}
    with pytest.raises(ConfigurationError, match=told):
        make_splits(cohort, has_target, num_folds=num_folds)


def test_what_is_not_overridden_stays_as_planned():
    assert override(PLANNED, PlanSettings()) == PLANNED
    assert override(PLANNED, PlanSettings(batch_size=2)) == {**PLANNED, "batch_size": 2}


def test_strides_and_kernels_follow_the_patch():
    chosen = override(PLANNED, PlanSettings(patch_size=(16, 32, 32), features=(8, 16, 32)))
    kwargs = chosen["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "the coarse axis is halved last"
    assert kwargs["features_per_stage"] == [8, 16, 32]
    assert kwargs["n_stages"] == len(kwargs["kernel_sizes"]) == len(kwargs["n_conv_per_stage"]) == 3
    assert PLANNED["architecture"]["arch_kwargs"]["n_stages"] == 5, "the argument stays as it was"


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        (PlanSettings(patch_size=(17, 33, 33)), "patch of 17x33x33 does not fit the network's strides; use 20x40x40"),
        (PlanSettings(patch_size=(8, 16, 16), features=(8, 16, 32, 64, 64, 64)), "6 stages of features do not fit"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(settings_, told):
    with pytest.raises(ConfigurationError, match=told):
        override(PLANNED, settings_)
