"""Lung1: series by their tags, contours onto slices, segments by position, quirks told apart, patients hidden."""

import gzip
import json
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest

import lung1
from backsplit.cli import main
from backsplit.datasets import conversion
from backsplit.datasets.dicom.ct import read_ct
from backsplit.datasets.nsclc_radiomics import normalised, open_nsclc_radiomics
from backsplit.datasets.pseudonyms import default_salt_file, pseudonym, read_salt
from backsplit.errors import CohortError, ConfigurationError, LabelError
from backsplit.volume import read_labels, read_volume
from lung1 import HEART, MANIFEST, REGIONS, Region, Scan, write_ct, write_patient, write_rtstruct
from studies import run

SALT = b"a salt that only the tests hold"
NAME = pseudonym("LUNG1-001", SALT, prefix="lung1")


def converted(source, folder, *, allow_drops=False, **options):
    download = open_nsclc_radiomics(source, salt=SALT, **options)
    return conversion.convert(download, folder, allow_drops=allow_drops).cohort


def dropped(source, folder, **options):
    """Why the one patient cannot be used."""
    with pytest.raises(CohortError) as raised:
        converted(source, folder, **options)
    message = str(raised.value)
    assert "LUNG1" not in message
    assert "\n" not in message
    return message


def dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def label_of(cohort, name):
    (case,) = cohort.cases
    value = next(value for value, known in cohort.label_names if known == name)
    return read_labels(case.labels).voxels == value


@pytest.fixture
def download(tmp_path):
    return tmp_path / "download"


def test_contours_fill_what_they_enclose_and_keep_holes(download, tmp_path):
    """Oblique, other spacing along rows than columns, not square: against the analytic masks."""
    scan = write_patient(download, kinds=("rtstruct",))
    cohort = converted(download, tmp_path / "out")
    tumour = scan.mask(REGIONS["GTV-1"])
    assert dice(label_of(cohort, "gtv-1"), tumour) >= 0.98
    hole = scan.mask(Region((24.0, 30.0), ((4.0, 5.0),), range(3, 7)))
    assert not (label_of(cohort, "gtv-1") & hole).any()
    lungs = (scan.mask(REGIONS["Lung-Left"]) | scan.mask(REGIONS["Lung-Right"])) & ~tumour
    for name in ("Esophagus", "Spinal-Cord"):
        lungs &= ~scan.mask(REGIONS[name])
    assert dice(label_of(cohort, "lung"), lungs) >= 0.98
    image = read_volume(cohort.cases[0].images[0])
    np.testing.assert_array_equal(image.voxels, lung1.hu(scan).transpose(2, 1, 0) - 1024)
    assert image.grid.spacing_mm == pytest.approx((1.2, 0.9, 3.0))
    np.testing.assert_allclose(image.grid.origin_mm, scan.origin_mm, atol=1e-3)
    np.testing.assert_allclose(np.reshape(image.grid.direction, (3, 3)), np.stack(scan.axes, axis=1), atol=1e-3)


def test_segments_are_exact(download, tmp_path):
    scan = write_patient(download, kinds=("seg",))
    cohort = converted(download, tmp_path / "out")
    np.testing.assert_array_equal(label_of(cohort, "gtv-1"), scan.mask(REGIONS["GTV-1"]))
    np.testing.assert_array_equal(label_of(cohort, "spinal_cord"), scan.mask(REGIONS["Spinal-Cord"]))
    notes = json.loads((tmp_path / "out" / "records" / f"{NAME}.json").read_text())["notes"]
    assert notes[0] == "from the SEG"


def test_segments_without_descriptions_go_by_their_meaning(download, tmp_path):
    scan = Scan()
    files = write_ct(download / "ct", scan)
    lung1.write_seg(download / "seg" / "1.dcm", files, scan, REGIONS, described=False)
    cohort = converted(download, tmp_path / "out", sides="keep")
    np.testing.assert_array_equal(label_of(cohort, "gtv-1"), scan.mask(REGIONS["GTV-1"]))
    np.testing.assert_array_equal(label_of(cohort, "lung_right"), scan.mask(REGIONS["Lung-Right"]))


def test_a_missing_organ_is_unknown_not_background(download, tmp_path):
    write_patient(download, kinds=("rtstruct",))
    (case,) = converted(download, tmp_path / "out").cases
    assert case.annotated == ("gtv-1", "lung", "esophagus", "spinal_cord")
    write_patient(download, regions=REGIONS | HEART, kinds=("rtstruct",), number=2)
    cohort = converted(download, tmp_path / "out")
    assert {case.annotated for case in cohort.cases} == {None, ("gtv-1", "lung", "esophagus", "spinal_cord")}


def test_lungs_contoured_as_one(download, tmp_path):
    regions = {name: region for name, region in REGIONS.items() if not name.startswith("Lung-")}
    regions["Lungs-Total"] = REGIONS["Lung-Left"]
    write_patient(download, regions=regions, kinds=("rtstruct",))
    assert "lung" in converted(download, tmp_path / "merged").cases[0].annotated
    (case,) = converted(download, tmp_path / "kept", sides="keep").cases
    assert case.annotated == ("gtv-1", "esophagus", "spinal_cord")
    notes = json.loads((tmp_path / "kept" / "records" / f"{NAME}.json").read_text())["notes"]
    assert "lungs without sides" in notes


def test_nodes_are_targets_on_request(download, tmp_path):
    regions = REGIONS | {"gtv_2": Region((60.0, 30.0), ((4.0, 4.0),), range(3, 6))}
    scan = write_patient(download, regions=regions, kinds=("rtstruct",))
    assert (label_of(converted(download, tmp_path / "one"), "lung") & scan.mask(regions["gtv_2"])).any()
    cohort = converted(download, tmp_path / "two", targets=("GTV 1", "GTV-2"))
    assert dice(label_of(cohort, "gtv-2"), scan.mask(regions["gtv_2"])) >= 0.95


def test_post_operative_names_are_listed(download, tmp_path):
    regions = {"gtv-pre-op": REGIONS["GTV-1"], "Heart": HEART["Heart"]}
    write_patient(download, regions=regions, kinds=("rtstruct",))
    assert "none of gtv-1 is contoured; it has gtv-pre-op; choose with --targets" in dropped(download, tmp_path / "out")
    assert len(converted(download, tmp_path / "out", targets=("gtv-pre-op",)).cases) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GTV-1", "gtv-1"),
        ("gtv1", "gtv-1"),
        ("gtv_4r", "gtv-4r"),
        ("GTV supral", "gtv-supral"),
        ("Cord", "spinal_cord"),
    ],
)
def test_names(name, expected):
    assert normalised(name) == expected


def test_folders_named_by_uid(tmp_path):
    scan = Scan()
    files = write_ct(tmp_path / "in" / scan.series, scan)
    write_rtstruct(tmp_path / "in" / "1.2.3.4" / "x", scan, REGIONS)
    for path in files:
        path.rename(path.with_suffix(""))
    assert len(converted(tmp_path / "in", tmp_path / "out").cases) == 1


def test_two_series_in_one_folder(download, tmp_path):
    """The one that the contours refer to is taken."""
    scan = write_patient(download, kinds=("rtstruct",))
    (folder,) = (download / MANIFEST / "LUNG1-001").glob("*/0.000000-NA-82046")
    write_ct(folder, lung1.replace(scan, series="1.2.3", origin_mm=(0.0, 0.0, 0.0)), first=100)
    (case,) = converted(download, tmp_path / "out").cases
    np.testing.assert_allclose(read_volume(case.images[0]).grid.origin_mm, scan.origin_mm, atol=1e-3)


def test_contours_of_another_series(download, tmp_path):
    scan = Scan()
    write_ct(download / "ct", scan)
    write_rtstruct(download / "rt" / "1.dcm", lung1.replace(scan, series="1.2.3"), REGIONS)
    assert "its RTSTRUCT refers to a CT series that is not there" in dropped(download, tmp_path / "out")


def test_parts_that_were_not_downloaded(download, tmp_path):
    scan = write_patient(download, kinds=())
    assert "no RTSTRUCT or SEG" in dropped(download, tmp_path / "out")
    write_rtstruct(tmp_path / "other" / "1.dcm", scan, REGIONS)
    assert "no CT series" in dropped(tmp_path / "other", tmp_path / "out")
    write_patient(download, scan, kinds=("seg",))
    assert "no RTSTRUCT; see --contours" in dropped(download, tmp_path / "out", contours="rtstruct")


def test_missing_slices(download, tmp_path):
    write_patient(download, Scan(heights=(0, 1, 2, 5, 6, 7, 8, 9)), kinds=("rtstruct",))
    assert "2 of 10 CT slices are missing" in dropped(download, tmp_path / "out")


def test_duplicate_slices(download, tmp_path):
    scan = write_patient(download, kinds=("rtstruct",))
    (folder,) = (download / MANIFEST / "LUNG1-001").glob("*/0.000000-NA-82046")
    first = folder / "1-001.dcm"
    (folder / "1-011.dcm").write_bytes(first.read_bytes())
    (case,) = converted(download, tmp_path / "out").cases
    assert read_volume(case.images[0]).voxels.shape[2] == 10
    notes = json.loads((tmp_path / "out" / "records" / f"{NAME}.json").read_text())["notes"]
    assert notes[0] == "1 slices twice"
    write_ct(folder, lung1.replace(scan, heights=(3,)), first=20)  # other pixels at the place of the fourth slice
    assert "two different CT slices lie at one place" in dropped(download, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tilt_mm": 0.5}, "the gantry was tilted by 9.5 degrees"),
        ({"heights": (0,)}, "1 slice at different places"),
        ({"heights": (0, 1, 2, 3.4, 4.4, 5.4)}, "gaps between CT slices run from"),
    ],
)
def test_scans_that_are_no_regular_volume(download, tmp_path, changes, told):
    write_patient(download, Scan(**changes), kinds=("rtstruct",))
    assert told in dropped(download, tmp_path / "out")


def test_images_of_several_shapes(download, tmp_path):
    scan = write_patient(download, kinds=("rtstruct",))
    (folder,) = (download / MANIFEST / "LUNG1-001").glob("*/0.000000-NA-82046")
    write_ct(folder, lung1.replace(scan, columns=70, heights=(12,)), first=20)
    assert "images of 2 shapes, directions or spacings" in dropped(download, tmp_path / "out")


def test_contours_off_the_slices(download, tmp_path):
    scan = write_patient(download, kinds=("rtstruct",), off_grid=0.4)
    cohort = converted(download, tmp_path / "out")
    assert dice(label_of(cohort, "gtv-1"), scan.mask(REGIONS["GTV-1"])) >= 0.98
    notes = json.loads((tmp_path / "out" / "records" / f"{NAME}.json").read_text())["notes"]
    assert "GTV-1: 8 contours between slices" in notes


def test_contours_across_the_slices(download, tmp_path):
    scan = Scan()
    write_ct(download / "ct", scan)
    other = lung1.replace(scan, orientation=(1.0, 0.0, 0.0, 0.0, np.cos(0.4), np.sin(0.4)))
    write_rtstruct(download / "rt" / "1.dcm", other, REGIONS)
    assert "is not parallel to the slices" in dropped(download, tmp_path / "out")


def test_contours_stored_twice_count_once(download, tmp_path):
    scan = Scan()
    write_ct(download / "ct", scan)
    whole = REGIONS["GTV-1"]
    write_rtstruct(download / "rt" / "1.dcm", scan, {"GTV-1": lung1.replace(whole, axes_mm=whole.axes_mm * 2)})
    cohort = converted(download, tmp_path / "out")
    assert dice(label_of(cohort, "gtv-1"), scan.mask(whole)) >= 0.98


def test_planes_at_half_the_gap_are_joined(download, tmp_path):
    scan = Scan()
    write_ct(download / "ct", scan)
    whole = REGIONS["GTV-1"]
    between = lung1.replace(whole, slices=[height + 0.3 for height in whole.slices])
    write_rtstruct(download / "rt" / "1.dcm", scan, {"GTV-1": whole, "gtv1": between})
    cohort = converted(download, tmp_path / "out")
    assert dice(label_of(cohort, "gtv-1"), scan.mask(whole)) >= 0.98


def test_half_a_ct_is_refused(download, tmp_path):
    scan = Scan()
    for path in write_ct(download / "ct", scan)[5:]:
        path.unlink()
    write_rtstruct(download / "rt" / "1.dcm", scan, REGIONS)
    assert "lie beyond the CT, which lacks slices there" in dropped(download, tmp_path / "out")


def test_the_heart_in_the_lung_keeps_its_voxels(download, tmp_path):
    heart = Region((24.0, 30.0), ((6.0, 6.0),), range(1, 3))
    scan = write_patient(download, regions=REGIONS | {"Heart": heart}, kinds=("rtstruct",))
    cohort = converted(download, tmp_path / "out")
    assert dice(label_of(cohort, "heart"), scan.mask(heart)) >= 0.95
    notes = json.loads((tmp_path / "out" / "records" / f"{NAME}.json").read_text())["notes"]
    assert any(note.endswith("voxels in several regions") for note in notes)


def test_nodes_that_a_seg_cannot_have(download, tmp_path):
    write_patient(download, kinds=("seg",))
    assert "its SEG has no gtv-2" in dropped(download, tmp_path / "out", targets=("gtv-1", "gtv-2"))


def test_two_sets_of_contours_for_one_ct(download, tmp_path):
    scan = write_patient(download, kinds=("rtstruct",))
    write_rtstruct(download / "more" / "2.dcm", scan, REGIONS)
    assert "2 pairs of CT and RTSTRUCT, expected one" in dropped(download, tmp_path / "out")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("folder", ["0.000000-NA-82046", "3.000000-NA-78236", "300.000000-Segmentation-9.554"])
def test_truncated_files_cost_one_case(download, tmp_path, folder, share):
    contours = "seg" if folder.startswith("300") else "rtstruct"
    write_patient(download, kinds=(contours,))
    (place,) = (download / MANIFEST / "LUNG1-001").glob(f"*/{folder}")
    path = sorted(place.iterdir())[0]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    dropped(download, tmp_path / "out", contours=contours)


def test_damaged_tags_cost_one_case(download, tmp_path):
    write_patient(download, kinds=("rtstruct",))
    (place,) = (download / MANIFEST / "LUNG1-001").glob("*/0.000000-NA-82046")
    path = sorted(place.iterdir())[0]
    for name, value in (("ImagePositionPatient", None), ("RescaleSlope", None), ("ImageOrientationPatient", [0.0] * 6)):
        whole = path.read_bytes()
        content = pydicom.dcmread(path)
        setattr(content, name, value)
        content.save_as(path)
        dropped(download, tmp_path / "out")
        path.write_bytes(whole)


def test_a_seg_of_another_shape(download, tmp_path):
    scan = Scan()
    wide = lung1.replace(scan, columns=90, rows=80)
    lung1.write_seg(
        download / "seg" / "1.dcm",
        write_ct(tmp_path / "wide", wide),
        wide,
        {
            "GTV-1": Region((24.0, 70.0), ((11.0, 14.0),), range(3, 7)),
        },
    )
    write_ct(download / "ct", scan)
    assert "the SEG reaches beyond its CT" in dropped(download, tmp_path / "out")


def test_unreadable_files(download, tmp_path):
    write_patient(download, kinds=("rtstruct",))
    (folder,) = (download / MANIFEST / "LUNG1-001").glob("*/0.000000-NA-82046")
    whole = (folder / "1-003.dcm").read_bytes()
    (folder / "1-003.dcm").write_bytes(b"no DICOM at all")
    assert "1 files cannot be read" in dropped(download, tmp_path / "out")
    (folder / "1-003.dcm").write_bytes(whole[:-500])
    assert "lacks pixels or geometry" in dropped(download, tmp_path / "out")
    (folder / "1-003.dcm").write_bytes(whole)
    (folder / "LICENSE").write_text("CC BY-NC 3.0")
    assert len(converted(download, tmp_path / "out").cases) == 1


def test_values_beyond_hounsfield_units(tmp_path):
    files = write_ct(tmp_path, Scan())
    content = pydicom.dcmread(files[0])
    content.RescaleSlope = 1000
    content.save_as(files[0])
    with pytest.raises(ValueError, match="are no Hounsfield units"):
        read_ct(files)


def test_no_download(tmp_path):
    with pytest.raises(CohortError, match="no such folder"):
        converted(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="no DICOM file"):
        converted(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(LabelError, match="expected different names such as gtv-1"):
        open_nsclc_radiomics(tmp_path, salt=SALT, targets=("lung",))


def everything_in(folder):
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix().encode()
        if path.is_file():
            content = path.read_bytes()
            yield gzip.decompress(content) if path.suffix == ".gz" else content


def test_no_output_names_a_patient(download, tmp_path, capsys, monkeypatch):
    """Three patients: one is fine, one is told about because it lacks a target, one because slices are missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    scans = [write_patient(download)]
    scans.append(write_patient(download, regions={"gtv-x": REGIONS["GTV-1"]}, kinds=("rtstruct",), number=2))
    scans.append(write_patient(download, Scan("LUNG1-003", heights=(0, 1, 5)), kinds=("rtstruct",)))
    arguments = ["convert", "nsclc-radiomics", str(download), str(tmp_path / "out"), "--jobs", "1"]
    assert main(arguments) == 1
    assert main([*arguments, "--allow-drops"]) == 0
    told = "".join(capsys.readouterr()).replace(str(tmp_path), "").encode()
    secrets = [
        b"LUNG1-00",
        b"Doe^",
        b"19400101",
        b"20080918",
        *(uid.encode() for s in scans for uid in (s.study, s.series)),
    ]
    contents = [told, *everything_in(tmp_path / "out")]
    assert not [secret for secret in secrets for content in contents if secret in content]
    assert len(json.loads((tmp_path / "out" / "cohort.json").read_text())["dropped"]) == 2


def test_pseudonyms_need_the_salt(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    output = tmp_path / "out"
    salt = read_salt(output=output)
    assert read_salt(output=output) == salt
    assert stat.S_IMODE(default_salt_file().stat().st_mode) == 0o600
    assert pseudonym("a", salt, prefix="x") == pseudonym("a", salt, prefix="x")
    assert len({pseudonym(name, key, prefix="x") for name in "ab" for key in (salt, SALT)}) == 4
    default_salt_file().write_text("short")
    with pytest.raises(ConfigurationError, match="expected a salt of 16 or more"):
        read_salt(output=output)


def test_a_salt_in_the_output_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="keep the salt elsewhere"):
        read_salt(tmp_path / "out" / "sub" / ".." / "salt", output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_first_runs_at_the_same_time_get_one_salt(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(lambda _: read_salt(tmp_path / "salt", output=tmp_path / "out"), range(64)))
    assert len(salts) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["salt"]


def test_from_download_to_training_data(download, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for number in range(1, 4):
        write_patient(download, regions=REGIONS | (HEART if number == 1 else {}), kinds=("rtstruct",), number=number)
    workspace = ("--workspace", tmp_path / "study")
    run("convert", "nsclc-radiomics", download, tmp_path / "cohort", "--jobs", 1)
    auxiliaries = ("--auxiliaries", "lung", "heart", "esophagus", "spinal_cord")
    run("compose", tmp_path / "cohort", "--targets", "gtv-1", *auxiliaries, *workspace)
    sizes = ("--features", 4, 8, "--patch-size", 8, 8, 8, "--batch-size", 2)
    run("prepare", *workspace, *sizes, "--folds", 2, "--processes", 1)
