"""Score tables: from label maps to CSV, summaries, empty policies and text."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.errors import CohortError, ConfigurationError, GeometryError, LabelError
from backsplit.evaluation import (
    PENALTY,
    POLICIES,
    UNDEFINED,
    EmptyPolicy,
    Scoring,
    Subject,
    count_overlap,
    dice,
    format_table,
    hausdorff_mm,
    normalised_surface_dice,
    policy_named,
    read_scores,
    score_label_maps,
    stated_penalty,
    summarise,
    surface_distances,
    write_rows,
    write_table,
)

SUBJECT = Subject(arm="full", fold="0", case="case 01", rule="argmax")
SPACING_MM = (1.0, 2.0, 3.0)
CLASSES = {1: "cyst", 2: "tumour", 4: "stone"}
nan = math.nan


def score_all(prediction, reference, classes=CLASSES):
    found = score_label_maps(
        prediction, reference, subject=SUBJECT, classes=classes, spacing_mm=SPACING_MM, scoring=Scoring((1.5,))
    )
    return found.scores


def score(**changes):
    values = {"arm": "full", "fold": "0", "case": "a", "rule": "argmax", "seed": "0", "group": "", "class": "cyst"}
    values |= {"dice": 0.5, "hd95_mm": 2.0, "nsd_1mm": 0.75, "reference_ml": 1.0, "prediction_ml": 2.0}
    return values | {"diagonal_mm": 100.0} | changes


MISSED = score(case="b", dice=0.0, hd95_mm=nan, nsd_1mm=0.0, prediction_ml=0.0)
FALSE_ALARM = score(case="c", dice=0.0, hd95_mm=nan, nsd_1mm=0.0, reference_ml=0.0)
ABSENT = score(case="d", dice=nan, hd95_mm=nan, nsd_1mm=nan, reference_ml=0.0, prediction_ml=0.0)


@pytest.fixture
def scores(tmp_path: Path) -> pd.DataFrame:
    write_rows([score(), MISSED, FALSE_ALARM, ABSENT], tmp_path / "scores.csv")
    return read_scores(tmp_path / "scores.csv")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_one_pass_gives_what_each_mask_gives_alone(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.choice(5, size=(2, 5, 6, 7), p=(0.9, 0.04, 0.03, 0.02, 0.01)).astype(np.uint8)
    for row, (value, name) in zip(score_all(prediction, reference), CLASSES.items(), strict=True):
        masks = (prediction == value, reference == value)
        surfaces = surface_distances(*masks, spacing_mm=SPACING_MM)
        expected = (dice(count_overlap(*masks)), hausdorff_mm(surfaces, percentile=95.0))
        expected += (normalised_surface_dice(surfaces, tolerance_mm=1.5),)
        assert row["class"] == name
        np.testing.assert_allclose([row[column] for column in ("dice", "hd95_mm", "nsd_1.5mm")], expected)
        volumes_ml = [np.count_nonzero(mask) * 6 / 1000 for mask in masks]
        assert [row["prediction_ml"], row["reference_ml"]] == pytest.approx(volumes_ml)


def test_rows_carry_their_subject_and_the_image_diagonal():
    labels = np.zeros((3, 2, 4), np.int16)
    (row,) = score_all(labels, labels, {1: "cyst"})
    assert [row[key] for key in ("arm", "fold", "case", "rule", "seed")] == ["full", "0", "case 01", "argmax", "0"]
    assert row["diagonal_mm"] == 13  # 3, 4 and 12 mm
    assert math.isnan(row["dice"])


def test_label_maps_must_fit_each_other_and_background_is_no_class():
    labels = np.zeros((3, 2, 4), np.uint8)
    with pytest.raises(GeometryError, match=r"case 01: prediction has shape \(3, 2, 4\), reference \(3, 2, 3\)"):
        score_all(labels, labels[..., :3])
    with pytest.raises(LabelError, match=r"label values of 1 or more, got \[0, 1\]"):
        score_all(labels, labels, {0: "background", 1: "cyst"})


def test_scores_survive_the_disk(scores):
    columns = "arm fold case rule seed group class dice hd95_mm nsd_1mm reference_ml prediction_ml diagonal_mm"
    assert list(scores.columns) == columns.split()
    assert scores["case"].tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(scores["hd95_mm"], [2, nan, nan, nan])


def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path):
    write_rows([score(case="007", arm="NA", **{"class": "a, b"})], tmp_path / "scores.csv")
    row = read_scores(tmp_path / "scores.csv").iloc[0]
    assert (row["case"], row["arm"], row["class"], row["fold"]) == ("007", "NA", "a, b", "0")


def test_writing_again_gives_the_same_bytes_despite_rounding_noise(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_rows([score(dice=0.1 + 0.2), MISSED], first)
    write_rows([score(dice=0.3), MISSED], second)
    assert first.read_bytes() == second.read_bytes()
    write_table(read_scores(first), second)
    assert first.read_bytes() == second.read_bytes()
    assert b"full,0,b,argmax,0,,cyst,0,,0,1,0,100\n" in first.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read scores .*No such file"),
        ("", "cannot read scores .*No columns"),
        ('a,b\n1,2,3\n4,"5', "cannot read scores"),
        ("arm,case\n1,2\n", "columns fold, class, rule, seed, dice, .* are missing; got arm, case"),
    ],
)
def test_broken_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CohortError, match=message) as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_text_in_a_number_column_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    write_rows([score(), score(case="b")], path)
    path.write_text(path.read_text().replace("b,argmax,0,,cyst,0.5", "b,argmax,0,,cyst,good"))
    with pytest.raises(CohortError, match="column dice, row 2: expected a number or an empty cell, got 'good'"):
        read_scores(path)


def test_summary_counts_what_it_leaves_out(scores):
    (row,) = summarise(scores, UNDEFINED).to_dict("records")
    assert (row["arm"], row["class"], row["rule"], row["num_cases"]) == ("full", "cyst", "argmax", 4)
    assert (row["mean_dice"], row["median_dice"], row["num_undefined_dice"]) == (pytest.approx(0.5 / 3), 0, 1)
    assert (row["mean_hd95_mm"], row["num_undefined_hd95_mm"]) == (2, 3)
    assert (row["mean_nsd_1mm"], row["num_undefined_nsd_1mm"]) == (0.25, 1)
    assert (row["num_missed"], row["num_false_alarms"], row["empty_policy"]) == (1, 1, "undefined")


def test_penalty_is_the_image_diagonal(scores):
    (row,) = summarise(scores, PENALTY).to_dict("records")
    assert (row["mean_hd95_mm"], row["num_undefined_hd95_mm"]) == (pytest.approx(202 / 3), 1)
    assert row["mean_dice"] == pytest.approx(0.5 / 3)


@given(st.floats(0, 1e6))
def test_a_stated_penalty_is_found_again_by_its_name(distance_mm):
    policy = stated_penalty(distance_mm)
    assert policy_named(policy.name) == policy
    assert f"HD95 {distance_mm} mm" in policy.describe()


@pytest.mark.parametrize("policy", POLICIES.values())
def test_presets_are_found_by_name(policy):
    assert policy_named(policy.name) is policy


def test_policy_of_own_choice_leaves_the_scores_alone(scores):
    policy = EmptyPolicy("mine", distance_one_empty=50.0, both_empty="perfect")
    before = scores.copy()
    filled = policy.apply(scores)
    assert filled["hd95_mm"].tolist() == [2, 50, 50, 0]
    assert filled["dice"].tolist() == [0.5, 0, 0, 1]
    assert filled["nsd_1mm"].tolist() == [0.75, 0, 0, 1]
    pd.testing.assert_frame_equal(scores, before)
    assert "HD95 50.0 mm; both empty: Dice 1, NSD 1, HD95 0 mm" in policy.describe()
    assert "HD95 the image diagonal; both empty: undefined" in PENALTY.describe()
    assert "HD95 undefined; both empty: undefined" in UNDEFINED.describe()


def test_penalties_that_cannot_be_paid_are_refused(scores):
    with pytest.raises(ConfigurationError, match="needs the column diagonal_mm"):
        PENALTY.apply(scores.drop(columns="diagonal_mm"))
    with pytest.raises(ConfigurationError, match="finite number of mm, 0 or more, got -1"):
        EmptyPolicy("mine", distance_one_empty=-1.0)


def test_summary_of_no_scores_has_its_columns(scores):
    nothing = summarise(scores.iloc[:0], UNDEFINED)
    assert nothing.empty
    assert list(nothing.columns) == list(summarise(scores, UNDEFINED).columns)


def test_arms_keep_their_order(tmp_path):
    write_rows([score(arm="z"), score(arm="a"), score(arm="z", case="b")], tmp_path / "scores.csv")
    assert summarise(read_scores(tmp_path / "scores.csv"), UNDEFINED)["arm"].tolist() == ["z", "a"]


def test_text_of_a_table():
    table = pd.DataFrame(
        {
            "arm": ["binary", "full"],
            "rule": ["argmax", "argmax"],
            "empty_policy": ["undefined", "undefined"],
            "mean_dice": [0.25, nan],
            "num_cases": [10, 9],
            "p_holm": [0.00012345, 1.0],
        }
    )
    assert format_table(table) == (
        "rule: argmax, empty policy: undefined\n"
        "         mean    num          p\n"
        "arm      dice  cases       holm\n"
        "-------------------------------------\n"
        "binary  0.250     10  0.0001234\n"
        "full        -      9          1\n"
    )
    assert format_table(table[["arm", "num_cases"]]).splitlines()[0].strip() == "num"
