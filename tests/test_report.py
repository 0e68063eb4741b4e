import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from backsplit import report
from backsplit.cases import Case, Cohort
from backsplit.errors import CohortError, GeometryError
from backsplit.evaluation import Scoring, Subject, read_scores, score_label_maps, summarise, write_rows
from backsplit.evaluation.empty import UNDEFINED
from backsplit.evaluation.statistics import compare
from backsplit.labels import LabelScheme
from backsplit.report import figures, palette, slices, wording
from backsplit.report.gather import ReportInputs, page_of
from backsplit.report.page import render
from backsplit.report.selection import Contest, paired_dice, telling_cases
from backsplit.report.slices import Stack
from backsplit.volume import Grid, Volume, write_volume

HOSTILE = """<script>alert(1)<script> & "it's" $x_1$"""
CASES = (HOSTILE, "case 2", "case 3", "case 4", "case 5")
CURVE_COLUMNS = (
    "train_loss",
    "cross_entropy_target",
    "cross_entropy_auxiliary",
    "dice_target",
    "dice_auxiliary",
    "validation_loss",
    "pseudo_dice_target",
)
GRID = Grid((24, 24, 24), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def ball(centre, radius, shape=(24, 24, 24)):
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    return sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) <= radius**2


def label_map(*masks):
    labels = np.zeros((24, 24, 24), np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask] = value
    return labels


def curves(num_epochs=6):
    table = pd.DataFrame({column: np.linspace(1, 0.5, num_epochs) for column in CURVE_COLUMNS})
    return table.assign(epoch=range(num_epochs))


def reference_masks(number, num_targets):
    """A ball for each target, a smaller one in the fourth case, none in the fifth."""
    return [ball((6 + 11 * i, 12, 12), 4 - (number == 3)) & (number != 4) for i in range(num_targets)]


def cohort_in(folder, *, targets):
    scheme = LabelScheme(targets=targets, auxiliaries=("liver",))
    random = np.random.default_rng(0)
    for number in range(5):
        masks = reference_masks(number, len(targets))
        image = random.normal(40, 30, GRID.shape) + 80 * np.any(masks, axis=0)
        write_volume(Volume(image.astype(np.float32), GRID), folder / f"{number}.nii.gz")
        write_volume(Volume(label_map(*masks), GRID), folder / "labels" / f"{number}.nii.gz")
    cases = tuple(
        Case(name, (folder / f"{number}.nii.gz",), folder / "labels" / f"{number}.nii.gz", group=f"patient {number}")
        for number, name in enumerate(CASES)
    )
    return Cohort("phantom", ("CT",), tuple(enumerate(scheme.names)), cases, scheme)


def predict(arm, number, num_targets):
    """`binary` is off by two voxels, `backsplit` by one, `blind` finds nothing."""
    if arm == "blind" or number == 4:
        return label_map()
    shift = {"binary": 2, "backsplit": 1}[arm]
    masks = [ball((6 + 11 * i + shift, 12 + number // 2, 12), 4) for i in range(num_targets)]
    return label_map(*masks)


def inputs_in(folder, *, arms=("binary", "backsplit"), targets=("cyst",)):
    cohort = cohort_in(folder / "cohort", targets=targets)
    classes = {value: name for value, name in cohort.label_names if name in targets}
    scores = []
    for arm in arms:
        for number, case in enumerate(CASES):
            prediction = predict(arm, number, len(targets))
            write_volume(Volume(prediction, GRID), folder / arm / f"{case}.nii.gz")
            subject = Subject(arm=arm, fold="0", case=case, rule="argmax")
            scores += score_label_maps(
                prediction,
                label_map(*reference_masks(number, len(targets))),
                subject=subject,
                classes=classes,
                spacing_mm=GRID.spacing_mm,
                scoring=Scoring((2.0,)),
            ).scores
    write_rows(scores, folder / "scores.csv")
    table = read_scores(folder / "scores.csv")
    return ReportInputs(
        title="Cysts of the phantom",
        scores=table,
        summary=summarise(table, UNDEFINED),
        comparison=compare(table, baseline="binary", policy=UNDEFINED),
        policy=UNDEFINED.describe(),
        curves={arm: curves() for arm in arms},
        cohort=cohort,
        prediction_folders={arm: folder / arm for arm in arms},
        baseline="binary",
        facts={"Seed": "0", "Budget": "6 epochs of 10 iterations"},
        warnings=("The budget is tiny.",),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return inputs_in(tmp_path_factory.mktemp("two arms"))


@pytest.fixture(scope="module")
def page(inputs):
    return page_of(inputs)


@pytest.fixture(scope="module")
def html(page):
    return render(page)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    tags = Tags()
    tags.feed(html)
    return tags


# --- the page -----------------------------------------------------------------------------------------------------


def test_same_inputs_give_the_same_bytes(inputs, html, tmp_path):
    written = report.write(inputs, tmp_path / "report" / "index.html")
    assert written.read_text(encoding="utf-8") == html
    assert [path.name for path in written.parent.iterdir()] == ["index.html"]


def test_page_loads_and_runs_nothing(html):
    tags = parsed(html).tags
    assert {"script", "link", "iframe", "object", "form", "a"}.isdisjoint(tag for tag, _ in tags)
    for _, attributes in tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in {"src", "srcset"} & attributes.keys():
            assert attributes[name].startswith("data:image/")


def test_policy_allows_this_style_sheet_alone(html):
    policy = next(tag["content"] for _, tag in parsed(html).tags if tag.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_picture_has_words(html):
    images = [attributes for tag, attributes in parsed(html).tags if tag == "img"]
    assert len(images) == 1 + 1 + 7 + 9  # intervals, pairs, curves, three cases in three planes
    assert all(image["alt"] for image in images)


def test_names_are_data(page, html):
    assert "<script" not in html
    assert HOSTILE in {study.name for study in page.cases[0].studies}
    assert HOSTILE in "".join(parsed(html).text)
    hostile = replace(page, title=HOSTILE, warnings=(HOSTILE,), facts=((HOSTILE, HOSTILE),))
    tags = parsed(render(hostile))
    assert "script" not in {tag for tag, _ in tags.tags}
    assert "".join(tags.text).count(HOSTILE) == 6  # title twice, the warning, the fact and its name, and the case


def test_undefined_is_counted_and_named(page):
    dice = page.scores.rows[0][3]
    assert "1 undefined" in dice.note
    assert "4 pairs, 1 undefined" in page.comparison.rows[0][3].note
    assert UNDEFINED.describe() in page.scores.notes
    assert "1 more undefined" in page.pairs[0].caption


def test_cases_shown_are_best_median_and_worst(inputs, page):
    paired = paired_dice(inputs.scores, Contest("cyst", "binary", "backsplit"))
    shown = {study.rank: study.name for study in page.cases[0].studies}
    assert shown == {"Best": paired.cases[0], "Median": paired.cases[1], "Worst": paired.cases[3]}
    assert np.all(np.diff(paired.arm - paired.baseline) <= 0)
    assert paired.num_undefined == 1


def test_arm_that_finds_nothing(tmp_path):
    page = page_of(replace(inputs_in(tmp_path, arms=("binary", "blind")), curves={}))
    assert page.scores.rows[1][6].text == "4"
    assert page.scores.rows[1][4].text == "undefined"
    assert "nothing here: blind" in page.cases[0].studies[0].pictures[0].caption


def test_two_targets_three_arms_no_logs_and_no_predictions(tmp_path):
    inputs = inputs_in(tmp_path, arms=("binary", "backsplit", "blind"), targets=("cyst", "tumour"))
    folders = {arm: folder for arm, folder in inputs.prediction_folders.items() if arm != "blind"}
    page = page_of(replace(inputs, curves={}, prediction_folders=folders))
    assert [each.claim.split(":")[0] for each in page.headlines] == ["cyst", "cyst", "tumour", "tumour"]
    assert [section.title for section in page.cases] == [
        "cyst: backsplit against binary",
        "tumour: backsplit against binary",
    ]
    assert page.curves == ()
    assert page.curves_note == "No training log of binary, backsplit, blind."
    assert page.case_rule.endswith("No predictions of blind to show.")
    assert "Nothing was compared" not in render(page)


def test_no_comparison_is_said(inputs):
    empty = replace(inputs, comparison=inputs.comparison.iloc[:0], curves={})
    assert "Nothing was compared" in render(page_of(empty))


def test_prediction_on_another_grid_is_named(inputs, tmp_path):
    other = Grid((24, 24, 23), *[getattr(GRID, name) for name in ("spacing_mm", "origin_mm", "direction")])
    for case in CASES:
        write_volume(Volume(np.zeros((24, 24, 23), np.uint8), other), tmp_path / f"{case}.nii.gz")
    with pytest.raises(GeometryError, match="not on the grid of its image: shape 24x24x23 against 24x24x24"):
        page_of(replace(inputs, curves={}, prediction_folders={"binary": tmp_path, "backsplit": tmp_path}))


def test_cohort_must_be_composed(inputs):
    with pytest.raises(CohortError, match="no composed reference labels"):
        page_of(replace(inputs, curves={}, cohort=replace(inputs.cohort, scheme=None)))


# --- words --------------------------------------------------------------------------------------------------------


def difference(low, high, *, num_pairs=30, p_value=0.01):
    return wording.Difference("cyst", "backsplit", "binary", (low + high) / 2, low, high, num_pairs, p_value, ("0",))


@pytest.mark.parametrize(
    ("low", "high", "verdict", "claim"),
    [
        (0.01, 0.2, "helps", "backsplit helps"),
        (-0.2, -0.01, "harms", "backsplit harms"),
        (-0.1, 0.1, "open", "no evidence of a difference"),
        (0.0, 0.1, "open", "no evidence of a difference"),
        (np.nan, np.nan, "open", "cannot be compared"),
    ],
)
def test_claim_is_what_the_interval_allows(low, high, verdict, claim):
    headline = wording.headline(difference(low, high))
    assert headline.verdict == verdict
    assert claim in headline.claim


def test_headline_names_numbers_cases_fold_and_seed():
    headline = wording.headline(difference(0.02, 0.14))
    assert headline.numbers == "Mean Dice difference +0.080 (95 % interval +0.020 to +0.140) over 30 cases, fold 0."
    assert "random seed" in headline.caveats[0]


def test_headline_limits_itself_where_the_test_disagrees_or_cannot_decide():
    few = wording.headline(difference(0.02, 0.14, num_pairs=5))
    assert few.verdict == "open"
    assert few.claim == "cyst: too few cases to tell backsplit from binary."
    assert "smallest p value the Wilcoxon test can give is 0.062" in few.caveats[1]
    assert wording.headline(difference(0.02, 0.14, num_pairs=6)).verdict == "helps"
    assert "does not confirm it (p 0.200)" in wording.headline(difference(0.02, 0.14, p_value=0.2)).caveats[1]


def test_numbers_as_text():
    assert wording.decimals(-0.0123) == "\N{MINUS SIGN}0.012"
    assert wording.decimals(-0.0001, signed=True) == "0.000"
    assert wording.decimals(float("nan")) == "undefined"
    assert wording.p_text(0.0004) == "< 0.001"


@pytest.mark.parametrize(("num_cases", "ranks"), [(0, []), (1, ["Best"]), (2, ["Best", "Worst"])])
def test_few_cases_are_shown_once(num_cases, ranks):
    assert list(telling_cases(num_cases)) == ranks


# --- slices -------------------------------------------------------------------------------------------------------


def stack_of(mask, direction=GRID.direction):
    return Stack(np.zeros(mask.shape, np.float32), (mask,), (1.0, 1.0, 2.0), direction, (0.0, 1.0))


def test_planes_are_seen_as_a_radiologist_does():
    mask = np.zeros((24, 24, 24), bool)
    mask[20, 3, 22] = True  # LPS: left, anterior, superior
    axial, coronal, sagittal = slices.views(stack_of(mask), mask)
    assert np.argwhere(axial.masks[0]).tolist() == [[3, 20]]  # near the top (A), near the right (L)
    assert np.argwhere(coronal.masks[0]).tolist() == [[1, 20]]  # near the top (S), near the right (L)
    assert np.argwhere(sagittal.masks[0]).tolist() == [[1, 3]]  # near the top (S), near the left (A)
    assert [view.sides for view in (axial, coronal, sagittal)] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]
    assert coronal.pixel_mm == (2.0, 1.0)


def test_turned_grid_gives_the_same_planes():
    mask = ball((20, 3, 22), 2)
    turned = mask[::-1, ::-1].transpose(2, 0, 1)  # array axes run S, R, A
    direction = (0.0, -1.0, 0, 0, 0, -1.0, 1.0, 0, 0)
    stack = Stack(np.zeros(turned.shape, np.float32), (turned,), (2.0, 1.0, 1.0), direction, (0.0, 1.0))
    for view, expected in zip(slices.views(stack, turned), slices.views(stack_of(mask), mask), strict=True):
        np.testing.assert_array_equal(view.masks[0], expected.masks[0])
        assert (view.pixel_mm, view.centre_mm, view.sides) == (expected.pixel_mm, expected.centre_mm, expected.sides)


def test_oblique_grid_bears_no_letters():
    cosine = np.sqrt(0.5)
    direction = (cosine, -cosine, 0.0, cosine, cosine, 0.0, 0.0, 0.0, 1.0)
    assert slices.views(stack_of(ball((12, 12, 12), 3), direction), ball((12, 12, 12), 3))[0].sides == ("",) * 4


def test_focus_is_the_largest_component():
    mask = ball((5, 5, 5), 2) | ball((17, 17, 17), 4)
    np.testing.assert_array_equal(slices.largest_component(mask), ball((17, 17, 17), 4))
    assert slices.middle_voxel(slices.largest_component(mask), (1.0, 1.0, 1.0)) == (17, 17, 17)
    assert slices.middle_voxel(np.zeros((4, 6, 8), bool), (1.0, 1.0, 1.0)) == (2, 3, 4)
    assert not slices.largest_component(np.zeros((4, 6, 8), bool)).any()


def test_middle_lies_in_a_hollow_component():
    hollow = ball((12, 12, 12), 8) & ~ball((12, 12, 12), 6)
    assert hollow[slices.middle_voxel(hollow, (1.0, 1.0, 1.0))]


def test_grey_values():
    hu = np.array([[-1000, -160, 40, 240, np.nan]], np.float32)
    np.testing.assert_allclose(slices.grey(hu, slices.CT_WINDOW_HU), [[0, 0, 0.5, 1, 0]])


def test_limits_are_a_window_for_ct_and_percentiles_for_all_else():
    signal = np.append(np.arange(1001.0), [np.nan, np.inf, -np.inf, 500]).reshape(5, 201, 1)
    assert slices.grey_limits(signal, is_ct=True) == (-160, 240)
    assert slices.grey_limits(signal, is_ct=False) == pytest.approx((10, 990), abs=0.1)
    assert slices.grey_limits(np.full((2, 2, 2), 7), is_ct=False) == (7, 8)
    assert slices.grey_limits(np.full((2, 2, 2), np.nan), is_ct=False) == (0, 1)


# --- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field_mm", "bar_mm"), [(80.0, 20.0), (24.0, 5.0), (300.0, 100.0), (0.5, 0.1)])
def test_scale_bar_is_a_round_number(field_mm, bar_mm):
    assert figures.scale_bar_mm(field_mm) == pytest.approx(bar_mm)


def test_figures_survive_gaps_and_odd_names():
    style = palette.ARM_STYLES[0]
    line = figures.Line(np.arange(3.0), np.array([np.nan, 1.0, np.inf]), style)
    assert figures.curve_plot([line], palette.DARK).startswith(b"<?xml")
    pairs = figures.Pairs(np.empty(0), np.empty(0), ("$x_", "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 40), style)
    assert figures.pair_plot(pairs, palette.LIGHT) == figures.pair_plot(pairs, palette.LIGHT)
    gap = figures.Interval("cyst", (0.1, float("nan"), float("nan")), style)
    assert b"<svg" in figures.interval_plot([gap], palette.LIGHT)


def test_more_arms_than_styles_start_over():
    styles = palette.arm_styles([str(number) for number in range(7)])
    assert styles["5"] == styles["0"]
