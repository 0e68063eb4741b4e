"""What recipes end in: tables of masks, points of curves, and figures as files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backsplit.experiments.building import build_grid
from backsplit.experiments.figure_points import points_of
from backsplit.experiments.grid import Grid
from backsplit.experiments.reproducing import recipe_of_paper
from backsplit.experiments.tabulate import tabulate
from backsplit.report import draw_points, draw_slices
from reports import inputs_in

DICE = {
    "binary": (0.1, 0.3),
    "backsplit": (0.6, 0.8),
    "finetuned": (0.5, 0.7),
    "finetuned.epoch1": (0.4, 0.4),
    "partial-10": (0.2, 0.3),
    "partial-25": (0.3, 0.4),
    "partial-50": (0.5, np.nan),
}
ENDINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def scored(name: str, folder: Path, *settings: str) -> Grid:
    """A recipe as if it had run: every arm has the scores of two cases."""
    grid = build_grid(recipe_of_paper(name, ["phantom"], ["folds=[0]", *settings], has_ours=False), folder)
    for group in (*grid.groups, *grid.kept):
        rows = [
            {"arm": arm, "fold": 0, "case": case, "class": "cyst", "rule": "argmax", "seed": group.seed}
            | {"dice": dice, "reference_ml": 1, "prediction_ml": 1}
            for arm in group.trained
            for case, dice in zip("ab", DICE.get(arm, (0.5, 0.5)), strict=True)
        ]
        path = grid.store.group(grid.study, group.folder).scores
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    return grid


def by_line(table: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Place and Dice of the points of each line."""
    return {
        str(line): [(x, round(dice, 3)) for x, dice in zip(of_line["x"], of_line["dice"], strict=True)]
        for line, of_line in table.groupby("line")
    }


def test_fine_tuning_starts_where_the_binary_arm_ended(tmp_path):
    grid = scored("figure-3", tmp_path, "arms.finetuned.epochs=2")
    (points,) = points_of(grid, "epochs")
    assert points.name == "epochs-kits23-unet-cyst"
    assert by_line(points.table) == {"finetuned": [(0, 0.2), (1, 0.4), (2, 0.6)]}
    assert points.levels == {"backsplit": pytest.approx(0.7)}
    np.testing.assert_allclose(points.table["error"], [0.1, 0, 0.1], atol=1e-12)


def test_arms_that_keep_checkpoints_have_a_budget_curve(tmp_path):
    keeping = ("budget.epochs=3", "arms.binary.keep_every=2", "arms.backsplit.keep_every=2")
    (points,) = points_of(scored("figure-3", tmp_path, "arms.finetuned.epochs=1", *keeping), "epochs")
    assert by_line(points.table) == {
        "backsplit": [(2, 0.5), (3, 0.7)],
        "binary": [(2, 0.5), (3, 0.2)],
        "finetuned": [(0, 0.2), (1, 0.6)],
    }
    assert not points.levels


def test_fractions_and_numbers_of_auxiliaries_have_their_place(tmp_path):
    (points,) = points_of(scored("figure-3", tmp_path / "3"), "fractions")
    assert by_line(points.table) == {"preset paper": [(0, 0.2), (0.1, 0.25), (0.25, 0.35), (0.5, 0.5), (1, 0.7)]}
    assert np.isnan(points.table["error"].iloc[3]), "one defined case has no error"
    (points,) = points_of(scored("figure-4", tmp_path / "4"), "auxiliaries")
    assert list(points.table["x"]) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert not points.levels


def test_seeds_of_a_case_count_once(tmp_path):
    one, two = (scored("figure-3", tmp_path / seeds, f"seeds={seeds}") for seeds in ("[0]", "[0, 1]"))
    (first,), (second,) = (points_of(grid, "fractions") for grid in (one, two))
    pd.testing.assert_frame_equal(first.table, second.table)


def test_a_figure_of_points_is_three_files_and_the_same_bytes_again(tmp_path):
    table = pd.DataFrame(
        {"line": ["a"] * 3 + ["$b$"], "x": [0, 1, 2, 1], "dice": [0.1, np.nan, 0.5, 0.2], "error": 0.1}
    )
    written = draw_points(table, {"level": 0.7}, "epochs", tmp_path / "figure")
    assert {path.suffix: path.read_bytes()[: len(ENDINGS[path.suffix])] for path in written} == ENDINGS
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in draw_points(table, {"level": 0.7}, "epochs", tmp_path / "figure")] == before
    draw_points(table.assign(dice=0.9), {"level": 0.7}, "epochs", tmp_path / "other")
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "figure.png").read_bytes()


def test_slices_of_all_studies_are_one_figure(tmp_path):
    studies = {
        "kits": inputs_in(tmp_path / "one", arms=("binary", "backsplit", "blind")),
        "mswal": inputs_in(tmp_path / "two", targets=("cyst", "tumor")),
    }
    written = draw_slices(studies, tmp_path / "figure-slices")
    assert {path.suffix: path.read_bytes()[: len(ENDINGS[path.suffix])] for path in written} == ENDINGS
    single = draw_slices({"kits": studies["kits"]}, tmp_path / "figure-kits")
    heights = [_height(next(path for path in paths if path.suffix == ".png")) for paths in (written, single)]
    assert heights[0] == 2 * heights[1], "kits has a row for each arm beside the baseline, mswal one for each target"


def _height(png: Path) -> int:
    return int.from_bytes(png.read_bytes()[20:24], "big")


def test_masks_that_were_checked_are_a_table(tmp_path):
    grid = build_grid(recipe_of_paper("table-6", ["phantom"], [], has_ours=False), tmp_path)
    assert [(check.data, check.masks) for check in grid.checks[:2]] == [
        ("kits23", "clicks-7-clicks"),
        ("kits23", "clicks"),
    ]
    for number, check in enumerate(grid.checks):
        check.table.parent.mkdir(parents=True)
        dice = [0.25, 0.5 + 0.25 * (number % 2), np.nan]
        table = pd.DataFrame({"case": list("abc"), "structure": "kidney", "dice": dice})
        table.to_csv(check.table, index=False)
    grid.store.study(grid.study).mkdir(parents=True)
    text = tabulate(grid)
    assert text.startswith(
        "# table-6\n\nNothing is trained. Made-up data in place of: kits23, panther, nsclc-radiomics;"
    )
    assert "## kits23, masks against labels" in text
    assert "| kidney | clicks-7-clicks | 2 | 0.375 | 0.177 |\n| kidney | clicks | 2 | **0.500** | 0.354 |" in text
    assert "2 values are not." in text
    whole = pd.read_csv(grid.store.masks_of(grid.study))
    assert len(whole) == 6
    assert set(whole["data"]) == {"kits23", "panther", "nsclc-radiomics"}
