"""The runner of sources: what is done once is not done again, and no case takes the others down."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from backsplit import cases
from backsplit.cases import Case, Cohort
from backsplit.errors import SourceError
from backsplit.sources import Masks, MaskSource, annotate
from backsplit.sources.annotation import records_of
from backsplit.sources.folder import open_folder
from backsplit.sources.quality_tables import lesion_table
from backsplit.volume import Grid, Volume, read_labels, write_volume
from maskfolders import GRID, block, case_of, cohort_of, write

RESUMED = """
import sys
from pathlib import Path
from backsplit import cases
from backsplit.sources import annotate
from backsplit.sources.folder import open_folder

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cohort = cases.read(folder)
    names = [case.name for case in cohort.cases]
    source = open_folder(folder / "from", case_names=names, structures=None, table=None, force=False)
    annotate(cohort, source, name="organs", folder=folder, num_processes=2)
"""


@dataclass(frozen=True)
class Crashing:
    """Fails on purpose: a case's name says how. Not a stand-in for any real source."""

    structures: tuple[str, ...] = ("liver", "aorta")
    how: dict[str, str] = field(default_factory=lambda: {"tool": "crashing"})
    mended: bool = False

    def inputs(self, case: Case) -> tuple[Path, ...]:
        return case.images

    def segment(self, case: Case, scratch: Path) -> Masks:
        sys.stdout.write(f"segmenting {case.name}\n")
        assert not list(scratch.iterdir())
        if not self.mended:
            crash(case.name)
        halves = {"half": Volume(block(1, stop=3), GRID)} if case.name == "steps" else {}
        return Masks(Volume(block(2), GRID), ("aorta",), {"clicks": 3}, halves)


def crash(name: str) -> None:
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "told":
        raise SourceError("told: the tool said:\nline 1\nline 2\n\nline 3")
    if name == "bug":
        sys.stdout.write("the tool's own words\n")
        raise ZeroDivisionError("a bug in a tool")
    if name == "exit":
        sys.exit("the tool ended its process")


def tree(folder: Path) -> dict[str, int]:
    """When each file was written; temporary names and logs too."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()
    }


def folder_cohort(folder: Path, *names: str) -> Cohort:
    """Cases with a liver and an aorta in `folder/from`; the manifest is in `folder`."""
    for name in names:
        write(block(), folder / "from" / name / "liver.nii.gz")
        write(block(stop=3), folder / "from" / name / "aorta.nii.gz")
    cohort = cohort_of(*(case_of(folder, name, labels=block(4)) for name in names), label_names=((4, "cyst"),))
    cases.write(cohort, folder)
    return cases.read(folder)


def from_folder(cohort: Cohort, folder: Path, **options) -> MaskSource:
    names = [case.name for case in cohort.cases]
    given = {"structures": None, "table": None, "force": False} | options
    return open_folder(folder / "from", case_names=names, **given)


@pytest.fixture
def small(tmp_path) -> Cohort:
    return folder_cohort(tmp_path, "one", "two")


def test_manifest_and_records_tell_all(small, tmp_path):
    source = from_folder(small, tmp_path)
    annotated = annotate(small, source, name="organs", folder=tmp_path)
    assert cases.read(tmp_path) == annotated
    assert [(masks.name, masks.structures) for masks in annotated.masks] == [("organs", ("aorta", "liver"))]
    assert annotated.provenance == (*small.provenance, ("masks organs", "tool folder, licence not stated"))
    assert annotate(annotated, source, name="organs", folder=tmp_path).provenance == annotated.provenance
    for case in annotated.cases:
        (masks,) = case.masks
        assert (masks.source, masks.annotated) == ("organs", None)
        np.testing.assert_array_equal(read_labels(masks.path).voxels, 2 * block() - block(stop=3))
    records = records_of(annotated, "organs")
    assert list(records) == ["one", "two"]
    record = records["one"]
    assert record["how"] == {"structures": ["aorta", "liver"], "resample": None, **source.how}
    assert record["labels"] == {"aorta": 1, "liver": 2}
    assert record["sha256"] == sha256((tmp_path / "masks" / "organs" / "one.nii.gz").read_bytes()).hexdigest()
    assert record["details"] == {"overlaps": {"aorta>liver": 8}}
    assert [stamp.split(":")[0] for stamp in record["inputs"]] == ["one.nii.gz", "aorta.nii.gz", "liver.nii.gz"]
    assert record["quality"]["structures"]["aorta"]["voxels"] == 8
    assert record["quality"]["classes"]["cyst"]["structures"]["liver"]["overlap_voxels"] == 19
    assert str(tmp_path) not in json.dumps(record)
    assert not list((tmp_path / "masks").rglob("*.log"))


def test_nothing_is_done_twice_and_changed_inputs_are_done_again(small, tmp_path):
    masks = tmp_path / "masks"
    annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    before = tree(masks)
    annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    assert tree(masks) == before
    write(block(stop=2), tmp_path / "from" / "two" / "aorta.nii.gz")
    annotated = annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    after = tree(masks)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"organs/two.nii.gz", "organs/two.json"}
    assert np.count_nonzero(read_labels(annotated.cases[1].masks[0].path).voxels == 1) == 1
    (tmp_path / "from" / "one" / "aorta.nii.gz").unlink()
    annotated = annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    assert [case.masks[0].annotated for case in annotated.cases] == [("liver",), None]


def test_masks_made_otherwise_are_refused_and_left_alone(small, tmp_path):
    annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    before = tree(tmp_path)
    with pytest.raises(
        SourceError, match=r"organs holds masks that were made otherwise \(structures\); give these another"
    ):
        annotate(small, from_folder(small, tmp_path, structures=["liver"]), name="organs", folder=tmp_path)
    with pytest.raises(SourceError, match=r"made otherwise \(resample\)"):
        annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path, resample="linear")
    assert tree(tmp_path) == before


def test_a_case_whose_input_is_gone_fails_alone_and_loses_its_stale_masks(small, tmp_path):
    annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    small.cases[0].images[0].unlink()
    with pytest.raises(SourceError, match=r"^1 of 2 cases failed, the others are done: one: .*no such file"):
        annotate(small, from_folder(small, tmp_path), name="organs", folder=tmp_path)
    assert [len(case.masks) for case in cases.read(tmp_path).cases] == [0, 1]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> tuple[Path, Cohort, str]:
    """A source that fails on four of seven cases, two cases at a time."""
    folder = tmp_path_factory.mktemp("crashed")
    names = ("bug", "fine", "killed", "steps", "told", "exit", "last")
    cohort = cohort_of(*(case_of(folder, name) for name in names))
    with pytest.raises(SourceError, match="4 of 7 cases failed, the others are done") as failed:
        annotate(cohort, Crashing(), name="odd", folder=folder, num_processes=2)
    return folder, cohort, str(failed.value)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("killed", "killed: its process was killed, most often for lack of memory"),
        ("told", "told: line 1 / line 2 / line 3"),
        ("bug", "bug: ZeroDivisionError: a bug in a tool"),
        ("exit", "exit: the tool ended its process"),
    ],
)
def test_a_case_that_fails_is_reported_with_its_last_lines(crashed, case, told):
    folder, _, message = crashed
    assert told in message
    assert not list((folder / "masks" / "odd").glob(f"{case}.[!l]*"))


def test_a_case_that_kills_its_process_costs_only_itself(crashed):
    folder, _, _ = crashed
    manifest = cases.read(folder)
    done = {case.name: [masks.source for masks in case.masks] for case in manifest.cases if case.masks}
    assert done == {"fine": ["odd"], "steps": ["odd", "odd-half"], "last": ["odd"]}
    assert [masks.name for masks in manifest.masks] == ["odd", "odd-half"]
    assert manifest.case("steps").masks_of("odd-half").annotated == ("aorta",)
    np.testing.assert_array_equal(
        read_labels(manifest.case("steps").masks_of("odd-half").path).voxels, block(1, stop=3)
    )
    logs = sorted(path.stem for path in (folder / "masks" / "odd").glob("*.log"))
    assert set(logs) >= {"bug", "told"}
    assert not {"fine", "steps", "last"} & set(logs)


def test_the_log_of_a_case_holds_what_the_tool_said_and_where_it_failed(crashed):
    log = (crashed[0] / "masks" / "odd" / "bug.log").read_text()
    assert log.startswith("segmenting bug\nthe tool's own words\nTraceback")
    assert "ZeroDivisionError: a bug in a tool" in log
    assert "line 1\nline 2" in (crashed[0] / "masks" / "odd" / "told.log").read_text()


def test_the_same_command_again_does_only_what_failed(crashed):
    folder, cohort, _ = crashed
    before = tree(folder / "masks" / "odd")
    annotated = annotate(cohort, Crashing(mended=True), name="odd", folder=folder)
    after = tree(folder / "masks" / "odd")
    assert all(case.masks_of("odd") for case in annotated.cases)
    assert not [name for name in after if name.endswith(".log")]
    for name in ("fine", "last", "steps"):
        assert all(after[f"{name}.{ending}"] == before[f"{name}.{ending}"] for ending in ("json", "nii.gz"))


def wait_for_the_workers_of(session: int) -> None:
    """They end by themselves; where nobody collects them they stay listed, so this does not wait for ever."""
    for _ in range(50):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def test_after_a_kill_only_unfinished_cases_are_done(real_data, tmp_path):
    """117 files a case; killed as soon as one case is done."""
    data = real_data / "totalsegmentator"
    names = [f"case{number}" for number in range(5)]
    (tmp_path / "from").mkdir()
    for name in names:
        (tmp_path / "from" / name).symlink_to(data / "example_seg_fast")
    cohort = cohort_of(*(Case(name, (data / "example_ct_sm.nii.gz",), None, name) for name in names))
    cases.write(cohort, tmp_path)
    records = tmp_path / "masks" / "organs"
    killed = subprocess.Popen([sys.executable, "-c", RESUMED, str(tmp_path)], start_new_session=True)
    while not list(records.glob("[!.]*.json")):
        assert killed.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_for_the_workers_of(killed.pid)
    before = tree(records)
    assert 1 <= len([name for name in before if name.endswith(".json")]) < len(names)
    assert cases.read(tmp_path) == cohort
    subprocess.run([sys.executable, "-c", RESUMED, str(tmp_path)], check=True, timeout=120)
    after = tree(records)
    finished = [name.removesuffix(".json") for name in before if name.endswith(".json") and name[0] != "."]
    for name in names:
        for ending in (".json", ".nii.gz"):
            is_same = after[name + ending] == before.get(name + ending)
            assert is_same == (name in finished), name + ending
    annotated = cases.read(tmp_path)
    digests = {record["sha256"] for record in records_of(annotated, "organs").values()}
    assert len(digests) == 1
    assert [case.name for case in annotated.cases if case.masks] == names


def test_a_source_beside_another_and_names_with_odd_letters(small, tmp_path):
    first = annotate(small, from_folder(small, tmp_path), name="or[g]ans", folder=tmp_path)
    second = annotate(first, from_folder(first, tmp_path, structures=["liver"]), name="or[g]ans-liver", folder=tmp_path)
    assert [masks.name for masks in second.masks] == ["or[g]ans", "or[g]ans-liver"]
    again = annotate(second, from_folder(first, tmp_path), name="or[g]ans", folder=tmp_path)
    assert {masks.name: masks.structures for masks in again.masks} == {
        "or[g]ans": ("aorta", "liver"),
        "or[g]ans-liver": ("liver",),
    }
    shutil.rmtree(tmp_path / "masks" / "or[g]ans-liver")
    with pytest.raises(SourceError, match=r"one: no record .*or\[g\]ans-liver"):
        records_of(again, "or[g]ans-liver")


def test_a_changed_label_map_is_measured_anew_without_segmenting(tmp_path):
    grid = Grid((6, 6, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    organ, lesion = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    organ[1:5, 1:5, 1:5], lesion[2:4, 2:4, 2:4] = 1, 1
    files = {part: tmp_path / part / "a.nii.gz" for part in ("image", "labels")}
    for path, voxels in zip(files.values(), (organ, lesion), strict=True):
        write_volume(Volume(voxels, grid), path)
    write_volume(Volume(organ, grid), tmp_path / "masks" / "a" / "liver.nii.gz")
    names = ((0, "background"), (1, "cyst"))
    cohort = Cohort("study", ("CT",), names, (Case("a", (files["image"],), files["labels"], "a"),))
    source = open_folder(tmp_path / "masks", case_names=["a"], structures=None, table=None, force=False)
    done = annotate(cohort, source, name="mine", folder=tmp_path / "cohort")
    path = done.cases[0].masks[0].path
    made = path.stat().st_mtime_ns
    assert lesion_table(records_of(done, "mine"))["overlap_voxels"].tolist() == [8]
    write_volume(Volume(np.where(lesion, 0, organ).astype(np.uint8), grid), files["labels"])
    done = annotate(done, source, name="mine", folder=tmp_path / "cohort")
    assert lesion_table(records_of(done, "mine"))["overlap_voxels"].tolist() == [56]
    assert path.stat().st_mtime_ns == made
