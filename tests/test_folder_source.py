"""Masks from a folder: both layouts, tables of names, and every way in which a folder can mislead."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from totalsegmentator.nifti_ext_header import add_label_map_to_nifti

from backsplit.errors import GeometryError, LabelError, SourceError, VolumeError
from backsplit.labels import LabelScheme, overlay
from backsplit.sources import MaskSource
from backsplit.sources.folder import FolderSource, open_folder
from backsplit.sources.label_tables import header_table, pick, read_table
from backsplit.sources.own_labels import open_labels
from backsplit.volume import read_labels
from maskfolders import GRID, block, case_of, cohort_of, write

NAMES = ("liver", "aorta", "spleen", "colon")
TABLE = {"liver": 5, "aorta": 52, "spleen": 1, "colon": 20}
XML = b'<?xml version="1.0" encoding="UTF-8"?>%b<CaretExtension><LabelTable>%b</LabelTable></CaretExtension>'


def opened(root: Path, *names: str, structures=None, table=None, force=False) -> FolderSource:
    return open_folder(root, case_names=names or ("one",), structures=structures, table=table, force=force)


def write_json(content, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_with_header(voxels, path: Path, extension: bytes) -> Path:
    image = nibabel.load(write(voxels, path))
    image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, extension))
    nibabel.save(image, path)
    return path


# Laws


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.lists(st.integers(1, 65535), min_size=4, max_size=4, unique=True),
    wanted=st.none() | st.permutations(NAMES).flatmap(lambda names: st.integers(1, 4).map(lambda n: names[:n])),
)
def test_both_layouts_of_one_content_give_the_same(tmp_path_factory, seed, values, wanted):
    folder = tmp_path_factory.mktemp("case")
    case, table = case_of(folder), dict(zip(NAMES, values, strict=True))
    labels = np.random.default_rng(seed).choice([0, *values], GRID.shape)
    write(labels, folder / "many" / "one.nii.gz")
    for name, value in table.items():
        write((labels == value).astype(np.uint8), folder / "single" / "one" / f"{name}.nii.gz")
    single = opened(folder / "single", structures=wanted)
    many = opened(folder / "many", structures=wanted, table=write_json(table, folder / "labels.json"))
    assert single.structures == many.structures == tuple(wanted or sorted(NAMES))
    first, second = single.segment(case, folder), many.segment(case, folder)
    np.testing.assert_array_equal(first.volume.voxels, second.volume.voxels)
    assert (first.volume.grid, first.annotated, first.details) == (
        second.volume.grid,
        second.annotated,
        second.details,
    )
    for index, name in enumerate(single.structures, start=1):
        np.testing.assert_array_equal(first.volume.voxels == index, labels == table[name])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(NAMES))
def test_overlaps_go_to_the_first_in_order_as_in_an_overlay(tmp_path_factory, seed, order):
    folder, rng = tmp_path_factory.mktemp("case"), np.random.default_rng(seed)
    masks = {name: rng.random(GRID.shape) < 0.4 for name in order}
    for name, mask in masks.items():
        write(mask * rng.choice([1, 255]).astype(np.uint8), folder / "masks" / "one" / f"{name}.nii.gz")
    expected = overlay(LabelScheme((order[0],), tuple(order[1:])), masks)
    found = opened(folder / "masks", structures=order).segment(case_of(folder), folder)
    np.testing.assert_array_equal(found.volume.voxels, expected.labels)
    assert found.details == {"overlaps": {f"{a}>{b}": count for (a, b), count in expected.conflicts.items()}}


@given(seed=st.integers(0, 2**32 - 1))
def test_picked_values_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    table = tuple(zip(sorted(rng.choice(np.arange(1, 300), 4, replace=False).tolist()), NAMES, strict=True))
    labels = rng.choice([0, *dict(table)], (3, 4, 5))
    wanted = rng.permutation(NAMES)[:2].tolist()
    expected = [
        wanted.index(dict(table)[v]) + 1 if dict(table).get(v) in wanted else 0 for v in labels.ravel().tolist()
    ]
    np.testing.assert_array_equal(pick(labels, table, wanted, origin="x").ravel(), expected)


# One file per structure


def test_a_source_keeps_to_the_protocol_and_pickles(tmp_path):
    write(block(), tmp_path / "masks" / "one" / "liver.nii.gz")
    source = opened(tmp_path / "masks")
    assert isinstance(source, MaskSource)
    assert pickle.loads(pickle.dumps(source)) == source
    assert str(tmp_path) not in json.dumps(source.how)
    assert source.how["licence"] == "not stated"


def test_an_empty_mask_is_annotated_and_a_missing_one_is_not(tmp_path):
    masks = tmp_path / "masks"
    write(block(), masks / "one" / "liver.nii.gz")
    write(block(0), masks / "one" / "spleen.nii.gz")
    write(block(), masks / "two" / "colon.nii.gz")
    source = opened(masks, "one", "two")
    assert source.structures == ("colon", "liver", "spleen")
    found = source.segment(case_of(tmp_path), tmp_path)
    assert found.annotated == ("liver", "spleen")
    assert np.unique(found.volume.voxels).tolist() == [0, 2]
    assert source.segment(case_of(tmp_path, "two"), tmp_path).annotated == ("colon",)


def test_a_case_without_a_file_says_so_and_the_others_go_on(tmp_path):
    masks = tmp_path / "masks"
    write(block(), masks / "one" / "liver.nii.gz")
    (masks / "two").mkdir()
    source = opened(masks, "one", "two", "three")
    for name in ("two", "three"):
        with pytest.raises(SourceError, match=rf"^{name}: no masks in .*expected {name}/<structure>.nii.gz"):
            source.segment(case_of(tmp_path, name), tmp_path)
        assert source.inputs(case_of(tmp_path, name)) == case_of(tmp_path, name).images


def test_only_volumes_are_structures_and_a_subfolder_of_segmentations_counts_alone(tmp_path):
    folder = tmp_path / "masks" / "one"
    write(block(), folder / "segmentations" / "liver.nrrd")
    write(block(), folder / "segmentations" / "background.nii.gz")
    for name in ("ct", "combined_labels"):
        write(block(7), folder / f"{name}.nii.gz")
    (folder / "segmentations" / "statistics.json").write_text("{}")
    (folder / "segmentations" / ".hidden.nii.gz").write_text("")
    source = opened(tmp_path / "masks")
    assert source.structures == ("liver",)
    assert [path.name for path in source.inputs(case_of(tmp_path))] == ["one.nii.gz", "liver.nrrd"]


def test_lesions_are_left_out_unless_forced(tmp_path):
    for name in ("liver", "kidney_cyst_left"):
        write(block(), tmp_path / "one" / f"{name}.nii.gz")
    assert opened(tmp_path).structures == ("liver",)
    assert opened(tmp_path, force=True).structures == ("kidney_cyst_left", "liver")
    with pytest.raises(SourceError, match="'kidney_cyst_left' is a lesion"):
        opened(tmp_path, structures=["kidney_cyst_left"])
    with pytest.raises(SourceError, match="'liwer' is not among 2 of this source; near it: liver"):
        opened(tmp_path, structures=["liwer"])


def test_probabilities_and_label_maps_are_no_masks(tmp_path):
    case, folder = case_of(tmp_path), tmp_path / "masks" / "one"
    write(np.where(block(), np.float32(0.5), 0), folder / "liver.nii.gz")
    with pytest.raises(LabelError, match=r"liver.nii.gz: 27 voxels are not whole numbers, such as 0.5"):
        opened(tmp_path / "masks").segment(case, tmp_path)
    write(block(2) + block(1, start=4, stop=5), folder / "liver.nii.gz")
    with pytest.raises(LabelError, match=r"one: liver.nii.gz has values from 1 to 2 besides 0.*name the structures"):
        opened(tmp_path / "masks").segment(case, tmp_path)
    write(block().astype(np.float32), folder / "liver.nii.gz")
    np.testing.assert_array_equal(opened(tmp_path / "masks").segment(case, tmp_path).volume.voxels, block())


def test_a_damaged_file_is_named(tmp_path):
    path = write(block(), tmp_path / "masks" / "one" / "liver.nii.gz")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(VolumeError, match=r"liver.nii.gz: damaged or cut short"):
        opened(tmp_path / "masks").segment(case_of(tmp_path), tmp_path)


@pytest.mark.parametrize("image_grid", [GRID, replace(GRID, origin_mm=(0.0, 0.0, 0.0))])
def test_the_mask_on_another_grid_is_named_whatever_comes_first(tmp_path, image_grid):
    other, folder = replace(GRID, shape=(8, 9, 10)), tmp_path / "masks" / "one"
    write(block(grid=other), folder / "aorta.nii.gz", other)
    for name in ("colon", "liver"):
        write(block(), folder / f"{name}.nii.gz")
    with pytest.raises(
        GeometryError, match=r"one: aorta.nii.gz .* colon.nii.gz and 1 more: shape 8x9x10 against 7x6x5"
    ):
        opened(tmp_path / "masks").segment(case_of(tmp_path, grid=image_grid), tmp_path)
    assert opened(tmp_path / "masks", structures=["liver"]).segment(case_of(tmp_path), tmp_path).annotated == ("liver",)


def test_of_two_grids_the_images_is_right(tmp_path):
    other, folder = replace(GRID, shape=(8, 9, 10)), tmp_path / "masks" / "one"
    for name in ("aorta", "colon"):
        write(block(grid=other), folder / f"{name}.nii.gz", other)
    write(block(), folder / "liver.nii.gz")
    with pytest.raises(GeometryError, match=r"aorta.nii.gz, colon.nii.gz .* grid than liver.nii.gz and 0 more"):
        opened(tmp_path / "masks").segment(case_of(tmp_path), tmp_path)


def test_what_is_there_twice_is_refused(tmp_path):
    write(block(), tmp_path / "one" / "liver.nii.gz")
    write(block(), tmp_path / "one" / "liver.nrrd")
    with pytest.raises(SourceError, match=r"one: liver.nii.gz and liver.nrrd are the same structure"):
        opened(tmp_path)
    write(block(), tmp_path / "one.nii")
    with pytest.raises(SourceError, match=r"one: .* has one and one.nii; expected one of them"):
        opened(tmp_path)
    write(block(), tmp_path / "two.nii")
    (tmp_path / "one.nii").unlink()
    (tmp_path / "one" / "liver.nrrd").unlink()
    with pytest.raises(SourceError, match=r"expected either .* but both are there"):
        opened(tmp_path, "one", "two")


def test_no_folder_no_case_and_a_table_that_names_nothing(tmp_path):
    with pytest.raises(SourceError, match="no such folder of masks"):
        opened(tmp_path / "absent")
    with pytest.raises(SourceError, match="neither for any of 2 cases"):
        opened(tmp_path, "one", "two")
    write(block(), tmp_path / "one" / "liver.nii.gz")
    with pytest.raises(SourceError, match="one file per structure is named by its file; leave the table"):
        opened(tmp_path, table=tmp_path / "labels.json")


@pytest.mark.parametrize("name", ["../secret", "..", ".", "", "one/../../secret", "/etc"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    write(block(), tmp_path / "secret" / "liver.nii.gz")
    write(block(), tmp_path / "secret.nii.gz")
    write(block(), tmp_path / "masks" / "one" / "liver.nii.gz")
    with pytest.raises(SourceError, match="neither for any of 1 cases"):
        opened(tmp_path / "masks", name)


# Label maps with a table


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        {**TABLE, "background": 0},
        {str(value): name for name, value in TABLE.items()},
        {"0": "Clear Label"} | {str(value): name for name, value in TABLE.items()},
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, **TABLE}, "file_ending": ".nii.gz"},
    ],
)
def test_tables_in_all_their_forms(tmp_path, content):
    expected = ((1, "spleen"), (5, "liver"), (20, "colon"), (52, "aorta"))
    assert read_table(write_json(content, tmp_path / "labels.json")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a table such as"),
        ({"liver": 1, "spleen": 1}, "value 1 or name 'spleen' comes twice"),
        ({"1": "liver", "2": "liver"}, "value 2 or name 'liver' comes twice"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, r"label 'whole' has the value \[1, 2\]"),
        ({"liver": -1}, "'liver' has the value -1"),
        ({"liver": 1.5}, "'liver' has the value 1.5"),
        ({"liver": True}, "'liver' has the value True"),
        ({"liver": 65536}, "whole number to 65535"),
        ({"background": 0}, "expected names for values above 0"),
        ({"background": 3}, "none empty or 'background'"),
        ({"3": ""}, "none empty or 'background'"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, content, message):
    with pytest.raises(LabelError, match=message):
        read_table(write_json(content, tmp_path / "labels.json"))


def test_a_table_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(SourceError, match="no table of labels"):
        read_table(tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text("liver: 5")
    with pytest.raises(SourceError, match="no table of labels"):
        read_table(tmp_path / "labels.json")


def test_values_without_a_name_are_listed_with_the_case(tmp_path):
    write(block(5) + block(77, start=4, stop=5) + block(78, start=0, stop=1), tmp_path / "masks" / "one.nii.gz")
    source = opened(tmp_path / "masks", table=write_json(TABLE, tmp_path / "labels.json"))
    with pytest.raises(LabelError, match=r"one: one.nii.gz: 2 label values have no name: 77, 78"):
        source.segment(case_of(tmp_path), tmp_path)
    write(block().astype(np.int16) * -5, tmp_path / "masks" / "one.nii.gz")
    with pytest.raises(LabelError, match=r"1 label values have no name: -5"):
        source.segment(case_of(tmp_path), tmp_path)


def test_a_table_given_wins_over_dataset_json_and_that_over_headers(tmp_path):
    masks = tmp_path / "masks"
    write_with_header(block(1), masks / "one.nii.gz", XML % (b"", b'<Label Key="1">from header</Label>'))
    assert opened(masks).structures == ("from header",)
    write_json({"labels": {"background": 0, "from dataset": 1}}, masks / "dataset.json")
    assert opened(masks).structures == ("from dataset",)
    given_table = write_json({"1": "from table"}, tmp_path / "labels.json")
    source = opened(masks, table=given_table)
    assert source.structures == ("from table",)
    assert source.how != opened(masks).how
    same = opened(masks, table=write_json({"from table": 1}, tmp_path / "other.json"))
    assert source.how == same.how


def test_headers_of_totalsegmentator_name_what_each_case_was_asked_for(tmp_path):
    masks = tmp_path / "masks"
    for name, table in {"one": {5: "liver", 1: "spleen"}, "two": {1: "liver"}}.items():
        image = nibabel.load(write(block(1), masks / f"{name}.nii.gz"))
        image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine)
        nibabel.save(add_label_map_to_nifti(image, table), masks / f"{name}.nii.gz")
        assert dict(header_table(masks / f"{name}.nii.gz") or ()) == table
    write(block(1), masks / "three.nii.gz")
    source = opened(masks, "one", "two", "three")
    assert source.structures == ("liver", "spleen")
    first, second = (source.segment(case_of(tmp_path, name), tmp_path) for name in ("one", "two"))
    assert (first.annotated, second.annotated) == (("liver", "spleen"), ("liver",))
    np.testing.assert_array_equal(first.volume.voxels, block(2))
    np.testing.assert_array_equal(second.volume.voxels, block(1))
    with pytest.raises(SourceError, match=r"three: nothing names the values of three.nii.gz; give a table"):
        source.segment(case_of(tmp_path, "three"), tmp_path)
    with pytest.raises(SourceError, match="nothing names the values of its label maps; give a table"):
        opened(masks, "three")


@pytest.mark.parametrize(
    ("before", "inside", "message"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "liver">]>', b'<Label Key="1">&a;</Label>', "has a document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/hostname">', b'<Label Key="1">a</Label>', "has a document type"),
        (b"", b'<Label Key="1">&a;</Label>', "is damaged"),
        (b"", b'<Label Key="1">liver', "is damaged"),
    ],
)
def test_xml_of_strangers_expands_nothing(tmp_path, before, inside, message):
    path = write_with_header(block(1), tmp_path / "one.nii.gz", XML % (before, inside))
    with pytest.raises(SourceError, match=message):
        header_table(path)


def test_a_header_that_cannot_be_read_and_files_without_one(tmp_path):
    (tmp_path / "one.nii.gz").write_bytes(b"not a gzip file")
    with pytest.raises(SourceError, match="its header cannot be read"):
        header_table(tmp_path / "one.nii.gz")
    assert header_table(write(block(), tmp_path / "two.nrrd")) is None
    comment = write_with_header(block(), tmp_path / "three.nii.gz", b"made on Monday")
    assert header_table(comment) is None


# Own labels


def test_own_labels_are_masks_like_any_other(tmp_path):
    labels = block(3) + block(9, start=4, stop=5) + block(4, start=0, stop=1)
    names = ((3, "liver"), (4, "liver tumour"), (9, "aorta"))
    cohort = cohort_of(case_of(tmp_path, labels=labels), label_names=names)
    source = open_labels(cohort, None, force=False)
    assert isinstance(pickle.loads(pickle.dumps(source)), MaskSource)
    assert source.structures == ("liver", "aorta")
    found = source.segment(cohort.cases[0], tmp_path)
    np.testing.assert_array_equal(found.volume.voxels, (labels == 3) + 2 * (labels == 9))
    assert found.annotated == ("liver", "aorta")
    partial = replace(cohort.cases[0], annotated=("aorta",))
    assert source.segment(partial, tmp_path).annotated == ("aorta",)
    assert open_labels(cohort, ["liver tumour"], force=True).structures == ("liver tumour",)
    with pytest.raises(SourceError, match="'liver tumour' is a lesion"):
        open_labels(cohort, ["liver tumour"], force=False)


def test_own_labels_without_a_map_an_unnamed_value_or_only_lesions(tmp_path):
    cohort = cohort_of(case_of(tmp_path, labels=block(7)), case_of(tmp_path, "two"), label_names=((3, "liver"),))
    source = open_labels(cohort, None, force=False)
    with pytest.raises(LabelError, match=r"one: one.nii.gz: 1 label values have no name: 7"):
        source.segment(cohort.cases[0], tmp_path)
    with pytest.raises(SourceError, match="two: has no label map"):
        source.segment(cohort.cases[1], tmp_path)
    with pytest.raises(SourceError, match="hold cyst, all of them lesions or targets"):
        open_labels(replace(cohort, label_names=((0, "background"), (1, "cyst"))), None, force=False)


def test_targets_of_a_composed_cohort_are_no_auxiliaries(tmp_path):
    scheme = LabelScheme(("abnormality",), ("liver",))
    cohort = cohort_of(case_of(tmp_path, labels=block(2)), label_names=((1, "abnormality"), (2, "liver")))
    cohort = replace(cohort, scheme=scheme)
    assert open_labels(cohort, None, force=False).structures == ("liver",)
    assert open_labels(cohort, None, force=True).structures == ("abnormality", "liver")
    with pytest.raises(SourceError, match="'abnormality' is a target"):
        open_labels(cohort, ["abnormality"], force=False)


def test_real_header_and_real_table_agree(real_data):
    folder = real_data / "totalsegmentator"
    assert header_table(folder / "example_seg_fast.nii.gz") == read_table(folder / "labels_total.json")
    assert header_table(folder / "example_seg_mr.nii.gz") == read_table(folder / "labels_total_mr.json")
    assert header_table(folder / "example_seg_roi_subset.nii.gz") == ((5, "liver"), (90, "brain"))
    assert set(np.unique(read_labels(folder / "example_seg_roi_subset.nii.gz").voxels).tolist()) == {0, 5}
