"""Fine labels from masks: who gives a class, who wins a voxel, what a case without masks means."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from backsplit import cases
from backsplit.cases import Case, CaseMasks, Cohort, MaskSet
from backsplit.composition import compose
from backsplit.errors import GeometryError, LabelError
from backsplit.labels import LabelScheme
from backsplit.volume import Grid, Volume, read_labels, write_volume

GRID = Grid((2, 3, 4), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
NAMES = ((0, "background"), (1, "kidney"), (2, "cyst"))
ORGANS, TISSUES = MaskSet("model", ("spleen", "kidney", "liver")), MaskSet("tissue", ("fat", "bone"))
SCHEME = LabelScheme(("cyst",), ("liver", "spleen"))


def draw(num_values, seed):
    return np.random.default_rng(seed).integers(0, num_values, GRID.shape).astype(np.uint8)


@pytest.fixture
def cohort(tmp_path):
    """Three cases; the last has no masks of the model, the second was not looked through for livers."""
    found = []
    for seed, name in enumerate("abc"):
        files = {part: tmp_path / "in" / part / f"{name}.nii.gz" for part in ("labels", "model", "tissue")}
        for number, (part, count) in enumerate({"labels": 3, "model": 4, "tissue": 3}.items()):
            write_volume(Volume(draw(count, 10 * seed + number), GRID), files[part])
        masks = [CaseMasks("model", files["model"], ("spleen", "kidney") if name == "b" else None)] * (name != "c")
        case = Case(name, (tmp_path / f"{name}_0000.nii.gz",), files["labels"], name)
        found.append(replace(case, masks=(*masks, CaseMasks("tissue", files["tissue"]))))
    return Cohort("study", ("CT",), NAMES, tuple(found), masks=(ORGANS, TISSUES))


def test_manifest_keeps_masks(cohort, tmp_path):
    cases.write(cohort, tmp_path / "manifest")
    assert cases.read(tmp_path / "manifest") == cohort


def test_fine_labels_voxel_by_voxel(cohort, tmp_path):
    composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    for case, done in zip(cohort.cases, composed.cases, strict=True):
        own = read_labels(case.labels).voxels
        model = read_labels(case.masks[0].path).voxels if case.masks_of("model") else np.zeros_like(own)
        fine = read_labels(done.labels).voxels
        for voxel in np.ndindex(own.shape):
            expected = {1: 3, 3: 2}.get(int(model[voxel]), 0)  # spleen, liver; its kidney is not asked for
            assert fine[voxel] == (1 if own[voxel] == 2 else expected)


def test_a_case_without_masks_is_not_annotated(cohort, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        composed = compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    assert [case.annotated for case in composed.cases] == [None, ("spleen",), ()]
    assert "2 of 3 cases lack masks of some auxiliary (b, c); it counts as unknown there" in caplog.text


def test_conflicts_are_on_record(cohort, tmp_path):
    compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "composition.json").read_text())["model"]
    contested = {"cyst>liver": 3, "cyst>spleen": 1}
    counted = {
        key: sum(
            int(((read_labels(c.labels).voxels == 2) & (read_labels(c.masks[0].path).voxels == value)).sum())
            for c in cohort.cases[:2]
        )
        for key, value in contested.items()
    }
    assert record == {"origins": {"liver": "model", "spleen": "model"}, "conflicts": counted}


def test_one_map_per_way(cohort, tmp_path):
    scheme = LabelScheme(("cyst",), ("kidney",))
    composed = compose(cohort, scheme=scheme, folder=tmp_path / "out", sources=["model", "labels"])
    assert cases.read(tmp_path / "out") == composed
    assert composed.masks == (MaskSet("model", ("cyst", "kidney")), MaskSet("labels", ("cyst", "kidney")))
    case = composed.cases[0]
    assert case.labels == case.masks_of("model").path
    own = read_labels(cohort.cases[0].labels).voxels
    np.testing.assert_array_equal(read_labels(case.masks_of("labels").path).voxels, np.array([0, 2, 1])[own])
    assert composed.cases[2].masks_of("model").annotated == ("cyst",)
    assert composed.cases[2].masks_of("labels").annotated is None


def test_joined_sources_give_a_class_in_their_order(cohort, tmp_path):
    scheme = LabelScheme(("cyst",), ("kidney", "fat", "spleen"))
    compose(cohort, scheme=scheme, folder=tmp_path / "out", sources=["labels+tissue+model"])
    record = json.loads((tmp_path / "out" / "composition.json").read_text())
    origins = record["labels+tissue+model"]["origins"]
    assert origins == {"kidney": "labels", "fat": "tissue", "spleen": "model"}


@pytest.mark.parametrize(
    ("auxiliary", "sources", "message"),
    [
        ("kidney", None, "class 'kidney' is in labels and in model; say which with --sources"),
        ("lung", None, "no class 'lung' in labels, model, tissue; there are bone, cyst, fat"),
        ("fat", ["model"], "no class 'fat' in model; there are kidney, liver, spleen"),
        ("fat", ["clicks"], "no masks called clicks; it has labels, model, tissue"),
        ("fat", ["tissue", "tissue"], "name one twice"),
    ],
)
def test_unclear_origins_are_refused(cohort, tmp_path, auxiliary, sources, message):
    with pytest.raises(LabelError, match=message):
        compose(cohort, scheme=LabelScheme(("cyst",), (auxiliary,)), folder=tmp_path / "out", sources=sources)
    assert not (tmp_path / "out").exists()


def test_lesions_of_a_model_are_no_auxiliaries(cohort, tmp_path):
    lesions = replace(cohort, masks=(MaskSet("model", ("spleen", "kidney_cyst_left", "liver")), TISSUES))
    lesions = replace(lesions, cases=tuple(replace(case, masks=case.masks[-1:]) for case in lesions.cases))
    scheme = LabelScheme(("cyst",), ("kidney_cyst_left",))
    with pytest.raises(LabelError, match="'kidney_cyst_left' of model is a lesion by its name"):
        compose(lesions, scheme=scheme, folder=tmp_path / "out")
    with pytest.raises(LabelError, match="none of 3 cases contains 'kidney_cyst_left'"):  # insisted upon
        compose(lesions, scheme=scheme, folder=tmp_path / "out", force=True)


def test_masks_may_be_empty_where_that_is_allowed(cohort, tmp_path, caplog):
    bare = replace(cohort, masks=(MaskSet("model", ("spleen", "heart", "liver")), TISSUES))
    bare = replace(bare, cases=tuple(replace(case, masks=case.masks[-1:]) for case in bare.cases))
    scheme = LabelScheme(("cyst",), ("heart",))
    with pytest.raises(LabelError, match="none of 3 cases contains 'heart'"):
        compose(bare, scheme=scheme, folder=tmp_path / "out")
    assert compose(bare, scheme=scheme, folder=tmp_path / "out", allow_empty=True).scheme == scheme
    assert "no case contains heart" in caplog.text
    named = replace(bare, label_names=(*bare.label_names, (99, "nothing")))
    own = LabelScheme(("cyst",), ("nothing",))
    with pytest.raises(LabelError, match="contains 'nothing'"):
        compose(named, scheme=own, folder=tmp_path / "other", allow_empty=True)


def test_lesions_of_the_labels_may_be_auxiliaries(cohort, tmp_path):
    compose(cohort, scheme=LabelScheme(("kidney",), ("cyst",)), folder=tmp_path / "out", sources=["labels"])


def test_masks_on_another_grid_are_refused(cohort, tmp_path):
    path = cohort.cases[0].masks_of("model").path
    write_volume(Volume(draw(4, 0), replace(GRID, origin_mm=(0.0, 0.0, 0.0))), path)
    with pytest.raises(GeometryError, match="a: labels and masks of model differ: origin"):
        compose(cohort, scheme=SCHEME, folder=tmp_path / "out")
