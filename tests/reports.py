"""A study written by hand, without training: what a report is made of."""

import numpy as np
import pandas as pd

from backsplit.cases import Case, Cohort
from backsplit.evaluation import (
    LESION_COLUMNS,
    Scoring,
    Subject,
    read_scores,
    read_table,
    score_label_maps,
    summarise,
    write_rows,
)
from backsplit.evaluation.empty import UNDEFINED
from backsplit.evaluation.statistics import compare
from backsplit.labels import LabelScheme
from backsplit.report import ReportInputs
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
MARKED, MARK_HU = (6, 9, 15), 1400.0
"""The middle of the first lesion has a value of its own."""


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
    return [ball((6 + 11 * i, 9, 15), 4 - (number == 3)) & (number != 4) for i in range(num_targets)]


def cohort_in(folder, *, targets, grids, names):
    scheme = LabelScheme(targets=targets, auxiliaries=("liver",))
    random = np.random.default_rng(0)
    for number, grid in enumerate(grids):
        masks = reference_masks(number, len(targets))
        image = random.normal(40, 30, grid.shape) + 80 * np.any(masks, axis=0)
        image[MARKED] = MARK_HU
        write_volume(Volume(image.astype(np.float32), grid), folder / f"{number}.nii.gz")
        write_volume(Volume(label_map(*masks), grid), folder / "labels" / f"{number}.nii.gz")
    cases = tuple(
        Case(name, (folder / f"{number}.nii.gz",), folder / "labels" / f"{number}.nii.gz", group=f"patient {number}")
        for number, name in enumerate(names)
    )
    return Cohort("phantom", ("CT",), tuple(enumerate(scheme.names)), cases, scheme)


def lost_information_in(folder, *, names=CASES, grids=(GRID,) * 5):
    """Maps of lost information of all cases but the last: 0.4 at the marked voxel, 1 in its plane, else 0."""
    for name, grid in list(zip(names, grids, strict=True))[:-1]:
        lost = np.zeros(grid.shape, np.float32)
        lost[MARKED[0]] = 1
        lost[MARKED] = 0.4
        write_volume(Volume(lost, grid), folder / f"{name}.nii.gz")
    return folder


def predict(arm, number, num_targets):
    """`binary` is off by two voxels, `backsplit` by one, `blind` finds nothing."""
    if arm == "blind" or number == 4:
        return label_map()
    shift = {"binary": 2, "backsplit": 1}[arm]
    masks = [ball((6 + 11 * i + shift, 9 + number // 2, 15), 4) for i in range(num_targets)]
    return label_map(*masks)


def inputs_in(folder, *, arms=("binary", "backsplit"), targets=("cyst",), grids=(GRID,) * 5, names=CASES):
    """Five cases, each scored in all arms; the first is called what no page must run."""
    cohort = cohort_in(folder / "cohort", targets=targets, grids=grids, names=names)
    classes = {value: name for value, name in cohort.label_names if name in targets}
    scores, lesions = [], []
    for arm in arms:
        for number, (case, grid) in enumerate(zip(names, grids, strict=True)):
            prediction = predict(arm, number, len(targets))
            write_volume(Volume(prediction, grid), folder / arm / f"{case}.nii.gz")
            subject = Subject(arm=arm, fold="0", case=case, rule="argmax")
            scored = score_label_maps(
                prediction,
                label_map(*reference_masks(number, len(targets))),
                subject=subject,
                classes=classes,
                spacing_mm=grid.spacing_mm,
                scoring=Scoring((2.0,)),
            )
            scores += scored.scores
            lesions += scored.lesions
    write_rows(scores, folder / "scores.csv")
    write_rows(lesions, folder / "lesions.csv", columns=LESION_COLUMNS)
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
        lesions=read_table(folder / "lesions.csv"),
        scoring=Scoring((2.0,)),
        study={"Budget": "6 epochs of 10 iterations"},
        parameters={"binary": 1_234_567},
        provenance={"Training": {"Seed": "0"}},
        warnings=("The budget is tiny.",),
    )
