"""What surrounds lesions: against a slow twin, against the table of the KiTS23 pack, and as a ranking."""

import csv
from collections import defaultdict
from itertools import product

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_opening

from backsplit import cases
from backsplit.cli import main
from backsplit.datasets.phantom import PHANTOM_SCHEME, PhantomSettings, write_cohort
from backsplit.errors import CohortError, ConfigurationError, GeometryError
from backsplit.experiments.selecting import rank_auxiliaries, read_choice
from backsplit.labels import LabelScheme
from backsplit.selection import false_alarms, gather, rank, surroundings
from backsplit.volume import Grid, Volume, read_labels, read_volume, write_volume
from studies import compose_phantom, run

SPACING = (1.0, 2.0, 3.0)
SCHEME = LabelScheme(("cyst",), ("kidney", "liver"))
maps = arrays(np.uint8, (4, 3, 4), elements=st.integers(0, 3))


def grid(shape):
    return Grid(shape, SPACING, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def looked_at(labels, target=1):
    """Slow twin: face by face, by lesion of `cc3d`, in any order."""
    parts = cc3d.connected_components(labels == target, connectivity=26)
    rows = []
    for part in range(1, parts.max() + 1):
        faces, touching, surface = np.zeros(4), np.zeros(4, int), 0
        for voxel in np.argwhere(parts == part):
            beside = set()
            for axis in range(3):
                for step in (-1, 1):
                    at = voxel.copy()
                    at[axis] += step
                    is_inside = 0 <= at[axis] < labels.shape[axis]
                    value = int(labels[tuple(at)]) if is_inside else 0
                    if value != target:
                        faces[value] += np.prod(SPACING) / SPACING[axis]
                        beside.add(value)
            surface += bool(beside)
            touching[list(beside)] += 1
        rows.append(((parts == part).sum(), surface, faces.tolist(), touching.tolist()))
    return rows


@settings(max_examples=60)
@given(maps, st.booleans())
def test_faces_are_those_of_the_slow_twin(labels, is_fortran):
    found = surroundings(np.asfortranarray(labels) if is_fortran else labels, 1, num_fine=4, spacing_mm=SPACING)
    rows = zip(
        found.voxels, found.surface_voxels, found.faces_mm2.tolist(), found.touching_voxels.tolist(), strict=True
    )
    assert sorted(rows) == sorted(looked_at(labels))
    assert list(found.voxels) == sorted(found.voxels, reverse=True)


@given(maps)
def test_a_lesion_in_a_ring_is_held_by_it(labels):
    labels = np.pad(labels * 0 + (labels == 1), 1, constant_values=2).astype(np.uint8)
    found = surroundings(labels, 1, num_fine=4, spacing_mm=SPACING)
    labels[labels == 0] = 2
    closed = surroundings(labels, 1, num_fine=4, spacing_mm=SPACING)
    np.testing.assert_array_equal(closed.containment[:, 2], np.ones(len(closed.voxels)))
    np.testing.assert_allclose(found.contact.sum(axis=1), 1)


def test_contact_shares_of_all_kits23_cysts(real_data):
    expected = defaultdict(list)
    with (real_data / "cysts.csv").open() as handle:
        for row in csv.DictReader(handle):
            shares = (float(row[f"{kind}_{name}"]) for kind in ("touch", "face") for name in CLASSES_OF_TABLE)
            expected[row["case"]].append((int(row["vox"]), int(row["surface_vox"]), *shares))
    assert sum(map(len, expected.values())) == 263
    evidence = []
    for case, rows in expected.items():
        labels = read_labels(real_data / "kits23_labels" / f"{case}.nii.gz")
        evidence.append(gather(Volume(KITS_TO_SCHEME[labels.voxels], labels.grid), KITS_SCHEME))
        (found,) = evidence[-1].lesions
        order = [2, 3, 0]
        mine = np.c_[found.voxels, found.surface_voxels, found.touch[:, order], found.contact[:, order]]
        np.testing.assert_allclose(sorted(mine.tolist()), sorted(rows), atol=1e-3)
    assert rank(evidence, KITS_SCHEME)["class"].tolist() == ["kidney", "tumor"]


KITS_SCHEME = LabelScheme(("cyst",), ("kidney", "tumor"))
KITS_TO_SCHEME = np.array([0, 2, 3, 1], np.uint8)
CLASSES_OF_TABLE = ("kidney", "tumour", "background")


def test_kidney_comes_first_on_the_phantom_and_fluid_by_its_value_points_at_the_bowel(tmp_path):
    cohort = write_cohort(tmp_path, num_cases=3, settings=PhantomSettings(shape=(48, 48, 48)), seed=0)
    read = [(read_volume(case.images[0]).voxels, read_labels(case.labels)) for case in cohort.cases]
    table = rank([gather(labels, PHANTOM_SCHEME) for _, labels in read], PHANTOM_SCHEME)
    assert table["class"][0] == "kidney"
    assert table["recommended"][0]
    scored = []
    for image, labels in read:
        fluid = binary_opening((image > -5) & (image < 30), np.ones((2, 2, 2)))
        scored.append(gather(labels, PHANTOM_SCHEME, prediction=Volume(fluid.astype(np.uint8), labels.grid)))
    scores = rank(scored, PHANTOM_SCHEME).set_index("class")["score"]
    assert scores["bowel"] > 2 * scores["liver"]
    assert scores["kidney"] > scores["liver"]


def small(value_of_prediction):
    """A cyst in a kidney, a liver apart, and false positives where told."""
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[1:5, 1:5, 1:5], labels[2:4, 2:4, 2:4], labels[6:9, 6:9, 6:9] = 2, 1, 3
    prediction = (labels == value_of_prediction).astype(np.uint8)
    return Volume(labels, grid(labels.shape)), Volume(prediction, grid(labels.shape))


def test_false_alarms_raise_the_class_they_lie_in():
    labels, prediction = small(3)
    without = rank([gather(labels, SCHEME)], SCHEME).set_index("class")
    assert without.loc["liver", "score"] == 0
    assert not without.loc["liver", "recommended"]
    assert without["false_alarms"].isna().all()
    table = rank([gather(labels, SCHEME, prediction=prediction)], SCHEME).set_index("class")
    assert table.loc["liver", "false_alarms"] == 1
    assert table.loc["liver", "volume"] == pytest.approx(27 / (1000 - 8))
    assert table.loc["liver", "reason"] == "100% of the false alarms in or beside it, 2.7% of the volume"
    assert table.loc["kidney", ["contact", "containment"]].tolist() == [1, 1]


def alarms_by_voxel(labels, predicted):
    """Slow twin: each alarm by itself, voxel by voxel."""
    found = np.zeros(4)
    parts = cc3d.connected_components(predicted, connectivity=26)
    for part in range(1, parts.max() + 1):
        voxels = [tuple(voxel) for voxel in np.argwhere(parts == part)]
        if any(labels[voxel] == 1 for voxel in voxels):
            continue
        near = {
            beside
            for x, y, z in voxels
            for beside in product(range(x - 1, x + 2), range(y - 1, y + 2), range(z - 1, z + 2))
            if all(0 <= at < edge for at, edge in zip(beside, labels.shape, strict=True))
        }
        of_auxiliaries = [labels[voxel] for voxel in near if labels[voxel] > 1]
        for value in of_auxiliaries or [0]:
            found[value] += len(voxels) / max(len(of_auxiliaries), 1)
    return found


@given(maps, arrays(bool, (4, 3, 4)))
def test_false_alarms_are_those_of_the_slow_twin(labels, predicted):
    found = false_alarms(labels, predicted, num_targets=1, num_fine=4)
    np.testing.assert_allclose(found, alarms_by_voxel(labels, predicted))
    view = np.repeat(predicted, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(false_alarms(labels, view, num_targets=1, num_fine=4), found)


def test_a_false_alarm_beside_an_organ_counts_for_it_and_a_wide_outline_does_not():
    labels, _ = small(1)
    beside = np.zeros(labels.voxels.shape, np.uint8)
    beside[9, 6:9, 6:9] = 1  # along a face of the liver
    wide = np.zeros(labels.voxels.shape, np.uint8)
    wide[1:6, 1:6, 1:6] = 1  # the cyst, and all around it
    found = gather(labels, SCHEME, prediction=Volume(beside, labels.grid)).false_alarms_ml
    assert found.tolist() == [0, 0, 0, pytest.approx(9 * labels.grid.voxel_ml)]
    assert not gather(labels, SCHEME, prediction=Volume(wide, labels.grid)).false_alarms_ml.any()


def test_true_positives_are_no_false_ones():
    labels, prediction = small(1)
    table = rank([gather(labels, SCHEME, prediction=prediction)], SCHEME)
    assert (table["false_alarms"] == 0).all()


def test_cases_that_were_not_annotated_for_a_class_say_nothing_about_it():
    labels, _ = small(1)
    bare = Volume(np.where(labels.voxels == 2, 0, labels.voxels).astype(np.uint8), labels.grid)
    both = [gather(labels, SCHEME), gather(bare, SCHEME, annotated=("liver",))]
    table = rank(both, SCHEME).set_index("class")
    assert table.loc["kidney", ["contact", "num_cases"]].tolist() == [1, 1]
    assert table.loc["liver", "num_cases"] == 2


def test_no_lesion_and_other_grids():
    labels, prediction = small(1)
    healthy = Volume(np.where(labels.voxels == 1, 2, labels.voxels).astype(np.uint8), labels.grid)
    with pytest.raises(CohortError, match="no case has a voxel of a target"):
        rank([gather(healthy, SCHEME)], SCHEME)
    with pytest.raises(GeometryError, match="labels and prediction lie on different grids"):
        gather(labels, SCHEME, prediction=Volume(prediction.voxels[1:], grid((9, 10, 10))))


def test_the_command_ranks_and_train_takes_its_choice(tmp_path, capsys):
    composed = compose_phantom(tmp_path, num_cases=2)
    workspace = tmp_path / "study"
    run("select", composed, "--workspace", workspace)
    told = capsys.readouterr().out
    assert "recommended: kidney" in told
    choice = workspace / "selection" / "selection.json"
    assert read_choice(choice)[0] == "kidney"
    arguments = ["train", "--arm", "subset", "--selection", str(choice), "--workspace", str(workspace)]
    assert main([*arguments, "--auxiliaries", "liver"]) == 1
    assert "--auxiliaries and --selection both name" in capsys.readouterr().err
    choice.write_text("[]")
    assert main(arguments) == 1
    assert "not a selection" in capsys.readouterr().err


def test_false_alarms_of_another_cohort_are_refused(tmp_path, capsys):
    composed = compose_phantom(tmp_path, num_cases=2)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    (predictions / "predictions.json").write_text('{"cohort": "elsewhere", "all_classes": false, "cases": {}}')
    assert main(["select", str(composed), "--baseline", str(predictions), "--workspace", str(tmp_path / "study")]) == 1
    assert "holds predictions for elsewhere" in capsys.readouterr().err


def test_cohorts_that_cannot_be_ranked(tmp_path):
    cohort = cases.read(compose_phantom(tmp_path, num_cases=2))
    case = cohort.cases[0]
    other = tmp_path / "other.nii.gz"
    labels = read_labels(case.labels)
    write_volume(Volume(labels.voxels[1:], grid((31, 32, 32))), other)
    with pytest.raises(GeometryError, match=f"{case.name}: labels and prediction"):
        rank_auxiliaries(cohort, {case.name: other})
    with pytest.raises(ConfigurationError, match="not a selection"):
        read_choice(tmp_path / "none.json")
