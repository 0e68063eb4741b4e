"""What every converter gets: faults case by case, resuming, the table, official folds, nothing half-written."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backsplit import cases
from backsplit.cases import DroppedCase
from backsplit.cli import main
from backsplit.datasets import conversion
from backsplit.datasets.download import Described, Listing
from backsplit.datasets.nnunet import open_raw
from backsplit.errors import CohortError, VolumeError
from backsplit.labels import count_labels
from backsplit.volume import Grid, Volume, write_volume

GRID = Grid((4, 3, 2), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "cyst": 1, "kidney": 2},
    "file_ending": ".nii.gz",
}


def labels_of(number):
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[0], voxels[1, 0, 0] = 2, number % 2
    return voxels


@pytest.fixture
def raw(tmp_path):
    """A raw data set of four cases."""
    source = tmp_path / "raw"
    source.mkdir()
    (source / "dataset.json").write_text(json.dumps(DESCRIPTION))
    for number in range(4):
        write_volume(Volume(np.ones(GRID.shape, np.int16), GRID), source / "imagesTr" / f"case{number}_0000.nii.gz")
        write_volume(Volume(labels_of(number), GRID), source / "labelsTr" / f"case{number}.nii.gz")
    return source


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def rows_of(folder):
    with (folder / conversion.TABLE_NAME).open() as handle:
        return list(csv.DictReader(handle))


def test_table_and_records_say_what_is_in_each_case(raw, tmp_path):
    done = conversion.convert(open_raw(raw), tmp_path / "out")
    assert [row["case"] for row in rows_of(tmp_path / "out")] == ["case0", "case1", "case2", "case3"]
    first, second = rows_of(tmp_path / "out")[:2]
    assert (first["shape"], first["spacing_mm"], first["cyst_ml"], first["kidney_ml"]) == (
        *("4x3x2", "1x1x5", "0", "0.03"),
    )
    assert second["cyst_ml"] == "0.005"
    summary = {row["class"]: row for row in conversion.summarise(done)}
    assert summary["cyst"]["num_present"] == 2
    assert summary["kidney"]["voxels"] == 24
    assert cases.read(tmp_path / "out") == done.cohort


def test_a_second_run_does_nothing_again(raw, tmp_path, caplog):
    conversion.convert(open_raw(raw), tmp_path / "out")
    before = files_in(tmp_path / "out" / "records")
    conversion.convert(open_raw(raw), tmp_path / "out")
    assert files_in(tmp_path / "out" / "records") == before
    write_volume(Volume(labels_of(0) * 0 + 1, GRID), raw / "labelsTr" / "case0.nii.gz")
    conversion.convert(open_raw(raw), tmp_path / "out")
    after = files_in(tmp_path / "out" / "records")
    assert [path.stem for path in before if after[path] != before[path]] == ["case0"]


def test_other_options_convert_again(raw, tmp_path):
    conversion.convert(open_raw(raw), tmp_path / "out")
    before = files_in(tmp_path / "out" / "records")
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "labels": {**description["labels"], "tumor": 3}}))
    conversion.convert(open_raw(raw), tmp_path / "out")
    after = files_in(tmp_path / "out" / "records")
    assert all(after[path] != before[path] for path in before)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_fault_costs_one_case_and_the_manifest(raw, tmp_path, num_processes):
    whole = (raw / "labelsTr" / "case1.nii.gz").read_bytes()
    (raw / "labelsTr" / "case1.nii.gz").write_bytes(whole[:-12])
    (raw / "imagesTr" / "case2_0000.nii.gz").unlink()
    told = r"2 of 4 cases cannot be used.* case1: .*cut short.*; case2: no image"
    with pytest.raises(CohortError, match=told) as raised:
        conversion.convert(open_raw(raw), tmp_path / "out", num_processes=num_processes)
    assert "\n" not in str(raised.value)
    assert sorted(path.stem for path in (tmp_path / "out" / "records").iterdir()) == ["case0", "case3"]
    assert not (tmp_path / "out" / cases.MANIFEST_NAME).exists()
    (raw / "labelsTr" / "case1.nii.gz").write_bytes(whole)
    done = conversion.convert(open_raw(raw), tmp_path / "out", allow_drops=True)
    assert [case.name for case in done.cohort.cases] == ["case0", "case1", "case3"]
    (dropped,) = cases.read(tmp_path / "out").dropped
    assert dropped.name == "case2"
    assert dropped.reason.startswith("no image of channel CT")


def test_label_value_without_a_name(raw, tmp_path):
    write_volume(Volume(labels_of(0) + 7, GRID), raw / "labelsTr" / "case0.nii.gz")
    with pytest.raises(CohortError, match=r"case0: label values \[7, 9\] have no name"):
        conversion.convert(open_raw(raw), tmp_path / "out")


def test_nothing_is_left(raw, tmp_path):
    for path in (raw / "imagesTr").iterdir():
        path.unlink()
    with pytest.raises(CohortError, match="4 of 4 cases cannot be used"):
        conversion.convert(open_raw(raw), tmp_path / "out", allow_drops=True)


@dataclass(frozen=True)
class Made:
    """A case without files of its own."""

    name: str
    files: tuple = ()


@dataclass(frozen=True)
class MadeDownload:
    """A download whose volumes have to be written."""

    broken: str = ""
    name: str = "made"
    channels: tuple[str, ...] = ("CT", "PET")
    label_names: tuple[tuple[int, str], ...] = ((0, "background"), (1, "cyst"), (2, "kidney"))
    ignore: int | None = None

    @property
    def how(self):
        return {"data set": "made"}

    def find(self):
        return Listing([Made("a"), Made("b")], [DroppedCase("c", "has no scan")])

    def describe(self, found):
        if found.name == self.broken:
            raise VolumeError(f"{found.name}: is broken")
        image = Volume(np.full(GRID.shape, 7, np.int16), GRID)
        return Described((image, image), Volume(labels_of(1), GRID), "patient", ("cyst",), notes=("two slices mended",))

    def splits(self, names, /):
        return [{"train": [names[0]], "val": [names[1]]}]


def test_volumes_are_written_and_described(tmp_path):
    cohort = conversion.convert(MadeDownload(), tmp_path, allow_drops=True).cohort
    assert cohort == cases.read(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in cohort.case("a").files] == [
        *("images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz"),
    ]
    assert cohort.case("a").annotated == ("cyst",)
    assert cohort.dropped == (DroppedCase("c", "has no scan"),)
    assert cohort.splits == tmp_path / "splits_final.json"
    assert json.loads(cohort.splits.read_text()) == [{"train": ["a"], "val": ["b"]}]
    row = rows_of(tmp_path)[0]
    assert (row["kidney_ml"], row["notes"]) == ("", "two slices mended")


def test_a_lost_volume_is_made_again(tmp_path):
    conversion.convert(MadeDownload(), tmp_path, allow_drops=True)
    (tmp_path / "labels" / "b.nii.gz").unlink()
    conversion.convert(MadeDownload(), tmp_path, allow_drops=True)
    assert (tmp_path / "labels" / "b.nii.gz").exists()


def test_check_writes_nothing_and_says_the_same(raw, tmp_path, capsys):
    assert main(["convert", "nnunet", str(raw), str(tmp_path / "out"), "--check", "--jobs", "1"]) == 0
    checked = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["convert", "nnunet", str(raw), str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert capsys.readouterr().out.startswith(checked)
    assert "4 cases of 4 patients; 4 x 3 x 2 voxels of 1 x 1 x 5 mm" in checked


def test_check_of_a_broken_download_lists_and_fails(raw, tmp_path, capsys):
    (raw / "labelsTr" / "case3.nii.gz").write_bytes(b"no gzip")
    arguments = ["convert", "nnunet", str(raw), str(tmp_path / "out"), "--check", "--jobs", "1"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "dropped: case3: " in told.out
    assert "case3" in told.err
    assert main([*arguments, "--allow-drops"]) == 0
    assert not (tmp_path / "out").exists()


@given(arrays(st.sampled_from([np.uint8, np.uint16, np.int32]), (3, 4, 2), elements=st.integers(0, 200)))
def test_counts_are_those_of_numpy(labels):
    values, counts = np.unique(labels, return_counts=True)
    assert count_labels(labels) == dict(zip(values.tolist(), counts.tolist(), strict=True))
