"""The manifest: round trips, moved folders, and whatever can be wrong with it."""

import json
import shutil
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit import cases, files
from backsplit.cases import Case, Cohort
from backsplit.errors import CohortError
from backsplit.labels import LabelScheme

# The type checker picks the items that it checks at random, also where a strategy builds a Cohort.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

SCHEME = LabelScheme(("cyst",), ("kidney", "liver"))
texts = st.text(string.ascii_letters + string.digits + " äß漢_-", min_size=1, max_size=12)
names = texts.filter(str.strip)


@st.composite
def cohorts(draw, folder=Path("/data/study")):
    channels = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    paths = st.builds(lambda root, name: root / f"{name}.nii.gz", st.sampled_from([folder, Path("/elsewhere")]), names)
    scheme = draw(st.none() | st.just(SCHEME))
    classes = draw(st.dictionaries(st.integers(1, 65535), names, max_size=4)) | {0: "background"}
    unique = {name: value for value, name in classes.items()}
    return Cohort(
        name=draw(names),
        channels=tuple(channels),
        label_names=tuple((v, n) for n, v in unique.items()) if scheme is None else tuple(enumerate(scheme.names)),
        cases=tuple(
            Case(
                name=name,
                images=tuple(draw(st.lists(paths, min_size=len(channels), max_size=len(channels)))),
                labels=draw(st.none() | paths),
                group=draw(names),
                annotated=draw(st.none() | st.lists(names, max_size=2).map(tuple)),
            )
            for name in draw(st.lists(names, max_size=3, unique=True))
        ),
        scheme=scheme,
        provenance=tuple(draw(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3))),
    )


def cohort_in(folder):
    """One patient with two cases; the first lies in `folder`, the second elsewhere."""
    return Cohort(
        "study",
        ("CT",),
        ((0, "background"), (3, "cyst")),
        (
            Case("a 1", (folder / "images" / "a.nii.gz",), folder / "labels" / "a.nii.gz", "patient 1"),
            Case("b", (Path("/elsewhere/b.nii.gz"),), None, "patient 1", ("kidney",)),
        ),
    )


def edited(cohort, folder, *, drop="", **changes):
    """Write a manifest, then change keys behind its back, or drop one."""
    path = cases.write(cohort, folder)
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if key != drop}))
    return path


@settings(max_examples=30)  # each one is forced to the disk
@given(cohorts())
def test_what_is_written_is_read(tmp_path_factory, cohort):
    folder = tmp_path_factory.getbasetemp() / "round_trip"
    assert cases.read(cases.write(cohort, folder)) == cohort
    assert cases.read(folder) == cohort


@settings(max_examples=30)
@given(st.data())
def test_round_trip_of_files_inside_the_folder(tmp_path_factory, data):
    folder = (tmp_path_factory.getbasetemp() / "inside").resolve()
    cohort = data.draw(cohorts(folder=folder))
    assert cases.read(cases.write(cohort, folder)) == cohort


def test_equal_cohorts_give_equal_bytes(tmp_path):
    first = cases.write(cohort_in(tmp_path), tmp_path).read_bytes()
    assert cases.write(cohort_in(tmp_path), tmp_path).read_bytes() == first


def test_moved_folder_still_reads(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    cases.write(cohort_in(here), here)
    shutil.move(here, there)
    moved = cases.read(there)
    assert moved == cohort_in(there)
    assert moved.cases[1].images == (Path("/elsewhere/b.nii.gz"),)


def test_manifest_is_readable_from_anywhere(tmp_path, monkeypatch):
    cases.write(cohort_in(tmp_path), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cases.read(Path()) == cases.read(Path("cohort.json")) == cohort_in(tmp_path)


def test_interrupted_write_leaves_the_older_manifest(tmp_path, monkeypatch):
    older = cohort_in(tmp_path)
    cases.write(older, tmp_path)

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cases.write(replace(older, name="newer"), tmp_path)
    assert cases.read(tmp_path) == older
    assert list(tmp_path.iterdir()) == [tmp_path / "cohort.json"]


def test_case_by_name():
    cohort = cohort_in(Path("/data"))
    assert cohort.case("b") is cohort.cases[1]
    with pytest.raises(CohortError, match="case 'c' is not among the 2 cases of study"):
        cohort.case("c")


@pytest.mark.parametrize("name", ["", " ", ".hidden", "..", "a/b", "a\\b", "a\nb", "a\0b", "\ud800"])
def test_names_become_file_names(name):
    with pytest.raises(CohortError, match=r"case name .* cannot be a file name"):
        Case(name, (), None, "group")
    with pytest.raises(CohortError, match=r"a: group .* cannot be a file name"):
        Case("a", (), None, name)
    with pytest.raises(CohortError, match=r"cohort name .* cannot be a file name"):
        Cohort(name, ("CT",), ((0, "background"),), ())


@pytest.mark.parametrize("path", ["images/a.nii.gz", "/data/../a.nii.gz"])
def test_paths_must_be_plain(path):
    with pytest.raises(CohortError, match=r"a: path .* must be absolute and without '\.\.'"):
        Case("a", (Path(path),), None, "a")
    with pytest.raises(CohortError, match=r"a: path .* must be absolute"):
        Case("a", (), Path(path), "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ()}, "at least one channel"),
        ({"channels": ("CT", "PET")}, "a 1: 1 images, expected one for each channel CT, PET"),
        ({"label_names": ()}, r"must be 0 \(background\) to 65535"),
        ({"label_names": ((0, "air"),)}, r"must be 0 \(background\)"),
        ({"label_names": ((0, "background"), (-1, "cyst"))}, r"must be 0 \(background\)"),
        ({"label_names": ((0, "background"), (65536, "cyst"))}, r"must be 0 \(background\)"),
        ({"label_names": ((0, "background"), (1, "cyst"), (1, "liver"))}, r"label values must differ, but \[1\]"),
        ({"label_names": ((0, "background"), (1, "cyst"), (2, "cyst"))}, r"class names must differ, but \['cyst'\]"),
        ({"scheme": SCHEME}, "are not the indices of the scheme background, cyst, kidney, liver"),
    ],
)
def test_cohort_refuses(changes, message):
    with pytest.raises(CohortError, match=message):
        replace(cohort_in(Path("/data")), **changes)


def test_case_names_must_differ():
    cohort = cohort_in(Path("/data"))
    with pytest.raises(CohortError, match=r"study: case names must differ, but \['b'\] come more than once"):
        replace(cohort, cases=(*cohort.cases, cohort.cases[1]))


@pytest.mark.parametrize("path", ["cohort.json", "none/cohort.json", ""])
def test_missing_manifest(tmp_path, path):
    with pytest.raises(CohortError, match=r"cohort.json: no such manifest; make one with `backsplit convert`"):
        cases.read(tmp_path / path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_manifest_that_is_no_json(tmp_path, content):
    (tmp_path / "cohort.json").write_bytes(content)
    with pytest.raises(CohortError, match=r"cohort.json: not a manifest in JSON"):
        cases.read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "5"])
def test_json_that_is_no_manifest(tmp_path, content):
    (tmp_path / "cohort.json").write_text(content)
    with pytest.raises(CohortError, match="key 'schema_version' is missing"):
        cases.read(tmp_path)


@pytest.mark.parametrize(
    "key", ["schema_version", "name", "channels", "label_names", "scheme", "cases", "provenance", "masks"]
)
def test_missing_key_is_named(tmp_path, key):
    path = edited(cohort_in(tmp_path), tmp_path, drop=key)
    with pytest.raises(CohortError, match=f"cohort.json: key '{key}' is missing"):
        cases.read(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 2, "schema version 2, expected 3"),
        ("name", 5, "'name' is '5', expected str"),
        ("channels", [1], "'channels' must be a list of texts"),
        ("label_names", {"x": "cyst"}, "'label_names' must map label values"),
        ("provenance", [["a"]], "'provenance' must be a list of pairs"),
        ("cases", [5], "key 'labels' is missing"),
        ("scheme", {"targets": [], "auxiliaries": []}, "at least one target"),
    ],
)
def test_wrong_content_is_named(tmp_path, key, value, message):
    path = edited(cohort_in(tmp_path), tmp_path, **{key: value})
    with pytest.raises(CohortError, match=message) as raised:
        cases.read(path)
    assert "\n" not in str(raised.value)
