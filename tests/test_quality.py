"""Numbers about masks, held against slow twins, and the tables made of them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from backsplit.cases import CaseMasks, MaskSet
from backsplit.errors import CohortError, GeometryError, SourceError
from backsplit.evaluation import count_overlap, dice
from backsplit.sources.check import check, summarise_check
from backsplit.sources.quality import lesion_table, measure, quality_table
from backsplit.sources.reference import reference_of
from backsplit.volume import Grid, Volume
from maskfolders import GRID, UPRIGHT, block, case_of, cohort_of, write

NAMES = ("liver", "aorta", "colon")
CLASSES = ((0, "background"), (3, "kidney"), (7, "cyst"))
EVERYWHERE = np.ones((3, 3, 3), bool)
seeds = st.integers(0, 2**32 - 1)


def grid_of(shape) -> Grid:
    return Grid(tuple(map(int, shape)), (1.0, 2.0, 2.5), (0.0, 0.0, 0.0), UPRIGHT)


def slow_measure(labels, own, voxel_ml):
    """The same by one mask of the whole image at a time, with SciPy's own labelling and filling."""
    structures, classes = {}, {}
    for value, name in enumerate(NAMES, start=1):
        mask = labels == value
        pieces, num_pieces = ndimage.label(mask, EVERYWHERE)
        sizes = [int((pieces == piece).sum()) for piece in range(1, num_pieces + 1)]
        faces = [mask.take(side, axis).any() for axis, side in product(range(3), (0, -1))]
        structures[name] = {
            "voxels": int(mask.sum()),
            "volume_ml": int(mask.sum()) * voxel_ml,
            "components": num_pieces,
            "largest_share": max(sizes) / sum(sizes) if sizes else None,
            "touches_border": any(faces),
        }
    for value, name in CLASSES[1:]:
        lesion = own == value
        if lesion.any():
            classes[name] = {"voxels": int(lesion.sum()), "structures": slow_neighbours(labels, lesion)}
    return {"structures": structures, "classes": classes}


def slow_neighbours(labels, lesion):
    shell = ndimage.binary_dilation(lesion, EVERYWHERE) & ~lesion
    found = {}
    for value, name in enumerate(NAMES, start=1):
        mask = labels == value
        if (mask & (lesion | shell)).any():
            found[name] = {
                "overlap_voxels": int((mask & lesion).sum()),
                "touching_voxels": int((mask & shell).sum()),
                "share_outside_filled": float((lesion & ~slow_filled(mask)).sum() / lesion.sum()),
            }
    return found


def slow_filled(mask):
    """Filled in space and plane by plane along each axis."""
    filled = ndimage.binary_fill_holes(mask)
    for axis in range(3):
        for index in range(mask.shape[axis]):
            plane = (slice(None),) * axis + (index,)
            filled[plane] |= ndimage.binary_fill_holes(mask[plane])
    return filled


@settings(max_examples=40)
@given(seeds, st.sampled_from([0.0, 0.35, 0.7]), st.booleans())
def test_numbers_are_those_of_the_slow_twin(seed, empty_share, is_solid):
    """Noise makes fragments; blobs of one structure around lesions make holes."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 10, 3)
    labels = rng.choice(4, shape, p=[empty_share, *[(1 - empty_share) * share for share in (0.8, 0.1, 0.1)]])
    own = rng.choice([0, 3, 7, 9], shape, p=[0.6, 0.2, 0.1, 0.1])
    if is_solid:
        own[tuple(slice(length // 3, length // 2 + 1) for length in shape)] = 7
    labels = labels.astype(np.uint8)
    assert_same(measure(Volume(labels, grid_of(shape)), NAMES, own, CLASSES), slow_measure(labels, own, 0.005))


def assert_same(found, expected):
    pd.testing.assert_frame_equal(pd.DataFrame(found["structures"]), pd.DataFrame(expected["structures"]))
    assert list(found["classes"]) == list(expected["classes"])
    for name, numbers in expected["classes"].items():
        assert found["classes"][name]["voxels"] == numbers["voxels"]
        pd.testing.assert_frame_equal(
            pd.DataFrame(found["classes"][name]["structures"]), pd.DataFrame(numbers["structures"])
        )


@pytest.mark.parametrize("opened", [None, 0, 1, 2])
def test_a_lesion_in_a_hole_of_its_organ_is_inside_once_it_is_filled(opened):
    """The organ leaves out the lesion; a canal along one axis opens the hole in space, not in the planes across it."""
    labels, own = np.zeros((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8], own[3:6, 3:6, 3:6] = 1, 7
    labels[3:6, 3:6, 3:6] = 0
    if opened is not None:
        canal = [slice(4, 5)] * 3
        canal[opened] = slice(6, 8)
        labels[tuple(canal)] = 0
    (found,) = measure(Volume(labels, grid_of(labels.shape)), NAMES, own, CLASSES)["classes"].values()
    assert found["voxels"] == 27
    num_touching = 98 - (opened is not None)
    assert found["structures"] == {
        "liver": {"overlap_voxels": 0, "touching_voxels": num_touching, "share_outside_filled": 0.0}
    }


def test_a_lesion_half_out_of_its_organ():
    labels, own = np.zeros((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
    labels[:5], own[4:6, 3:6, 3:6] = 1, 7
    found = measure(Volume(labels, grid_of(labels.shape)), NAMES, own, CLASSES)["classes"]["cyst"]
    assert found["structures"] == {"liver": {"overlap_voxels": 9, "touching_voxels": 41, "share_outside_filled": 0.5}}


def test_no_label_map_no_classes():
    assert measure(Volume(block(), GRID), NAMES, None, CLASSES)["classes"] == {}


# Tables


def record(voxels: dict[str, int], *, annotated=None, classes=None, **numbers):
    common = {"components": 1, "largest_share": 1.0, "touches_border": False, **numbers}
    shapes = {name: {"voxels": count, "volume_ml": count / 1000, **common} for name, count in voxels.items()}
    shapes = {name: shape | ({} if shape["voxels"] else {"largest_share": None}) for name, shape in shapes.items()}
    return {"annotated": annotated or list(voxels), "quality": {"structures": shapes, "classes": classes or {}}}


def test_flags_of_implausible_masks():
    records = {
        "empty": record({"liver": 0}, components=0),
        "pieces": record({"liver": 1000}, components=4, largest_share=0.89),
        "crumbs": record({"liver": 1000}, components=40, largest_share=0.9),
        "halves": record({"liver": 1000}, components=3, largest_share=0.4),
        "cut": record({"liver": 1000}, touches_border=True),
    }
    table = quality_table(records).set_index("case")
    assert list(table.columns) == [
        *("structure", "voxels", "volume_ml", "components", "largest_share"),
        *("empty", "fragments", "border", "volume"),
    ]
    flagged = {flag: table.index[table[flag]].tolist() for flag in ("empty", "fragments", "border", "volume")}
    assert flagged == {"empty": ["empty"], "fragments": ["pieces"], "border": ["cut"], "volume": []}
    assert np.isnan(table.loc["empty", "largest_share"])


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_unusual_volumes_are_those_far_from_the_median_of_all(voxels):
    records = {f"case {index}": record({"liver": count, "aorta": 7}) for index, count in enumerate(voxels)}
    table = quality_table(records)
    logs = {index: np.log(count / 1000) for index, count in enumerate(voxels) if count}
    median = np.median([*logs.values()]) if logs else 0
    mad = np.median([abs(log - median) for log in logs.values()]) if logs else 0
    expected = [
        len(logs) >= 5 and mad > 0 and index in logs and abs(logs[index] - median) > 3 * 1.4826 * mad
        for index in range(len(voxels))
    ]
    assert table.loc[table["structure"] == "liver", "volume"].tolist() == expected
    assert not table.loc[table["structure"] == "aorta", "volume"].any()


def test_one_volume_in_a_cohort_is_found():
    records = {str(voxels): record({"liver": voxels}) for voxels in (900, 950, 1000, 1050, 1100, 3000, 300)}
    table = quality_table(records)
    assert table.loc[table["volume"], "case"].tolist() == ["3000", "300"]


def test_structures_that_were_not_looked_for_have_no_row():
    table = quality_table({"one": record({"liver": 5, "aorta": 0}, annotated=["liver"])})
    assert table[["case", "structure"]].to_numpy().tolist() == [["one", "liver"]]


def test_no_records_give_empty_tables():
    assert quality_table({}).empty
    assert lesion_table({}).empty


def test_home_is_what_holds_or_touches_most_of_a_lesion():
    numbers = ("overlap_voxels", "touching_voxels", "share_outside_filled")
    found = {
        "in a hole": {"colon": (30, 5, 0.97), "liver": (0, 400, 0.0)},
        "held": {"liver": (900, 10, 0.1), "colon": (0, 300, 1.0)},
        "equal": {"aorta": (5, 5, 0.5), "colon": (0, 10, 1.0)},
        "alone": {},
    }
    classes = {
        label: {"voxels": 1000, "structures": {name: dict(zip(numbers, row, strict=True)) for name, row in at.items()}}
        for label, at in found.items()
    }
    table = lesion_table({"one": record({"liver": 5}, classes=classes)})
    assert table.loc[table["is_home"], ["label", "structure"]].to_numpy().tolist() == [
        *(["in a hole", "liver"], ["held", "liver"], ["equal", "aorta"]),
    ]
    alone = table[table["label"] == "alone"].iloc[0]
    assert (alone["structure"], alone["overlap_voxels"], alone["share_outside_filled"]) == ("", 0, 1.0)
    assert len(table) == 7


# Against a reference


def annotated_cohort(folder, masks, references, *, structures=NAMES, annotated=None, own=None):
    """Cases with mask sets `ours` and `theirs`; None where a case has none."""
    cases = []
    for number, pair in enumerate(zip(masks, references, strict=True)):
        case = case_of(folder, f"case{number}", labels=own)
        sets = [
            CaseMasks(name, write(voxels, folder / name / f"{case.name}.nii.gz"), annotated)
            for name, voxels in zip(("ours", "theirs"), pair, strict=True)
            if voxels is not None
        ]
        cases.append(replace(case, masks=tuple(sets)))
    sets = (MaskSet("ours", structures), MaskSet("theirs", NAMES[::-1]))
    return replace(cohort_of(label_names=((5, "liver"), (9, "cyst"))), cases=tuple(cases), masks=sets)


@settings(max_examples=15)
@given(seeds)
def test_dice_is_that_of_single_masks(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    first, second = (rng.choice(4, (3, *GRID.shape), p=[0.4, 0.3, 0.3, 0.0]).astype(np.uint8) for _ in range(2))
    cohort = annotated_cohort(tmp_path_factory.mktemp("check"), first, second)
    table = check(cohort, "ours", reference_of(cohort, "theirs"))
    assert table[["case", "structure"]].to_numpy().tolist() == [
        [f"case{number}", name] for number in range(3) for name in NAMES
    ]
    for (number, name), row in zip(product(range(3), NAMES), table.itertuples(), strict=True):
        ours, theirs = first[number] == NAMES.index(name) + 1, second[number] == NAMES[::-1].index(name) + 1
        np.testing.assert_equal(row.dice, dice(count_overlap(ours, theirs)))
        assert (row.mask_voxels, row.reference_voxels) == (ours.sum(), theirs.sum())


def test_undefined_dice_says_why_and_is_counted(tmp_path):
    ours = [block(1), block(1, stop=3), None, block(1), block(0)]
    theirs = [block(3), block(3), block(3), None, block(3)]
    cohort = annotated_cohort(tmp_path, ours, theirs, annotated=("liver", "aorta"))
    table = check(cohort, "ours", reference_of(cohort, "theirs"))
    reasons = table.pivot_table(index="case", columns="structure", values="undefined", aggfunc="first")
    assert reasons["liver"].tolist() == ["", "", "not in the masks", "not in the reference", ""]
    assert reasons["aorta"].tolist() == ["both empty", "both empty", *reasons["liver"].tolist()[2:4], "both empty"]
    assert reasons["colon"].tolist() == ["not in the masks"] * 5
    assert table["dice"].isna().tolist() == (table["undefined"] != "").tolist()
    summary = summarise_check(table).set_index("structure")
    dices = [1.0, 2 * 8 / (8 + 27), 0.0]
    assert summary.loc["liver"].to_dict() == pytest.approx(
        {"num_cases": 5, "num_undefined": 2, "mean_dice": np.mean(dices), "sd_dice": np.std(dices, ddof=1)}
    )
    assert summary["num_undefined"].tolist() == [2, 5, 5]
    assert np.isnan(summary.loc["colon", "mean_dice"])


def test_own_labels_are_a_reference(tmp_path):
    own = block(5) + block(9, start=4, stop=5)
    cohort = annotated_cohort(tmp_path, [block(1)], [None], own=own)
    table = check(cohort, "ours", reference_of(cohort, "labels"))
    assert table[["structure", "dice"]].to_numpy().tolist() == [["liver", 1.0]]


def test_masks_without_a_structure_in_common_or_on_another_grid(tmp_path):
    cohort = annotated_cohort(tmp_path, [block(1)], [block(1)], structures=("spleen",))
    with pytest.raises(SourceError, match="no structure in common: spleen against colon, aorta, liver"):
        check(cohort, "ours", reference_of(cohort, "theirs"))
    with pytest.raises(CohortError, match="no masks called 'mine'"):
        check(cohort, "mine", reference_of(cohort, "theirs"))
    cohort = annotated_cohort(tmp_path, [block(1)], [block(1)])
    other = grid_of((4, 4, 4))
    write(block(grid=other), tmp_path / "ours" / "case0.nii.gz", other)
    with pytest.raises(
        GeometryError, match=r"case0: reference 'theirs' and masks 'ours' are on different grids: shape"
    ):
        check(cohort, "ours", reference_of(cohort, "theirs"))
