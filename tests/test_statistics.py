"""Comparison of arms: hand computations, SciPy as reference, and laws."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backsplit.errors import ConfigurationError, ParityError
from backsplit.evaluation import PENALTY, UNDEFINED, compare, holm, statistics

nan = math.nan
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 499)


def table(**dice_of_arms) -> pd.DataFrame:
    """Scores with the given Dice of each arm, HD95 = 10 - Dice, NSD = Dice; NaN stands for a missed lesion."""
    frames = []
    for arm, values in dice_of_arms.items():
        scores = np.asarray(values, float)
        frame = pd.DataFrame({"case": [f"case {number:02}" for number in range(len(scores))]})
        frame = frame.assign(arm=arm, fold="0", rule="argmax", seed="0", dice=scores, hd95_mm=10 - scores)
        frame = frame.assign(nsd_1mm=scores, reference_ml=1.0, prediction_ml=np.where(np.isnan(scores), 0.0, 1.0))
        frames.append(frame.assign(**{"class": "cyst", "diagonal_mm": 100.0}))
    return pd.concat(frames, ignore_index=True)


def row(compared: pd.DataFrame, metric: str = "dice", arm: str = "full") -> pd.Series:
    (found,) = compared[(compared["metric"] == metric) & (compared["arm"] == arm)].to_dict("records")
    return found


def random_arms(seed: int, num_cases: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"binary": rng.random(num_cases), "full": rng.random(num_cases)}


def test_five_wins_by_hand():
    result = compare(table(binary=[0, 0, 0, 0, 0], full=[0.1, 0.2, 0.3, 0.4, 0.5]), baseline="binary", policy=UNDEFINED)
    dice = row(result)
    assert (dice["num_pairs"], dice["num_undefined"], dice["wins"], dice["ties"], dice["losses"]) == (5, 0, 5, 0, 0)
    assert dice["mean_difference"] == pytest.approx(0.3)
    assert dice["p_wilcoxon"] == pytest.approx(2 / 2**5)  # all of 5 signs equal
    assert dice["p_holm"] == pytest.approx(3 * 2 / 2**5)  # three metrics in the table
    assert 0.1 <= dice["low"] < 0.3 < dice["high"] <= 0.5
    assert (dice["rule"], dice["unit"], dice["empty_policy"]) == ("argmax", "case", "undefined")
    assert dice["note"] == "5 pairs: an interval of fewer than 20 may be too narrow"
    assert dice["p_permutation"] == pytest.approx(2 / 2**5)
    assert dice["effect_rank_biserial"] == 1
    assert dice["effect_d"] == pytest.approx(0.3 / np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1))


def test_a_smaller_distance_wins():
    result = compare(table(binary=[0, 0, 1], full=[1, 2, 1]), baseline="binary", policy=UNDEFINED)
    distance = row(result, "hd95_mm")
    assert distance["mean_difference"] == -1
    assert (distance["wins"], distance["ties"], distance["losses"]) == (2, 1, 0)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 gives 0.04 0.06 0.06 0.04, then never less than the one before
    corrected = holm(np.array([0.04, 0.01, nan, 0.03, 0.02]))
    np.testing.assert_allclose(corrected, [0.06, 0.04, nan, 0.06, 0.06])
    np.testing.assert_array_equal(holm(np.array([0.9, 0.8])), [1, 1])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_its_slow_twin(p_values):
    expected = [
        max(min(1.0, p * sum(q >= p for q in p_values)) for p in p_values if p <= own) for own in p_values
    ]  # with ties, the first of the equal ones has the largest factor
    np.testing.assert_allclose(holm(np.array(p_values)), expected)


@given(seeds)
@settings(max_examples=15)
def test_p_value_is_scipys(seed):
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 4, size=20) / 10
    differences[0] = 0.1
    assert statistics.wilcoxon_p(differences) == stats.wilcoxon(differences, zero_method="pratt").pvalue


def test_one_pair_is_no_evidence():
    one = np.array([0.3])
    assert statistics.permutation_p(one, seed=0) == statistics.wilcoxon_p(one) == 1.0


def test_p_value_without_evidence():
    assert math.isnan(statistics.wilcoxon_p(np.array([])))
    assert statistics.wilcoxon_p(np.zeros(4)) == 1
    # pratt: ranks of 0 0 0.1 0.2 are 1.5 1.5 3 4; two signs, both equal in half of the four assignments
    assert statistics.wilcoxon_p(np.array([0.0, 0.0, 0.1, 0.2])) == pytest.approx(0.5)


@given(seeds)
@settings(max_examples=8)
def test_swapping_arms_flips_signs(seed):
    scores = table(**random_arms(seed))
    there = row(compare(scores, baseline="binary", policy=UNDEFINED))
    back = row(compare(scores, baseline="full", policy=UNDEFINED), arm="binary")
    assert back["mean_difference"] == pytest.approx(-there["mean_difference"])
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]), abs=1e-9)
    assert (back["wins"], back["losses"]) == (there["losses"], there["wins"])
    assert back["p_wilcoxon"] == pytest.approx(there["p_wilcoxon"])


@given(seeds, st.floats(-1, 1))
@settings(max_examples=8)
def test_a_constant_moves_difference_and_interval(seed, constant):
    arms = random_arms(seed)
    plain = row(compare(table(**arms), baseline="binary", policy=UNDEFINED))
    arms["full"] = arms["full"] + constant
    moved = row(compare(table(**arms), baseline="binary", policy=UNDEFINED))
    assert moved["mean_difference"] == pytest.approx(plain["mean_difference"] + constant)
    for limit in ("low", "high"):  # a resample whose mean ties with the estimate may round to either side of it
        assert moved[limit] == pytest.approx(plain[limit] + constant, abs=0.02)


@given(seeds)
@settings(max_examples=8)
def test_order_of_rows_does_not_matter(seed):
    scores = table(**random_arms(seed), third=np.linspace(0, 1, 9))
    shuffled = scores.sample(frac=1, random_state=seed % 1000)
    expected = compare(scores, baseline="binary", policy=UNDEFINED)
    pd.testing.assert_frame_equal(compare(shuffled, baseline="binary", policy=UNDEFINED), expected)
    assert expected["arm"].tolist() == ["full"] * 3 + ["third"] * 3


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    samples = rng.gamma(2.0, 1.0, size=(150, 40)) - 2.0  # skewed, mean 0
    limits = [statistics.bootstrap_interval(sample, seed=number)[:2] for number, sample in enumerate(samples)]
    covered = np.mean([low <= 0 <= high for low, high in limits])
    assert 0.88 <= covered <= 0.99


def test_with_few_units_the_interval_is_as_wide_as_students():
    rng = np.random.default_rng(5)
    ratios = []
    for number, sample in enumerate(rng.normal(size=(30, 10))):
        low, high, _ = statistics.bootstrap_interval(sample, seed=number)
        expected = stats.t.interval(0.95, 9, loc=sample.mean(), scale=stats.sem(sample))
        ratios.append((high - low) / (expected[1] - expected[0]))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)  # without the correction 0.82


@pytest.mark.parametrize(
    ("full", "note"),
    [
        ([0.5, 0.6], "no interval: fewer than 3 pairs"),
        ([0.1, 0.1, 0.1, 0.1], "no interval: all differences are equal"),
        ([0.0, 0.0, 0.0, 0.0], "no interval: all differences are equal"),
    ],
)
def test_intervals_that_cannot_be_had_say_why(full, note):
    result = row(compare(table(binary=[0.0] * len(full), full=full), baseline="binary", policy=UNDEFINED))
    assert result["note"] == note
    assert math.isnan(result["low"])
    assert math.isnan(result["high"])


def test_undefined_pairs_are_counted_and_a_penalty_defines_them():
    scores = table(binary=[0.1, 0.2, nan, 0.4, 0.5], full=[0.2, nan, nan, 0.4, 0.7])
    undefined = row(compare(scores, baseline="binary", policy=UNDEFINED), "hd95_mm")
    assert (undefined["num_pairs"], undefined["num_undefined"]) == (3, 2)
    assert undefined["mean_difference"] == pytest.approx(-0.1)
    defined = row(compare(scores, baseline="binary", policy=PENALTY), "hd95_mm")
    assert (defined["num_pairs"], defined["num_undefined"], defined["ties"]) == (5, 0, 2)
    assert defined["mean_difference"] == pytest.approx((90.2 - 0.1 - 0.2) / 5)


def test_no_defined_pair_leaves_everything_undefined():
    result = row(compare(table(binary=[nan, 0.5], full=[0.5, nan]), baseline="binary", policy=UNDEFINED))
    assert (result["num_pairs"], result["num_undefined"]) == (0, 2)
    assert all(math.isnan(result[name]) for name in ("mean_difference", "low", "p_wilcoxon", "p_holm"))


def test_a_baseline_alone_has_nothing_to_be_compared_with():
    with pytest.raises(ConfigurationError, match="'binary' is the only arm that is scored"):
        compare(table(binary=[0.1, 0.2]), baseline="binary", policy=UNDEFINED)


def test_unknown_baseline_is_named():
    with pytest.raises(ConfigurationError, match="baseline 'stock' is not among the arms binary, full"):
        compare(table(binary=[0.1], full=[0.2]), baseline="stock", policy=UNDEFINED)


def test_arms_with_other_cases_are_refused():
    scores = table(binary=[0.1, 0.2, 0.3], full=[0.1, 0.2, 0.3])
    lacking = scores.drop(index=[1, 3])
    with pytest.raises(ParityError, match="class 'cyst': 'full' lacks case 00; 'binary' lacks case 01; score the same"):
        compare(lacking, baseline="binary", policy=UNDEFINED)


def test_a_case_scored_twice_is_refused():
    scores = table(binary=[0.1, 0.2], full=[0.1, 0.2])
    with pytest.raises(ParityError, match="case 01: class 'cyst' is scored more than once in arm 'full'"):
        compare(pd.concat([scores, scores.iloc[3:]]), baseline="binary", policy=UNDEFINED)


def test_tolerances_must_agree():
    scores = table(binary=[0.1, 0.2], full=[0.1, 0.2])
    scores.loc[scores["arm"] == "full", "nsd_1mm"] = nan
    with pytest.raises(ParityError, match="NSD at 1 mm is scored in some arms, not in full"):
        compare(scores, baseline="binary", policy=UNDEFINED)


def test_metrics_are_those_that_were_scored():
    scores = table(binary=[0.1, 0.2], full=[0.1, 0.2])
    assert compare(scores, baseline="binary", policy=UNDEFINED, metrics=["dice"])["metric"].tolist() == ["dice"]
    with pytest.raises(ConfigurationError, match="hd_mm was not scored; there are dice, hd95_mm, nsd_1mm"):
        compare(scores, baseline="binary", policy=UNDEFINED, metrics=["hd_mm"])


def test_seeds_are_averaged_case_by_case():
    first = table(binary=[0.0, 0.0, 0.0, 0.0], full=[0.1, 0.2, 0.3, 0.6])
    second = table(binary=[0.0, 0.0, 0.0, 0.0], full=[0.3, 0.2, 0.1, 0.0]).assign(seed="1")
    both = row(compare(pd.concat([first, second]), baseline="binary", policy=UNDEFINED))
    mean = row(compare(table(binary=[0.0] * 4, full=[0.2, 0.2, 0.2, 0.3]), baseline="binary", policy=UNDEFINED))
    assert (both["num_pairs"], both["num_seeds"]) == (4, 2)
    for key in ("mean_difference", "low", "high", "p_wilcoxon", "p_permutation"):
        assert both[key] == pytest.approx(mean[key])
    with pytest.raises(ParityError, match=r"'full' lacks case 02 \(seed 1\)"):
        compare(pd.concat([first, second.drop(index=6)]), baseline="binary", policy=UNDEFINED)


def test_cases_of_a_patient_are_one_unit():
    scores = table(binary=[0.0] * 5, full=[0.1, 0.3, 0.4, 0.5, 0.6])
    scores["group"] = [f"patient {number}" for number in (0, 0, 1, 2, 3)] * 2
    by_patient = row(compare(scores, baseline="binary", policy=UNDEFINED))
    assert (by_patient["unit"], by_patient["num_pairs"]) == ("patient", 4)
    assert by_patient["mean_difference"] == pytest.approx((0.2 + 0.4 + 0.5 + 0.6) / 4)


@given(seeds)
@settings(max_examples=15)
def test_rank_biserial_is_made_of_wilcoxons_ranks(seed):
    rng = np.random.default_rng(seed)
    differences = rng.normal(size=12)
    larger = stats.wilcoxon(differences, alternative="greater").statistic  # sum of positive ranks
    total = 12 * 13 / 2
    assert statistics.rank_biserial(differences) == pytest.approx((2 * larger - total) / total)
    assert statistics.rank_biserial(-differences) == pytest.approx(-statistics.rank_biserial(differences))


def test_bands_by_size_and_fold():
    scores = table(binary=[0.0] * 7, full=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, nan])
    scores["reference_ml"] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0] * 2
    scores["fold"] = [str(number % 2) for number in range(7)] * 2
    by_size = statistics.compare_by(scores, baseline="binary", policy=UNDEFINED, by="size")
    dice = by_size[by_size["metric"] == "dice"].set_index("band")
    assert dice["num_pairs"].tolist() == [0, 2, 2, 2]
    assert dice.loc["3 larger", "mean_difference"] == pytest.approx(0.55)
    by_fold = statistics.compare_by(scores, baseline="binary", policy=UNDEFINED, by="fold")
    assert by_fold[by_fold["metric"] == "dice"]["wins"].tolist() == [3, 3]
    with pytest.raises(ConfigurationError, match="by fold or by size, not by 'age'"):
        statistics.compare_by(scores, baseline="binary", policy=UNDEFINED, by="age")


def test_paired_differences_are_those_that_are_averaged():
    scores = table(binary=[0.0, 0.1, 0.2], full=[0.5, nan, 0.1])
    found = statistics.paired_differences(scores, baseline="binary", arm="full", class_name="cyst", metric="dice")
    np.testing.assert_allclose(found.to_numpy(), [0.5, nan, -0.1])
    assert found.index.tolist() == ["case 00", "case 01", "case 02"]
