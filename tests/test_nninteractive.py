"""The real nnInteractive on tiny models: clicks in, masks out, and what is said when it cannot be done."""

import hashlib
import json
import pickle
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import tinymodels
from backsplit.cases import Case, CaseMasks, Cohort, MaskSet
from backsplit.errors import CohortError, GeometryError, SourceError
from backsplit.evaluation import count_overlap, dice
from backsplit.labels import LabelScheme
from backsplit.sources import MaskSource, annotate
from backsplit.sources.annotation import records_of
from backsplit.sources.clicks import Clicking
from backsplit.sources.nninteractive import NnInteractiveSource, open_nninteractive
from backsplit.sources.nninteractive_session import Running, open_session, read_images
from backsplit.sources.reference import Reference, reference_of
from backsplit.volume import Grid, Volume, read_labels, read_volume, write_volume
from tinyinteractive import Example, train_by_clicks, write_interactive_model

SHAPE = (40, 44, 48)
SPACING_MM = (1.0, 1.0, 1.0)
STRUCTURES = ("spleen", "liver")
CPU = Running(torch.device("cpu"), autozoom=False)
THREE = Clicking(num_clicks=3)


def balls(generator, count=3):
    """An image with balls that look the same, and the balls."""
    image, found = generator.normal(0, 25, SHAPE).astype(np.float32), []
    while len(found) < count:
        centre, radius = generator.integers(9, np.array(SHAPE) - 9), generator.uniform(5, 8)
        distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(np.indices(SHAPE), centre, strict=True)))
        if not any(((distance <= radius + 3) & other).any() for other in found):
            found.append(distance <= radius)
            image[found[-1]] += 120
    return image, found


def draw(generator):
    image, found = balls(generator)
    return Example(image, found[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that segments the ball that is clicked; trained for some 15 seconds."""
    patch_size, features = (32, 32, 32), (16, 16, 16, 16)
    weights = train_by_clicks(draw, patch_size=patch_size, features=features, num_steps=100, learning_rate=1e-2)
    folder = tmp_path_factory.mktemp("trained")
    write_interactive_model(folder, weights, patch_size=patch_size, features=features, trainer_name="nnUNetTrainer")
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    write_interactive_model(folder, patch_size=(32, 32, 32))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two cases of three equal balls; one is called spleen, one liver, one nothing; no case has a tumor."""
    folder = tmp_path_factory.mktemp("cohort")
    made = []
    for seed, name in enumerate(["a", "b"]):
        image, (spleen, liver, _) = balls(np.random.default_rng(100 + seed))
        grid = Grid(SHAPE, SPACING_MM, (5.0, -3.0, 2.0), tuple(np.eye(3).ravel()))
        labels = 4 * spleen.astype(np.uint8) + 2 * liver
        write_volume(Volume(image, grid), folder / f"{name}_image.nii.gz")
        write_volume(Volume(labels, grid), folder / f"{name}.nii.gz")
        made.append(Case(name, (folder / f"{name}_image.nii.gz",), folder / f"{name}.nii.gz", name))
    names = ((0, "background"), (1, "tumor"), (2, "liver"), (4, "spleen"))
    return Cohort("balls", ("CT",), names, tuple(made))


def source(model, cohort, *, structures=STRUCTURES, clicking=THREE, running=CPU, force=False):
    reference = reference_of(cohort, "labels")
    return open_nninteractive(
        model=model, reference=reference, structures=structures, clicking=clicking, running=running, force=force
    )


def reference_mask(case, structure):
    return read_labels(case.labels).voxels == {"liver": 2, "spleen": 4, "tumor": 1}[structure]


def test_clicked_balls_are_found_and_the_third_is_not(trained, cohort, tmp_path):
    """End to end by the runner, in a process of its own; then again, where nothing is left to do."""
    clicking = Clicking(num_clicks=5, keep=(1, 3), seed=2)
    opened = source(trained, cohort, clicking=clicking)
    assert isinstance(opened, MaskSource)
    annotated = annotate(cohort, opened, name="clicked", folder=tmp_path)
    assert [masks.name for masks in annotated.masks] == ["clicked", "clicked-1-clicks", "clicked-3-clicks"]
    for case in annotated.cases:
        labels = read_labels(case.masks_of("clicked").path).voxels
        for value, structure in enumerate(STRUCTURES, start=1):
            assert dice(count_overlap(labels == value, reference_mask(case, structure))) > 0.6
        found = np.count_nonzero(labels)
        assert found < 1.6 * np.count_nonzero(read_labels(case.labels).voxels)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert annotate(cohort, source(trained, cohort, clicking=clicking), name="clicked", folder=tmp_path) == annotated
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == made
    check_records(annotated, trained, clicking)


def check_records(annotated, model, clicking):
    for case in annotated.cases:
        record = records_of(annotated, "clicked")[case.name]
        assert record["how"]["weights"] == hashlib.sha256(checkpoint_of(model).read_bytes()).hexdigest()
        assert (record["how"]["tool"], record["how"]["licence"], record["how"]["seed"]) == (
            "nnInteractive",
            "CC0-1.0",
            2,
        )
        for structure, parts in record["details"]["clicks"].items():
            assert [len(part["clicks"]) for part in parts] == [clicking.num_clicks]
            for *voxel, sign in parts[0]["clicks"]:
                assert reference_mask(case, structure)[tuple(voxel)]
                assert sign == 1


def checkpoint_of(model):
    return model / "fold_0" / "checkpoint_final.pth"


@pytest.mark.parametrize("strategy", ["random", "centre-first"])
def test_masks_are_those_of_the_tool_driven_by_hand(trained, cohort, strategy, tmp_path):
    """Straight to nnInteractive with SimpleITK's array, the clicks as recorded, turned to z, y, x."""
    case = cohort.cases[0]
    clicking = Clicking(num_clicks=4, keep=(2,), strategy=strategy)
    masks = source(trained, cohort, clicking=clicking).segment(case, tmp_path)
    session = open_session(source(trained, cohort).model, CPU)
    assert session.license == "CC0-1.0"
    image = read_volume(case.images[0]).voxels
    expected = {2: np.zeros(SHAPE, int), 4: np.zeros(SHAPE, int)}
    for value, structure in enumerate(STRUCTURES, start=1):
        session.set_image(image.transpose(2, 1, 0)[None].astype(np.float32))
        session.set_target_buffer(np.zeros(SHAPE[::-1], np.uint8))
        (part,) = masks.details["clicks"][structure]
        for count, (x, y, z, sign) in enumerate(part["clicks"], start=1):
            session.add_point_interaction((z, y, x), include_interaction=sign == 1)
            for wanted in {2, 4} & {count}:
                shown = session.target_buffer.transpose(2, 1, 0) > 0
                expected[wanted][shown & (expected[wanted] == 0)] = value
    np.testing.assert_array_equal(masks.volume.voxels, expected[4])
    np.testing.assert_array_equal(masks.intermediate["2-clicks"].voxels, expected[2])
    assert masks.volume.grid.difference(read_volume(case.images[0]).grid) is None


def test_centre_first_mends_what_is_wrong(trained, cohort, tmp_path):
    """The first click is the centre of the ball, and the error gets smaller."""
    case = cohort.cases[1]
    clicking = Clicking(num_clicks=8, keep=(1,), strategy="centre-first")
    masks = source(trained, cohort, clicking=clicking).segment(case, tmp_path)
    for value, structure in enumerate(STRUCTURES, start=1):
        reference = reference_mask(case, structure)
        clicks = np.array(masks.details["clicks"][structure][0]["clicks"])
        assert np.abs(clicks[0, :3] - np.argwhere(reference).mean(0)).max() <= 1
        for *voxel, sign in clicks:
            assert reference[tuple(voxel)] == (sign == 1)
        first, last = masks.intermediate["1-clicks"].voxels, masks.volume.voxels
        scores = [dice(count_overlap(labels == value, reference)) for labels in (first, last)]
        assert scores[1] > scores[0] - 0.02
        assert scores[1] > 0.6


def test_masks_do_not_depend_on_the_case_before(trained, cohort, tmp_path):
    opened, other = source(trained, cohort), source(trained, cohort)
    forward = [opened.segment(case, tmp_path) for case in cohort.cases]
    backward = [other.segment(case, tmp_path) for case in reversed(cohort.cases)][::-1]
    for one, two in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.volume.voxels, two.volume.voxels)
        assert one.details == two.details
    different = source(trained, cohort, clicking=Clicking(num_clicks=3, seed=1)).segment(cohort.cases[0], tmp_path)
    assert different.details["clicks"] != forward[0].details["clicks"]


def test_where_structures_overlap_the_first_wins_and_the_loss_is_counted(untrained, cohort, tmp_path):
    """An untrained network marks much of every patch, so spleen and liver overlap."""
    case = cohort.cases[0]
    alone = {
        name: source(untrained, cohort, structures=(name,)).segment(case, tmp_path).volume.voxels > 0
        for name in STRUCTURES
    }
    both = alone["spleen"] & alone["liver"]
    assert both.any()
    masks = source(untrained, cohort).segment(case, tmp_path)
    np.testing.assert_array_equal(masks.volume.voxels == 1, alone["spleen"])
    np.testing.assert_array_equal(masks.volume.voxels == 2, alone["liver"] & ~alone["spleen"])
    assert masks.details["overlaps"] == {"spleen over liver": np.count_nonzero(both)}


def test_each_part_is_clicked_and_specks_are_counted(untrained, cohort, tmp_path):
    labels = read_labels(cohort.cases[0].labels)
    voxels = labels.voxels.copy()
    voxels[:2, :2, :3], voxels[0, 43, 47] = 4, 4  # one part of 12 voxels, one of 1
    own = tmp_path / "own.nii.gz"
    write_volume(Volume(voxels, labels.grid), own)
    case = replace(cohort.cases[0], labels=own)
    clicking = Clicking(num_clicks=15, keep=(2,))
    masks = source(untrained, cohort, structures=("spleen",), clicking=clicking).segment(case, tmp_path)
    parts = masks.details["clicks"]["spleen"]
    assert [(part["part"], part["voxels"]) for part in parts] == [(1, np.count_nonzero(labels.voxels == 4)), (2, 12)]
    assert [len(part["clicks"]) for part in parts] == [15, 12]  # no voxel of the small part is left to click
    assert masks.details["skipped_parts"] == {"spleen": 1}


def test_a_structure_without_voxels_is_annotated_and_empty(untrained, cohort, tmp_path):
    masks = source(untrained, cohort, structures=("tumor", "liver"), force=True).segment(cohort.cases[0], tmp_path)
    assert masks.annotated == ("tumor", "liver")
    assert masks.details["clicks"]["tumor"] == []
    assert set(np.unique(masks.volume.voxels)) == {0, 2}


@pytest.mark.slow
def test_auto_zoom_runs_and_repeats(tmp_path, cohort, capsys):
    """An untrained network that marks most voxels: changes reach the border, so the tool zooms out and refines."""
    torch.manual_seed(0)
    weights = tinymodels.build(tinymodels._architecture((4, 8)), 8, 2).state_dict()
    weights["decoder.seg_layers.0.bias"] = torch.tensor([0.0, 1.0])
    write_interactive_model(tmp_path, weights, features=(4, 8))
    running = Running(torch.device("cpu"), autozoom=True)
    opened = source(tmp_path, cohort, structures=("liver",), clicking=Clicking(num_clicks=1), running=running)
    case = cropped(cohort.cases[0], tmp_path)
    once = opened.segment(case, tmp_path)
    printed = capsys.readouterr().out
    assert "max zoom out factor 4" in printed
    assert "for refining the segmentation" in printed
    np.random.seed(1)  # noqa: NPY002  what the tool draws from
    again = opened.segment(case, tmp_path)
    np.testing.assert_array_equal(once.volume.voxels, again.volume.voxels)


def cropped(case, folder):
    """24 voxels along each axis around its liver."""
    middle = np.argwhere(reference_mask(case, "liver")).mean(0).astype(int)
    starts = np.clip(middle - 12, 0, np.array(SHAPE) - 24)
    for path, name in ((case.images[0], "image.nii.gz"), (case.labels, "labels.nii.gz")):
        volume = read_volume(path)
        voxels = volume.voxels[tuple(slice(start, start + 24) for start in starts)].copy()
        write_volume(Volume(voxels, replace(volume.grid, shape=voxels.shape)), folder / name)
    return replace(case, images=(folder / "image.nii.gz",), labels=folder / "labels.nii.gz")


def test_nothing_is_fetched(untrained, cohort, tmp_path, monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert source(untrained, cohort).segment(cohort.cases[0], tmp_path).volume.voxels.shape == SHAPE


def test_clicks_from_masks_of_another_source(untrained, cohort, tmp_path):
    """Those of a case that has not all structures annotated."""
    case = cohort.cases[0]
    with_masks = replace(case, labels=None, masks=(CaseMasks("model", case.labels, ("spleen",)),))
    structures = ("artery", "liver", "vein", "spleen")  # value 4 is the spleen, as in the label map
    other = replace(cohort, masks=(MaskSet("model", structures),), cases=(with_masks, cohort.cases[1]))
    reference = reference_of(other, "model")
    opened = open_nninteractive(
        model=untrained, reference=reference, structures=None, clicking=Clicking(1), running=CPU, force=False
    )
    assert opened.structures == structures
    assert opened.inputs(with_masks) == (*case.images, case.labels)
    masks = opened.segment(with_masks, tmp_path)
    assert masks.annotated == ("spleen",)
    assert list(masks.details["clicks"]) == ["spleen"]
    with pytest.raises(CohortError, match="b has no masks 'model' to serve as reference"):
        opened.segment(other.cases[1], tmp_path)
    with pytest.raises(CohortError, match="no masks called 'nothing'"):
        reference_of(other, "nothing")


def test_own_labels_tell_what_they_are_annotated_for(cohort):
    scheme = LabelScheme(("tumor",), ("liver", "spleen"))
    composed = replace(
        cohort,
        scheme=scheme,
        label_names=tuple(enumerate(scheme.names)),
        cases=(replace(cohort.cases[0], annotated=("spleen",)), cohort.cases[1]),
    )
    reference = reference_of(composed, "labels")
    assert [reference.annotated(case) for case in composed.cases] == [("tumor", "spleen"), ("tumor", "liver", "spleen")]
    assert reference.names == ("tumor", "liver", "spleen")
    with pytest.raises(CohortError, match="a has no label map to serve as reference"):
        reference.read(replace(cohort.cases[0], labels=None))


def test_reference_on_another_grid_is_refused(cohort, tmp_path):
    labels = read_labels(cohort.cases[0].labels)
    moved = Volume(labels.voxels, replace(labels.grid, origin_mm=(0.0, 0.0, 0.0)))
    write_volume(moved, tmp_path / "moved.nii.gz")
    case = replace(cohort.cases[0], labels=tmp_path / "moved.nii.gz")
    with pytest.raises(GeometryError, match=r"a: image and reference moved\.nii\.gz are on different grids: origin"):
        Reference("labels", ((2, "liver"),)).read(case)


def test_lesions_are_refused_unless_forced(untrained, cohort):
    assert source(untrained, cohort, structures=None).structures == ("liver", "spleen")
    with pytest.raises(SourceError, match="'tumor' is a lesion"):
        source(untrained, cohort, structures=("tumor",))
    assert source(untrained, cohort, structures=("tumor",), force=True).structures == ("tumor",)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), "all voxels of image.nii.gz are 0; nnInteractive normalises"),
        (np.full((3, 4, 5), np.nan, np.float32), "voxels that are not finite"),
    ],
)
def test_images_that_cannot_be_normalised_are_refused(voxels, message, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_volume(Volume(voxels, Grid((3, 4, 5), SPACING_MM, (0.0,) * 3, tuple(np.eye(3).ravel()))), path)
    with pytest.raises(SourceError, match=message):
        read_images(Case("a", (path,), None, "a"), [path], num_channels=1)


def test_images_are_matched_with_what_the_model_takes(untrained, cohort, tmp_path):
    image = cohort.cases[0].images[0]
    case = replace(cohort.cases[0], images=(image, image))
    with pytest.raises(SourceError, match="a: 2 images, but the model takes 1; choose one with --channel"):
        source(untrained, cohort).segment(case, tmp_path)
    chosen = source(untrained, cohort, running=replace(CPU, channel=1))
    assert chosen.inputs(case) == (image, case.labels)
    with pytest.raises(SourceError, match="no image 1; it has 1, counted from 0"):
        chosen.inputs(cohort.cases[0])
    volume = read_volume(image)
    write_volume(replace(volume, grid=replace(volume.grid, spacing_mm=(2.0,) * 3)), tmp_path / "b.nii.gz")
    with pytest.raises(GeometryError, match=r"a_image\.nii\.gz and b\.nii\.gz are on different grids: spacing"):
        read_images(case, [image, tmp_path / "b.nii.gz"], num_channels=2)


def test_a_model_of_two_images_sees_both(cohort, tmp_path):
    """A channel of noise more changes the mask; with auto-zoom the tool would show the network one channel alone."""
    model = tmp_path / "model"
    write_interactive_model(model, patch_size=(32,) * 3, channel_names=("CT", "PET"))
    first = read_volume(cohort.cases[0].images[0])
    write_volume(replace(first, voxels=first.voxels[::-1].copy()), tmp_path / "pet.nii.gz")
    image = cohort.cases[0].images[0]
    masks = [
        source(model, cohort).segment(replace(cohort.cases[0], images=(image, second)), tmp_path).volume.voxels
        for second in (image, tmp_path / "pet.nii.gz")
    ]
    assert (masks[0] != masks[1]).any()
    write_interactive_model(model, channel_names=("CT", "PET"))
    with pytest.raises(
        SourceError, match="takes 2 images, but the auto-zoom of nnInteractive shows it the first alone"
    ):
        source(model, cohort, running=replace(CPU, autozoom=True))


def test_auto_zoom_needs_a_large_patch(untrained, cohort):
    with pytest.raises(SourceError, match="at least 49 voxels along each axis, this model has 32x32x32"):
        source(untrained, cohort, running=replace(CPU, autozoom=True))


def test_the_only_downloaded_model_is_found(untrained, cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("NNINTERACTIVE_MODEL_DIR", str(tmp_path))
    with pytest.raises(SourceError, match=r"no nnInteractive model in .*models .*CC BY-NC-SA 4\.0: not for commercial"):
        source(None, cohort)
    (tmp_path / "models").mkdir()
    for name in ("nnInteractive_v1.0", "nnInteractive_v2.0"):
        (tmp_path / "models" / name).symlink_to(untrained)
        if name == "nnInteractive_v1.0":
            assert source(None, cohort).model == source(untrained, cohort).model
    with pytest.raises(SourceError, match=r"2 models \(nnInteractive_v1\.0, nnInteractive_v2\.0\); name the folder"):
        source(None, cohort)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("plans.json", "plans.json is missing; download it with `nninteractive-download-model`"),
        ("inference_info.json", "neither inference_info.json nor inference_session_class.json is there"),
        ("fold_0/checkpoint_final.pth", r"expected one fold_\* folder with a checkpoint_final.pth, found fold_0"),
    ],
)
def test_an_incomplete_model_is_named(cohort, tmp_path, missing, message):
    write_interactive_model(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(SourceError, match=message):
        source(tmp_path, cohort)


def test_a_checkpoint_that_could_run_code_needs_trust(cohort, tmp_path):
    write_interactive_model(tmp_path / "model", patch_size=(32,) * 3)
    path = checkpoint_of(tmp_path / "model")
    content = torch.load(path)
    torch.save(content | {"made_by": Path("somebody")}, path)
    with pytest.raises(SourceError, match=r"not a checkpoint .* safe to load.*if you trust .*--trust"):
        source(tmp_path / "model", cohort)
    trusted = source(tmp_path / "model", cohort, running=replace(CPU, trust=True))
    assert trusted.segment(cohort.cases[0], tmp_path).volume.voxels.shape == SHAPE


def test_licence_as_the_tool_tells_it(cohort, tmp_path):
    write_interactive_model(tmp_path, patch_size=(32,) * 3)
    (tmp_path / "LICENSE").unlink()
    assert source(tmp_path, cohort).model.licence == "not stated"
    plans = json.loads((tmp_path / "plans.json").read_text())
    (tmp_path / "plans.json").write_text(json.dumps(plans | {"dataset_name": "Dataset225_nnInteractiveV2"}))
    assert source(tmp_path, cohort).model.licence == "CC BY-NC-SA 4.0"


def test_a_missing_package_is_named_with_its_command(untrained, cohort, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(SourceError, match=r'pip install "backsplit\[interactive\]"'):
        source(untrained, cohort)


def test_a_source_travels_to_a_worker_and_holds_no_path_in_its_provenance(untrained, cohort):
    opened = source(untrained, cohort, clicking=Clicking(7, (3,), "centre-first", seed=5))
    again = pickle.loads(pickle.dumps(opened))
    assert isinstance(again, NnInteractiveSource)
    assert again == opened
    assert json.loads(json.dumps(opened.how)) == json.loads(json.dumps(again.how))
    assert str(untrained) not in json.dumps(opened.how)
    assert opened.how["version"] == metadata.version("nninteractive")
