"""Arms as data: what each is a coarsening of, what a case tells apart, and what may differ in a comparison."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backsplit.errors import ConfigurationError, ParityError
from backsplit.labels import LabelScheme, coarsening_of_case, identity, to_target
from backsplit.nnunet.annotation import draw_annotation
from backsplit.nnunet.arms import BLOCK, Arm, ArmSettings, Budget, Start, check_parity, flat

SCHEME = LabelScheme(("cyst", "tumour"), ("kidney_left", "kidney_right", "liver", "bowel"))
BUDGET = Budget(epochs=2, iterations=3, validation_iterations=1)
SOME = st.lists(st.sampled_from(SCHEME.auxiliaries), unique=True, min_size=1).map(tuple)


def settings_of(kind, *, scheme=SCHEME, **changes):
    arm = Arm(kind, **{key: changes.pop(key) for key in ("auxiliaries", "fraction", "missing") if key in changes})
    return ArmSettings(arm=arm, scheme=scheme, budget=BUDGET, **changes)


def test_arms_are_coarsenings():
    assert settings_of("binary").coarsening == to_target(num_targets=2, num_fine=7)
    assert settings_of("backsplit", sides="keep").coarsening == identity(7)
    assert settings_of("backsplit").coarsening.parent == (0, 1, 2, 3, 3, 4, 5)
    assert settings_of("subset", auxiliaries=("liver",)).coarsening.parent == (0, 1, 2, 0, 0, 3, 0)
    assert settings_of("virtual").coarsening == settings_of("binary").coarsening


def test_outputs_are_named_after_their_classes():
    assert settings_of("backsplit").class_names == ("background", "cyst", "tumour", "kidney", "liver", "bowel")
    assert settings_of("virtual").class_names == ("background", "cyst", "tumour", "virtual")
    assert settings_of("virtual").num_classes == 4


@given(kept=SOME)
def test_a_subset_tells_targets_and_what_it_names_apart(kept):
    settings = settings_of("subset", auxiliaries=kept, sides="keep")
    assert settings.class_names[:3] == ("background", "cyst", "tumour")
    assert set(settings.class_names[3:]) == set(kept)


@given(annotated=st.none() | SOME)
def test_what_a_case_tells_apart_are_the_blocks_of_its_coarsening(annotated):
    settings = settings_of("backsplit", sides="keep")
    blocks = coarsening_of_case(SCHEME, annotated).blocks
    told = settings.told_apart(annotated)
    assert {index for index, is_told in enumerate(told) if not is_told} == set(blocks[0]) - {0}


def test_a_joined_class_is_known_where_both_sides_are():
    settings = settings_of("backsplit")
    assert settings.told_apart(("kidney_left", "liver")) == (True, True, True, False, True, False)
    assert settings.told_apart(("kidney_left", "kidney_right")) == (True, True, True, True, False, False)
    assert settings_of("virtual").told_apart(None) == (True, True, True, False)


@given(
    seed=st.integers(0, 100),
    fractions=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
    num_cases=st.integers(1, 40),
)
def test_fractions_are_exact_seeded_and_nested(seed, fractions, num_cases):
    cases = [f"case_{number}" for number in range(num_cases)]

    def kept(fraction, names):
        drawn = draw_annotation(settings_of("partial", fraction=fraction, seed=seed), {}, names)
        return {name for name in names if drawn.get(name) is None}

    small, large = (kept(fraction, cases) for fraction in fractions)
    assert small <= large
    assert len(large) == -(-fractions[1] * num_cases // 1)
    assert kept(fractions[0], cases[::-1]) == small


def test_what_the_cohort_lacks_stays_missing():
    known = {"a": ("liver",), "b": ()}
    assert draw_annotation(settings_of("backsplit"), known, ["a", "b", "c"]) == known
    assert draw_annotation(settings_of("partial", fraction=0), known, ["a", "c"]) == {"a": (), "b": (), "c": ()}


@pytest.mark.parametrize(
    "settings",
    [
        settings_of("binary"),
        settings_of("subset", auxiliaries=("liver", "bowel"), loss="paper", network="segresnet"),
        settings_of("partial", fraction=0.25, missing="naive", start=Start("model", "checkpoint_final.pth")),
        settings_of("virtual", chosen_name="control"),
    ],
)
def test_settings_survive_the_plans(settings):
    assert ArmSettings.from_block(json.loads(json.dumps(settings.to_block()))) == settings


def test_names_tell_trainings_apart():
    named = [
        settings_of("binary"),
        settings_of("backsplit"),
        settings_of("backsplit", loss="paper"),
        settings_of("subset", auxiliaries=("liver", "bowel")),
        settings_of("partial", fraction=0.25),
        settings_of("partial", fraction=0.25, missing="naive"),
        settings_of("backsplit", network="resenc-m"),
        settings_of("backsplit", auxiliary_weight=0.1),
        settings_of("backsplit", start=Start("m", "c")),
        settings_of("backsplit", chosen_name="mine"),
    ]
    assert [settings.name for settings in named] == [
        "binary",
        "backsplit",
        "backsplit-paper",
        "subset-liver+bowel",
        "partial-25",
        "partial-25-naive",
        "backsplit-resenc-m",
        "backsplit-weight0.1",
        "finetuned-backsplit",
        "mine",
    ]


def plans_with(settings):
    return {"plans_name": settings.name, BLOCK: json.loads(json.dumps(settings.to_block()))}


def test_arms_may_differ_in_labels_and_loss_alone():
    baseline = plans_with(settings_of("binary"))
    for other in (settings_of("backsplit", loss="paper"), settings_of("partial", fraction=0.5), settings_of("virtual")):
        check_parity(baseline, plans_with(other))
    for other in ({"seed": 1}, {"sampling": "any"}, {"sides": "keep"}):
        with pytest.raises(ParityError, match=next(iter(other))):
            check_parity(baseline, plans_with(settings_of("backsplit", **other)))


def test_a_finetuned_arm_declares_its_start_and_budget():
    longer = Budget(epochs=9, iterations=3, validation_iterations=1)
    finetuned = ArmSettings(Arm("backsplit"), SCHEME, longer, start=Start("m", "c"))
    check_parity(plans_with(settings_of("binary")), plans_with(finetuned))
    with pytest.raises(ParityError, match="epochs"):
        check_parity(plans_with(settings_of("binary")), plans_with(ArmSettings(Arm("backsplit"), SCHEME, longer)))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("magic", {}, "unknown arm 'magic'; choose one of binary, backsplit"),
        ("subset", {}, "`subset` needs some"),
        ("backsplit", {"auxiliaries": ("liver",)}, "no other arm takes any"),
        ("subset", {"auxiliaries": ("heart",)}, "names heart, which the cohort does not have"),
        ("backsplit", {"fraction": 0.5}, "`partial` takes 0 to 1"),
        ("partial", {"fraction": 1.5}, "`partial` takes 0 to 1"),
        ("backsplit", {"scheme": LabelScheme(("cyst",))}, "needs auxiliary classes and the cohort has none"),
        ("binary", {"chosen_name": "../elsewhere"}, "cannot be a folder"),
    ],
)
def test_arms_that_make_no_sense_are_refused(kind, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        settings_of(kind, **changes)


def test_flat_names_leaves_by_their_path():
    assert dict(flat({"a": {"b": 1, "c": [2]}})) == {"a.b": 1, "a.c": [2]}


def test_patches_on_any_class_of_a_binary_arm_are_patches_on_targets():
    check_parity(plans_with(settings_of("binary", sampling="any")), plans_with(settings_of("backsplit")))
    for kind, sampling, other in (("binary", "target", "any"), ("virtual", "any", "target")):
        with pytest.raises(ParityError, match=r"backsplit\.sampling"):
            check_parity(
                plans_with(settings_of(kind, sampling=sampling)), plans_with(settings_of("backsplit", sampling=other))
            )
