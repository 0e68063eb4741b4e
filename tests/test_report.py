import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest

from backsplit import report
from backsplit.cases import DroppedCase
from backsplit.errors import CohortError, GeometryError
from backsplit.evaluation.empty import UNDEFINED
from backsplit.report import figures, palette, slices, wording
from backsplit.report.caseviews import safe_id
from backsplit.report.gather import page_of
from backsplit.report.page import render
from backsplit.report.selection import Contest, paired_dice, telling_cases
from backsplit.report.slices import Stack
from backsplit.volume import Grid, Volume, write_volume
from reports import CASES, GRID, HOSTILE, ball, inputs_in


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


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_same_inputs_give_the_same_bytes(inputs, html, tmp_path):
    for name in ("one", "two"):
        report.write(inputs, tmp_path / name / "index.html")
    one, two = (files_in(tmp_path / name) for name in ("one", "two"))
    assert one["index.html"].read_text(encoding="utf-8") == html
    assert {name: path.read_bytes() for name, path in one.items()} == {
        name: path.read_bytes() for name, path in two.items()
    }
    assert {name for name in one if name.startswith("cases/")} == {f"cases/{safe_id(case)}.js" for case in CASES}


def test_only_cases_whose_files_changed_are_made_again(inputs, tmp_path):
    page = tmp_path / "index.html"
    report.write(inputs, page)
    before = {name: path.stat().st_mtime_ns for name, path in files_in(tmp_path / "cases").items()}
    (tmp_path / "cases" / "gone.js").write_text("")
    changed = inputs.prediction_folders["backsplit"] / "case 2.nii.gz"
    changed.touch()
    report.write(inputs, page)
    after = {name: path.stat().st_mtime_ns for name, path in files_in(tmp_path / "cases").items()}
    assert {name for name in before if after[name] != before[name]} == {f"{safe_id('case 2')}.js"}
    assert after.keys() == before.keys()


def test_page_loads_its_own_files_alone(html):
    tags = parsed(html).tags
    assert {"iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in tags)
    for tag, attributes in tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        for name in {"src", "srcset", "href"} & attributes.keys():
            assert re.match(r"assets/[a-z.A-Z]+$|data:(image/|,)|#", attributes[name]), (tag, attributes[name])


def policy_of(html):
    return next(tag["content"] for _, tag in parsed(html).tags if tag.get("http-equiv") == "Content-Security-Policy")


def test_policy_allows_what_lies_beside_the_page_alone(html):
    directives = dict(each.split(" ", 1) for each in policy_of(html).split("; "))
    assert directives["default-src"] == directives["connect-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == "'self'"
    assert directives["img-src"] == "data:"
    assert "unsafe" not in policy_of(html)


def test_policy_of_a_single_file_allows_what_stands_in_it_alone(inputs, tmp_path):
    html = report.write_single(inputs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    styles = re.findall(r"<style>(.*?)</style>", html.partition("</head>")[0], re.DOTALL)
    inside = styles + re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(inside) == 9
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inside}
    directives = dict(each.split(" ", 1) for each in policy_of(html).split("; "))
    assert {*directives["script-src"].split(), *directives["style-src"].split()} == hashes
    assert not {"src", "href"} & {
        name for tag, attributes in parsed(html).tags if tag == "script" for name in attributes
    }


def test_viewer_library_is_what_was_published():
    folder = resources.files("backsplit.report").joinpath("viewer")
    told = json.loads(folder.joinpath("niivue.json").read_text())
    library = folder.joinpath("niivue.umd.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == told["sha256"]
    assert told["version"] == "0.69.0"
    assert b"</script" not in library
    licences = folder.joinpath("LICENSES.txt").read_text()
    assert "Copyright (c) 2021, Niivue" in licences


def test_every_picture_has_words(html):
    images = [attributes for tag, attributes in parsed(html).tags if tag == "img"]
    assert len(images) == 1 + 1 + 7 + 9  # intervals, pairs, curves, three cases in three planes
    assert all(image["alt"] for image in images)


def test_names_are_data(page, html):
    assert "<script>" not in html
    assert HOSTILE in {study.name for study in page.cases[0].studies}
    assert HOSTILE in "".join(parsed(html).text)
    hostile = replace(page, title=HOSTILE, warnings=(HOSTILE,), study=((HOSTILE, HOSTILE),))
    tags = parsed(render(hostile))
    assert all(
        attributes.get("src", "assets/").startswith("assets/") for tag, attributes in tags.tags if tag == "script"
    )
    # title twice, the warning, the fact and its name, the case among the pictures, and its rows of both listings
    assert "".join(tags.text).count(HOSTILE) == 5 + 1 + 2


def test_undefined_is_counted_and_named(page):
    dice = page.scores.rows[0][3]
    assert "1 undefined" in dice.note
    assert "4 pairs, 1 undefined" in page.comparison.rows[0][3].note
    assert UNDEFINED.describe() in page.scores.notes
    assert "1 more undefined" in page.pairs[0].caption


def test_what_the_scores_leave_out_is_said(inputs, page):
    assert page.warnings == (
        "The budget is tiny.",
        "Dice is undefined where neither reference nor prediction has a voxel; such rows: binary 1, backsplit 1.",
    )
    cohort = replace(inputs.cohort, dropped=(DroppedCase("odd", "no image"),))
    fewer = inputs.scores[inputs.scores["case"] != "case 5"]
    warnings = page_of(replace(inputs, cohort=cohort, scores=fewer, curves={})).warnings
    assert warnings[1:] == (
        "4 of the 5 cases of phantom are scored.",
        "1 case of the data set could not be taken into phantom.",
    )


def test_another_score_that_says_the_opposite_is_named(inputs):
    comparison = inputs.comparison.assign(p_holm=0.01)
    is_distance = comparison["metric"] == "hd95_mm"
    comparison.loc[is_distance, ["mean_difference", "low", "high"]] = [3.0, 1.0, 5.0]  # worse, while Dice is better
    (told,) = page_of(replace(inputs, comparison=comparison, curves={})).headlines
    assert "Another score says the opposite: HD95 (mm) +3.0 (+1.0 to +5.0), less is better." in told.caveats
    comparison["p_holm"] = 0.2
    (told,) = page_of(replace(inputs, comparison=comparison, curves={})).headlines
    assert not any("opposite" in caveat for caveat in told.caveats)


def test_costs_come_from_the_log_and_the_record(inputs):
    curves = {"binary": inputs.curves["binary"].assign(seconds=[3.0, 1, 2, 2, 2, 50])}
    table = page_of(replace(inputs, curves=curves, prediction_seconds={"binary": 12.345})).costs
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["binary", "2", "1:00", "12.3 s", "1.235 M"],
        ["backsplit", *["not recorded"] * 4],
    ]


def rows_of(page, name):
    (listing,) = (each for each in page.listings if each.name == name)
    return listing, [
        dict(zip((column.text for column in listing.columns), row.cells, strict=True)) for row in listing.rows
    ]


def test_listing_of_cases_says_what_the_scores_say(inputs, page):
    listing, rows = rows_of(page, "cases")
    scores = inputs.scores.set_index(["case", "arm"])
    assert [row["Case"].text for row in rows] == list(CASES)
    for row, told in zip(rows, listing.rows, strict=True):
        difference = (
            scores.loc[(row["Case"].text, "backsplit"), "dice"] - scores.loc[(row["Case"].text, "binary"), "dice"]
        )
        assert row["Difference"].number == pytest.approx(difference, nan_ok=True)
        expected = "undefined" if np.isnan(difference) else "better" if difference > 0 else "worse"
        assert told.tags["Outcome"] == (expected,)
        assert told.address == f"case/{safe_id(row['Case'].text)}"
    assert rows[4]["Difference"].key == ""
    assert {each.tag: each.options for each in listing.filters}["Size"][0] == "none"
    assert "Fold" not in {each.tag for each in listing.filters}  # there is one


def test_listing_of_lesions_has_each_lesion_and_each_false_alarm(tmp_path):
    inputs = inputs_in(tmp_path, arms=("binary", "blind"))
    listing, rows = rows_of(page_of(replace(inputs, curves={})), "lesions")
    assert [row["Finding"].text for row in rows] == ["lesion"] * 4
    assert {row["Dice, blind"].text for row in rows} == {"missed"}
    assert all(row.tags["Finding"] == ("lesions", "found by some", "missed by blind") for row in listing.rows)
    assert [row.address for row in listing.rows] == [f"case/{safe_id(case)}/1-r-1" for case in CASES[:4]]


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
    seed, *_ = page.caveats
    assert "single seed" in seed
    assert not any("single seed" in caveat for each in page.headlines for caveat in each.caveats)
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


def test_map_of_lost_information_on_another_grid_is_named(inputs, tmp_path):
    other = Grid((24, 24, 24), (1.0, 1.0, 2.5), GRID.origin_mm, GRID.direction)
    for case in CASES:
        write_volume(Volume(np.zeros(other.shape, np.float32), other), tmp_path / f"{case}.nii.gz")
    with pytest.raises(GeometryError, match=r"spacing .* run `backsplit fisher backsplit` again"):
        report.write(replace(inputs, information={"backsplit": tmp_path}), tmp_path / "index.html")


def test_cohort_must_be_composed(inputs):
    with pytest.raises(CohortError, match="no composed reference labels"):
        page_of(replace(inputs, curves={}, cohort=replace(inputs.cohort, scheme=None)))


def test_figures_are_files_for_a_paper(inputs, tmp_path):
    inputs = replace(inputs, curves={"binary": inputs.curves["binary"][["epoch", "train_loss"]]})
    written = report.write_figures(inputs, tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir())
    names = {path.stem for path in written}
    assert {f"slice-cyst-backsplit-{rank}-axial" for rank in ("best", "median", "worst")} <= names
    assert {"curve-train_loss", "pairs-cyst-backsplit"} <= names
    beginnings = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(beginnings[path.suffix]) for path in written)
    before = {path: path.read_bytes() for path in written}
    report.write_figures(inputs, tmp_path)
    assert {path: path.read_bytes() for path in written} == before


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
