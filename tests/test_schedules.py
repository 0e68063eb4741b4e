"""Schedules of the auxiliary part, by their laws."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backsplit.errors import ConfigurationError
from backsplit.learning import LossWeights, Schedule

shares = st.floats(0, 1)
schedules = st.builds(
    Schedule,
    shape=st.sampled_from(["constant", "linear", "cosine"]),
    floor=shares,
    floor_from=st.floats(0.01, 1),
    all_from=shares,
)
bases = st.builds(LossWeights, st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))


@given(schedules, bases)
def test_a_training_starts_with_the_base_weights(schedule, base):
    start = schedule.weights(base, 0.0)
    assert asdict(start) == pytest.approx(asdict(base))


@given(schedules, bases, shares, shares)
def test_auxiliary_weights_never_rise_and_the_target_keeps_its_own(schedule, base, one, other):
    earlier, later = (schedule.weights(base, progress) for progress in sorted((one, other)))
    assert later.auxiliary_cross_entropy <= earlier.auxiliary_cross_entropy + 1e-9
    assert later.auxiliary_dice <= earlier.auxiliary_dice + 1e-9
    assert later.target_dice == base.target_dice


@given(schedules, bases, shares)
def test_annealing_ends_at_the_floor(schedule, base, progress):
    left = 1.0 if schedule.shape == "constant" else schedule.floor
    end = schedule.weights(base, max(progress, schedule.floor_from))
    assert end.auxiliary_cross_entropy == pytest.approx(left * base.auxiliary_cross_entropy, abs=1e-9)
    assert end.auxiliary_dice == pytest.approx(left * base.auxiliary_dice, abs=1e-9)


@given(schedules, st.integers(0, 40), shares, shares)
def test_auxiliaries_stay_once_they_are_in(schedule, num_auxiliaries, one, other):
    earlier, later = (schedule.num_active(num_auxiliaries, progress) for progress in sorted((one, other)))
    assert min(1, num_auxiliaries) <= earlier <= later <= num_auxiliaries
    assert schedule.num_active(num_auxiliaries, max(one, schedule.all_from)) == num_auxiliaries


@given(st.integers(1, 20), st.integers(1, 10))
def test_auxiliaries_come_in_at_equal_steps(num_auxiliaries, epochs_each):
    num_epochs = 2 * num_auxiliaries * epochs_each
    schedule = Schedule(all_from=0.5)
    active = [schedule.num_active(num_auxiliaries, epoch / num_epochs) for epoch in range(num_epochs)]
    assert active[: num_epochs // 2] == [1 + epoch // epochs_each for epoch in range(num_epochs // 2)]
    assert set(active[num_epochs // 2 :]) == {num_auxiliaries}


@given(schedules)
def test_a_schedule_survives_json(schedule):
    assert Schedule(**json.loads(json.dumps(asdict(schedule)))) == schedule


def test_presets():
    kits = {"num_targets": 1, "num_classes": 10}
    assert LossWeights.preset("paper", **kits) == LossWeights(1.0, 1 / 9, 8 / 9)
    assert LossWeights.preset("target-first", **kits) == LossWeights(0.3, 1.0, 0.3)
    assert LossWeights.preset("curriculum", **kits) == LossWeights(0.3, 1.0, 0.3)
    assert LossWeights.preset("annealed", **kits) == LossWeights(1.0, 1.0, 1.0)
    assert Schedule.preset("paper") == Schedule.preset("target-first") == Schedule()
    assert Schedule.preset("annealed").weights(LossWeights(1, 1, 1), 0.75) == LossWeights(0.25, 1, 0.25)
    assert [Schedule.preset("curriculum").num_active(4, progress) for progress in (0, 0.24, 0.25, 0.4, 0.9)] == [
        1, 2, 3, 4, 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": -0.1}, "floor -0.1"),
        ({"floor_from": 0.0}, "floor_from 0.0"),
        ({"all_from": 1.5}, "all_from 1.5"),
    ],
)
def test_numbers_out_of_range_are_named(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        Schedule(**fields)
