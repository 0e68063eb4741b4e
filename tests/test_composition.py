"""Fine label maps from the label values of a data set."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.composition import compose
from backsplit.errors import CohortError, LabelError, VolumeError
from backsplit.labels import LabelScheme
from backsplit.volume import Grid, Volume, read_labels, write_volume

GRID = Grid((2, 3, 4), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
NAMES = ((0, "background"), (2, "cyst"), (5, "kidney"), (9, "liver"))
SCHEME = LabelScheme(("cyst",), ("liver", "kidney"))
FINE_OF_VALUE = {0: 0, 2: 1, 5: 3, 9: 2}


def values_of(seed):
    return np.random.default_rng(seed).choice([0, 2, 5, 9], GRID.shape)


@pytest.fixture
def cohort(tmp_path):
    """Two cases with all classes; values have gaps and another order than the scheme."""
    found = []
    for seed, name in enumerate(["a", "b c"]):
        labels = tmp_path / "source" / f"{name}.nii.gz"
        write_volume(Volume(values_of(seed).astype(np.int16), GRID), labels)
        found.append(Case(name, (tmp_path / "source" / f"{name}_image.nii.gz",), labels, name))
    return Cohort("study", ("CT",), NAMES, tuple(found))


def relabel(cohort, array, index=0):
    """Overwrite the label map of a case."""
    path = cohort.cases[index].labels
    write_volume(Volume(np.broadcast_to(np.asarray(array), GRID.shape), GRID), path)


def fine_labels(case):
    assert case.labels is not None
    return read_labels(case.labels)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_values_become_indices_of_the_scheme(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    for seed, case in enumerate(composed.cases):
        labels = fine_labels(case)
        np.testing.assert_array_equal(labels.voxels, np.vectorize(FINE_OF_VALUE.get)(values_of(seed)))
        assert labels.grid == GRID
        assert case.labels == tmp_path / "out" / "labels" / f"{case.name}.nii.gz"
        assert case.images == cohort.cases[seed].images


def test_manifest_says_what_was_composed(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert cases.read(tmp_path / "out") == composed
    assert composed.scheme == SCHEME
    assert composed.label_names == ((0, "background"), (1, "cyst"), (2, "liver"), (3, "kidney"))
    assert composed.provenance == (("composed", "targets cyst; auxiliaries liver, kidney"),)


def test_labels_are_stored_as_uint8(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert fine_labels(composed.cases[0]).voxels.dtype == np.uint8


def test_unnamed_classes_become_background_with_one_warning(cohort, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        composed = compose(cohort, scheme=LabelScheme(("cyst",), ("liver",)), folder=tmp_path / "out")
    num_voxels = sum(int((values_of(seed) == 5).sum()) for seed in (0, 1))
    assert [record.getMessage() for record in caplog.records] == [
        f"study: not in the scheme, merged into background: kidney ({num_voxels} voxels in 2 cases)"
    ]
    fine = fine_labels(composed.cases[0]).voxels
    np.testing.assert_array_equal(fine == 0, np.isin(values_of(0), [0, 5]))


def test_complete_scheme_warns_of_nothing(cohort, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert not caplog.records


def test_annotated_classes_are_those_of_the_scheme(cohort, tmp_path):
    first, second = cohort.cases
    partial = replace(cohort, cases=(replace(first, annotated=("kidney", "spleen")), second))
    composed = compose(partial, scheme=SCHEME, folder=tmp_path / "out")
    assert [case.annotated for case in composed.cases] == [("kidney",), None]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(7, np.uint8), r"b c: label values \[7\] have no name in study"),
        (np.array(300, np.int16), r"b c: label values \[300\] have no name"),
        (np.array(-1, np.int16), r"b c: label values \[-1\] have no name"),
        (np.array(0.5), r"b c: .*24 voxels are not whole numbers, such as 0.5"),
        (np.array(np.nan), r"b c: .*nan"),
    ],
)
def test_foreign_labels_name_the_case(cohort, tmp_path, array, message):
    relabel(cohort, array, index=1)
    with pytest.raises(LabelError, match=message):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "cohort.json").exists()


def test_unreadable_labels_name_the_case(cohort, tmp_path):
    cohort.cases[1].labels.write_bytes(b"")
    with pytest.raises(VolumeError, match=r"b c: .*b c.nii.gz"):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")


def test_case_without_labels_is_named(cohort, tmp_path):
    bare = replace(cohort, cases=(replace(cohort.cases[0], labels=None),))
    with pytest.raises(CohortError, match="a: has no label map"):
        compose(bare, scheme=SCHEME, folder=tmp_path / "out")


def test_class_that_the_cohort_does_not_name(cohort, tmp_path):
    with pytest.raises(LabelError, match="no class 'spleen' in labels; there are cyst, kidney, liver; choose"):
        compose(cohort, scheme=LabelScheme(("cyst",), ("spleen",)), folder=tmp_path / "out")
    with pytest.raises(LabelError, match="no label is called 'tumour'; it has cyst, kidney, liver; choose targets"):
        compose(cohort, scheme=LabelScheme(("tumour",)), folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", [SCHEME, LabelScheme(("liver",), ("cyst",))])
def test_class_that_no_case_contains(cohort, tmp_path, scheme):
    for index in (0, 1):
        relabel(cohort, np.resize(np.array([0, 5, 9], np.uint8), GRID.shape), index)
    with pytest.raises(LabelError, match="none of 2 cases contains 'cyst'; leave it out, or add cases"):
        compose(cohort, scheme=scheme, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "cohort.json").exists()


def test_class_of_one_case_is_enough(cohort, tmp_path):
    relabel(cohort, np.array(0, np.uint8), index=0)
    assert compose(cohort, scheme=SCHEME, folder=tmp_path / "out").scheme == SCHEME


def test_running_again_gives_the_same_bytes(cohort, tmp_path):
    compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    first = contents(tmp_path / "out")
    compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert contents(tmp_path / "out") == first


def test_interrupted_run_leaves_no_manifest_and_can_be_repeated(cohort, tmp_path, monkeypatch):
    compose(cohort, scheme=SCHEME, folder=tmp_path / "whole")

    def interrupt(volume, path):
        if path.stem.startswith("b"):
            raise KeyboardInterrupt
        write_volume(volume, path)

    with monkeypatch.context() as patch:
        patch.setattr("backsplit.composition.fine_labels.write_volume", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert list(contents(tmp_path / "out")) == [
        (tmp_path / "out" / "labels" / "a.nii.gz").relative_to(tmp_path / "out")
    ]
    compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_manifest_of_another_scheme_does_not_outlive_its_labels(cohort, tmp_path):
    compose(cohort, scheme=LabelScheme(("cyst",), ("kidney", "liver")), folder=tmp_path / "out")
    relabel(cohort, np.array(7, np.uint8), index=1)
    with pytest.raises(LabelError, match="b c"):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "cohort.json").exists()


def test_manifest_of_the_source_may_lie_in_the_folder(cohort, tmp_path):
    cases.write(cohort, tmp_path / "out")
    relabel(cohort, np.array(7, np.uint8), index=1)
    with pytest.raises(LabelError, match="b c"):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert cases.read(tmp_path / "out") == cohort


def test_composing_again_changes_nothing(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    before = contents(tmp_path / "out")
    assert compose(composed, scheme=SCHEME, folder=tmp_path / "out") == composed
    assert contents(tmp_path / "out") == before


def test_inputs_are_never_overwritten(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(CohortError, match="would overwrite label maps of study; choose another folder"):
        compose(composed, scheme=LabelScheme(("cyst",)), folder=tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_composed_cohort_may_be_composed_further(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    binary = compose(composed, scheme=LabelScheme(("cyst",)), folder=tmp_path / "binary")
    np.testing.assert_array_equal(fine_labels(binary.cases[0]).voxels, values_of(0) == 2)
