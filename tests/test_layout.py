"""Tables in a paper's layout, and plots: escaped, best in bold, the same bytes for the same scores."""

import csv
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from backsplit.errors import ConfigurationError
from backsplit.evaluation import FORMATS, UNDEFINED, arrange, compare, paper_numbers, render, summarise
from backsplit.report.plots import write_plots


def scores_of(**arms):
    rows = []
    for arm, values in arms.items():
        for number, dice in enumerate(values):
            names = {"arm": arm, "fold": "0", "case": f"c{number}", "rule": "argmax", "seed": "0", "group": ""}
            scores = {"dice": dice, "hd95_mm": 10 - dice, "nsd_1mm": dice, "reference_ml": 1.0 + number}
            rows.append({**names, "class": "a<b & c_d", **scores, "prediction_ml": 1.0, "diagonal_mm": 100.0})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def scores():
    generator = np.random.default_rng(0)
    base = generator.uniform(0.1, 0.4, 12)
    return scores_of(binary=base, full=base + generator.uniform(0.1, 0.3, 12))


@pytest.fixture(scope="module")
def layout(scores):
    return arrange(summarise(scores, UNDEFINED), compare(scores, baseline="binary", policy=UNDEFINED))


def test_best_is_marked_and_differences_have_a_star(layout):
    binary, full = layout.rows
    assert [entry.is_best for entry in full[2:]] == [True, True, True]
    assert not any(entry.is_best for entry in binary)
    assert all(entry.text.endswith("*") for entry in full[2:])
    assert layout.header == ("Class", "Arm", "Dice ↑", "HD95 (mm) ↓", "NSD at 1 mm ↑")
    assert "differs from binary (Wilcoxon over cases" in layout.caption
    assert "Undefined values: none." in layout.caption


class Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_names_are_escaped_in_every_format(layout):
    parser = Parser()
    parser.feed(render(layout, "html"))
    assert "b" not in parser.tags
    assert "a<b & c_d" in parser.texts
    assert r"a<b \& c\_d" in render(layout, "latex")
    assert next(csv.reader(io.StringIO(render(layout, "csv")))) == list(layout.header)
    assert "**0." in render(layout, "markdown")


def test_equal_means_and_one_arm_have_no_best():
    scores = scores_of(binary=[0.1, 0.2], full=[0.2, 0.1])
    rows = arrange(summarise(scores, UNDEFINED), compare(scores, baseline="binary", policy=UNDEFINED)).rows
    assert all(entry.is_best for row in rows for entry in row[2:])  # both are


def test_paper_stands_beside_ours(scores):
    compared = compare(scores, baseline="binary", policy=UNDEFINED)
    rows = arrange(summarise(scores, UNDEFINED), compared, paper=paper_numbers(1)).rows
    kits = next(row for row in rows if row[1].text == "backsplit, unet, paper's table 1" and "KiTS23" in row[0].text)
    assert [entry.text for entry in kits[2:]] == ["0.457", "267.3", "0.600"]


def test_numbers_of_the_paper_say_where_they_are_from():
    numbers = paper_numbers()
    assert set(numbers["table"]) == {1, 2, 3, 4, 12}
    assert numbers["printed_in"].notna().all()
    assert not numbers.duplicated(["table", "data_set", "target", "network", "arm", "metric"]).any()
    with pytest.raises(ConfigurationError, match="table 7 is known here; there are tables 1, 2, 3, 4, 12"):
        paper_numbers(7)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_says_its_policy(layout, fmt):
    assert "Empty masks (undefined)" in render(layout, fmt)


def test_plots_are_the_same_for_the_same_scores(scores, tmp_path):
    lesions = pd.DataFrame(
        {
            "arm": ["binary", "full"] * 6,
            "class": "a<b & c_d",
            "kind": "reference",
            "ml": np.repeat(np.arange(1.0, 7), 2),
            "detected": ["no", "yes"] * 6,
        }
    )
    first = write_plots(scores, lesions, "binary", tmp_path / "one")
    second = write_plots(scores, lesions, "binary", tmp_path / "two")
    assert {path.name.partition("-")[0] for path in first} == {"pairs", "volume", "spread", "detection"}
    assert {path.suffix for path in first} == {".png", ".svg", ".pdf"}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
