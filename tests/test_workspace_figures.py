"""Curves of a workspace: which of its arms belong on an axis, and where."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backsplit.experiments.paths import Workspace
from backsplit.experiments.workspace_points import points_of_workspace
from backsplit.labels import LabelScheme
from backsplit.nnunet.arms import Arm, ArmSettings, Budget, Start
from backsplit.report import draw_masks

SCHEME = LabelScheme(("cyst",), ("kidney", "liver", "bowel"))
FINAL = "checkpoint_final.pth"


def settings(kind, *auxiliaries, **changes):
    fraction = {"fraction": changes.pop("fraction")} if "fraction" in changes else {}
    return ArmSettings(arm=Arm(kind, auxiliaries, **fraction), scheme=SCHEME, budget=Budget(8, 1, 1), **changes)


@pytest.fixture
def scored(tmp_path):
    """A workspace as if arms had run: name of the predictions to settings, checkpoint, and Dice of two cases."""

    def write(arms):
        workspace, rows = Workspace(tmp_path), []
        for name, (of, checkpoint, dice) in arms.items():
            model = workspace.results / of.name
            model.mkdir(parents=True, exist_ok=True)
            (model / "plans.json").write_text(json.dumps({"backsplit": of.to_block(), "configurations": {}}))
            (model / "dataset.json").write_text("{}")
            manifest = {"arm": of.name, "model": str(model), "checkpoint": checkpoint, "all_classes": False}
            workspace.predictions_of(name).mkdir(parents=True)
            (workspace.predictions_of(name) / "predictions.json").write_text(json.dumps(manifest))
            for case, value in zip("ab", dice, strict=True):
                fields = {"arm": name, "fold": 0, "case": case, "class": "cyst", "rule": "argmax", "seed": 0}
                rows.append(fields | {"dice": value, "reference_ml": 1, "prediction_ml": 1})
        workspace.study.parent.mkdir(parents=True)
        workspace.study.write_text(json.dumps({"empty_policy": "undefined"}))
        pd.DataFrame(rows).to_csv(workspace.scores, index=False)
        return workspace

    return write


def by_name(workspace):
    """Points of each line of each figure."""
    return {
        points.name: {
            str(line): list(zip(of_line["x"], of_line["dice"].round(3), strict=True))
            for line, of_line in points.table.groupby("line")
        }
        for _, points in points_of_workspace(workspace)
    }


def test_two_arms_are_no_curve(scored):
    arms = {kind: (settings(kind), FINAL, (0.2, 0.4)) for kind in ("binary", "backsplit")}
    assert by_name(scored(arms)) == {}


def test_shares_and_numbers_begin_with_the_binary_arm_for_each_loss(scored):
    arms = {
        "binary": (settings("binary"), FINAL, (0.1, 0.3)),
        "half": (settings("partial", fraction=0.5), FINAL, (0.2, 0.6)),
        "one": (settings("subset", "liver"), FINAL, (0.3, 0.3)),
        "all": (settings("backsplit"), FINAL, (0.5, np.nan)),
        "paper": (settings("backsplit", loss="paper"), FINAL, (0.0, 0.0)),
        "best": (settings("backsplit"), "checkpoint_best.pth", (0.9, 0.9)),
    }
    assert by_name(scored(arms)) == {
        "fractions-cyst": {"target-first": [(0, 0.2), (0.5, 0.4), (1, 0.5)]},
        "auxiliaries-cyst": {"target-first": [(0, 0.2), (1, 0.3), (3, 0.5)]},
    }


def test_checkpoints_and_fine_tuning_are_curves_over_epochs(scored, tmp_path):
    start = Start(str(tmp_path / "results" / "binary"), FINAL)
    arms = {
        "binary": (settings("binary"), FINAL, (0.2, 0.2)),
        "after-4": (settings("backsplit"), "checkpoint_epoch_0004.pth", (0.3, 0.3)),
        "after-8": (settings("backsplit"), FINAL, (0.4, 0.4)),
        "tuned": (settings("backsplit", start=start), FINAL, (0.6, 0.6)),
    }
    assert by_name(scored(arms)) == {
        "epochs-cyst": {"backsplit": [(4, 0.3), (8, 0.4)], "finetuned-backsplit": [(0, 0.2), (8, 0.6)]}
    }


def test_masks_are_drawn_where_dice_is_defined(tmp_path):
    rows = [(masks, name, 0.8) for masks in ("ts", "$x$") for name in ("liver", "spleen") for _ in range(3)]
    table = pd.DataFrame([*rows, ("ts", "bone", np.nan)], columns=["masks", "structure", "dice"])
    written = draw_masks(table, "labels", tmp_path / "masks")
    assert [path.suffix for path in written] == [".svg", ".png", ".pdf"]
    assert all(path.stat().st_size for path in written)
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in draw_masks(table, "labels", Path(tmp_path / "masks"))] == before
    assert draw_masks(table.assign(dice=np.nan), "labels", tmp_path / "none") == []
    assert not (tmp_path / "none.png").exists()
