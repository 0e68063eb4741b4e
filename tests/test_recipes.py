"""Recipes: what is read, what wins, and every fault with its line before anything runs."""

from pathlib import Path

import pytest
import yaml

from backsplit.cli import main
from backsplit.errors import RecipeError
from backsplit.experiments.building import build_grid
from backsplit.experiments.reading import read_recipe
from backsplit.experiments.recipe_files import read_draft
from backsplit.experiments.recipes import Recipe
from backsplit.experiments.reproducing import FOLDER, names, recipe_of_paper

GOOD = """\
name: good
data:
  ct:
    phantom: {num_cases: 8, size: 32}
    targets: [cyst]
    auxiliaries: [kidney, liver]
    prepare: {patch_size: [16, 16, 16], features: [4, 8], folds: 2}
networks:
  unet:
arms:
  binary:
  backsplit:
folds: [0]
budget: {name: demo, epochs: 2}
metrics: {tolerance_mm: [5]}
"""


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def faults(path: Path, *settings: str) -> list[str]:
    """Each without the folder that it lies in."""
    with pytest.raises(RecipeError, match=r"\w") as stop:
        read_recipe(path, settings)
    return [fault.replace(f"{path.parent}/", "") for fault in stop.value.faults]


def test_a_recipe_is_read_and_what_is_written_of_it_reads_the_same(tmp_path):
    recipe = read_recipe(written(tmp_path, GOOD))
    assert recipe.networks["unet"].network == "unet"
    assert recipe.arms["backsplit"].arm == "backsplit"
    again = written(tmp_path, yaml.safe_dump(recipe.content()), "again.yaml")
    assert read_recipe(again) == recipe


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("folds: [0]", "folds: [0]\nnetwork: x", 14, "network: unknown key; did you mean networks?"),
        ("epochs: 2", "epoch: 2", 14, "budget.epoch: unknown key; did you mean epochs?"),
        ("    targets: [cyst]\n", "", 3, "data.ct.targets: is missing; add it"),
        ("metrics: {tolerance_mm: [5]}", "", 1, "metrics: is missing; add it"),
        ("folds: [0]", "folds: all", 13, "folds: got 'all': input should be a valid tuple"),
        ("folds: [0]", "folds: [0, 0]", 13, "folds: [0, 0] has a number twice"),
        ("folds: [0]", "folds: []", 13, "folds: got '[]': tuple should have at least 1 item"),
        ("folds: [0]", "folds: [0, 7]", 7, "data.ct.prepare.folds: folds [7] are wanted, there are 0 to 1"),
        ("epochs: 2", "epochs: 0", 14, "budget.epochs: got '0': input should be greater than or equal to 1"),
        ("name: good", "name: ../good", 1, "name: got '../good': cannot be a folder"),
        ("  backsplit:\n", "  backsplit:\n  backsplit:\n", 13, "arms.backsplit: is there twice; rename one"),
        ("name: good", "name: good\ninclude: none.yaml", 2, "none.yaml cannot be read (No such file or directory)"),
        ("name: good", "name: good\ninclude: recipe.yaml", 2, "the files include each other: recipe.yaml -> recipe"),
        ("folds: [0]", "folds: [0", 14, "is not YAML: expected ',' or ']'"),
        ("phantom: {num_cases: 8, size: 32}", "convert: kits23\n    folder: /none", 5, "/none does not exist"),
        ("phantom: {num_cases: 8, size: 32}", "cohort: /none", 4, "data.ct.cohort: /none does not exist"),
        ("    phantom: {num_cases: 8, size: 32}\n", "", 3, "data.ct: comes from nowhere"),
        ("phantom: {num_cases: 8, size: 32}", "phantom: {num_cases: 1, size: 32}", 4, "1 cases cannot make 2 folds"),
        ("[kidney, liver]", "[kidney, livr]", 6, "no class 'livr' in the data; it has bone, bowel, cyst"),
        ("[kidney, liver]", "[kidney, cyst]", 6, "class 'cyst' is named 2 times"),
        ("[16, 16, 16]", "[17, 16, 16]", 7, "a patch of 17x16x16 does not fit the network's strides; use 20x16x16"),
        ("  unet:\n", "  unet-2d: {patch_size: [16, 16, 16]}\n", 9, "unet-2d takes 2 edges, got 3"),
        ("  unet:\n", "  swin-unetr: {patch_size: [33, 64, 64]}\n", 9, "use 32x64x64"),
        ("  unet:\n", "  segresnet: {deep_supervision: true}\n", 9, "has one output and cannot be trained with deep"),
        ("  unet:\n", "  net: {network: alexnet}\n", 9, "networks.net.network: got 'alexnet': input should be 'unet'"),
        ("  backsplit:\n", "  subset: {auxiliaries: [bone]}\n", 12, "names bone, which the cohort does not have"),
        ("  backsplit:\n", "  backsplit: {fraction: 0.5}\n", 12, "`partial` takes 0 to 1, all others 1"),
        ("  backsplit:\n", "  backsplit: {source: mine}\n", 12, "'mine' is none of the sources of ct: labels"),
        ("  backsplit:\n", "  backsplit: {start: old}\n", 12, "'old' is no arm; choose one of binary, backsplit"),
        ("  backsplit:\n", "  backsplit: {preset: paper}\n", 12, "patches are centred on any, of binary on target"),
        ("  backsplit:\n", "  backsplit: {data: [mr]}\n", 12, "'mr' is none of the data; there are ct"),
        ("folds: [0]", "folds: [0]\nbaseline: none", 14, "'none' is no arm; choose one of binary, backsplit"),
        ("folds: [0]", "folds: [0]\nreport: {paper_table: 99}", 14, "no number of the paper's table 99 is known"),
        ("    targets", "    sources: [mine]\n    targets", 5, "no masks called 'mine'; there are labels"),
        (
            "    targets",
            "    masks: {organs: {source: nnunet}}\n    targets",
            5,
            "nnunet needs a model: options.model, or trained",
        ),
    ],
)
def test_every_kind_of_fault_has_its_line_and_a_remedy(old, new, line, words, tmp_path):
    assert GOOD.count(old) == 1
    found = faults(written(tmp_path, GOOD.replace(old, new)))
    (told,) = [fault for fault in found if words in fault]
    assert told.startswith(f"recipe.yaml:{line}: "), found


def test_all_faults_are_told_at_once_and_nothing_is_started(tmp_path, capfd):
    bad = GOOD.replace("epochs: 2", "epochs: 0").replace("livr", "").replace("[kidney, liver]", "[kidney, livr]")
    path = written(tmp_path, bad.replace("  unet:\n", "  segresnet: {deep_supervision: true}\n"))
    assert main(["run", str(path), "--workspace", str(tmp_path / "store"), "--set", "folds=[9]", "x"]) == 1
    told = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in told[:-1]] == [
        "recipe.yaml:6",
        "recipe.yaml:7",
        "recipe.yaml:9",
        "recipe.yaml:14",
        "--set x",
    ]
    assert told[-1] == "backsplit: error: 5 faults in the recipe; nothing was started"
    assert not (tmp_path / "store").exists()


def test_what_is_nearer_wins_and_keeps_its_place(tmp_path):
    written(tmp_path, GOOD, "base.yaml")
    path = written(tmp_path, "include: base.yaml\nname: nearer\nbudget: {epochs: 7}\n")
    recipe = read_recipe(path, ["budget.iterations=3", "folds=[1]"])
    assert (recipe.name, recipe.folds) == ("nearer", (1,))
    assert (recipe.budget.name, recipe.budget.epochs, recipe.budget.iterations) == ("demo", 7, 3)
    assert faults(path, "budget.epochs=-1") == [
        "--set budget.epochs=-1: budget.epochs: got '-1': input should be greater than or equal to 1"
    ]
    assert faults(written(tmp_path, "include: base.yaml\nbudget:\n  epochs: x\n"))[0].startswith(
        "recipe.yaml:3: budget"
    )


def test_aliases_are_not_read_because_nine_lines_of_them_can_fill_a_memory(tmp_path):
    assert faults(written(tmp_path, "a: &a [1]\nb: *a\n"))[0] == (
        "recipe.yaml:1: aliases (*name) are not read; write the values out"
    )


def paper(name: str, *settings: str, has_ours: bool = False) -> Recipe:
    return recipe_of_paper(name, ["phantom"], settings, has_ours=has_ours)


@pytest.mark.parametrize("name", names())
def test_recipes_of_the_paper_have_jobs_in_order(name, tmp_path):
    grid = build_grid(paper(name), tmp_path)
    seen: set[str] = set()
    for job in grid.jobs:
        assert {*job.needs, *job.once} <= seen
        assert job.name not in seen
        seen.add(job.name)
    whole = {"convert", "compose", "prepare", "train", "predict", "evaluate"}
    assert {job.kind for job in grid.jobs} >= ({"convert", "annotate"} if name == "table-6" else whole)


@pytest.mark.parametrize("name", names())
def test_recipes_of_the_paper_take_its_data_sets(name, tmp_path):
    data = read_draft(FOLDER / f"{name}.yaml").content["data"]
    recipe = recipe_of_paper(name, [f"{each}={tmp_path}" for each in data], [], has_ours="binary" in paper(name).arms)
    assert {each.folder for each in recipe.data.values()} == {tmp_path}
    assert all(each.convert == key for key, each in recipe.data.items())
    grid = build_grid(recipe, tmp_path / "store")
    assert bool(grid.trainings or grid.checks)


def test_every_table_and_figure_of_the_paper_is_there():
    assert names() == [*(f"table-{number}" for number in range(1, 13)), *(f"figure-{n}" for n in range(3, 9))]


def test_table_1_is_the_whole_table(tmp_path):
    grid = build_grid(paper("table-1"), tmp_path)
    assert len(grid.trainings) == 3 * 3 * 2 * 5
    assert len({(each.workspace, each.name, each.fold) for each in grid.trainings}) == 90
    assert sum(job.kind == "prepare" for job in grid.jobs) == 3


def test_recipes_share_data_and_binary_arms(tmp_path):
    """Tables 1, 4 and 12 and figure 3 train KiTS23's binary U-Net: once for each fold, whoever comes first."""
    grids = {name: build_grid(paper(name), tmp_path) for name in ("table-1", "table-12", "figure-3")}
    jobs = {name: {job.name for job in grid.jobs} for name, grid in grids.items()}
    shared = jobs["table-1"] & jobs["figure-3"]
    kinds = [name.partition("/")[0] for name in shared]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(sorted(kinds))} == {
        "compose": 1,
        "convert": 1,
        "predict": 10,
        "prepare": 1,
        "train": 10,
    }
    clicks = {job.name for job in build_grid(paper("table-4"), tmp_path).jobs}
    assert sum(name.startswith("train/") for name in jobs["table-1"] & clicks) == 3 * 2 * 5, "other masks, same data"
    everything = set.union(*jobs.values())
    assert sum(name.startswith("train/") for name in everything) == 90 + 5 + 20  # virtual; finetuned and three partial
    assert len({name for name in everything if name.startswith("prepare/")}) == 3


def test_recipes_share_the_organ_model_and_masks_of_clicks(tmp_path):
    made = {name: {job.name for job in build_grid(paper(name), tmp_path).jobs} for name in names()}
    of_model = [name for name, jobs in made.items() if any("/organs-unet-" in job for job in jobs)]
    assert of_model == ["table-2", "table-3", "table-4", "table-5", "figure-4", "figure-5", "figure-6", "figure-8"]
    trained = {job for jobs in made.values() for job in jobs if job.startswith("train/abdomenatlas")}
    assert len(trained) == 5, "one model of five folds for all"
    assert {job for job in made["table-6"] if job.startswith("annotate/")} <= made["table-4"]
    assert {job for job in made["table-2"] if job.startswith("annotate/")} <= made["table-4"]
    others = {job.name for job in build_grid(paper("table-2", "budget.epochs=7"), tmp_path).jobs}
    assert not {job for job in others & made["table-2"] if job.startswith("annotate/")}, "another model, other masks"


def test_masks_can_be_checked_with_nothing_trained(tmp_path):
    start = GOOD[: GOOD.index("networks:")] + "folds: [0]\nmetrics: {tolerance_mm: [5]}\n"
    path = written(tmp_path, start)
    assert [fault.split(":")[1:3] for fault in faults(path)] == [["1", " arms"], ["1", " networks"]]
    checked = ["data.ct.masks.mine={source: labels, structures: [kidney], check: labels}"]
    grid = build_grid(read_recipe(path, checked), tmp_path / "store")
    assert [job.kind for job in grid.jobs] == ["convert", "annotate"]
    (check,) = grid.checks
    assert check[:3] == ("ct", "mine", "labels")
    assert check.table.parent.name == grid.jobs[-1].name.rpartition(".")[2]
    (told,) = faults(path, *checked, "arms.binary={}")
    assert "networks: is missing" in told


def test_checkpoints_on_the_way_are_predicted_with_and_scored_apart(tmp_path):
    settings = ("folds=[0, 1]", "arms.finetuned.epochs=7", "arms.finetuned.keep_every=3")
    grid = build_grid(paper("figure-3", *settings), tmp_path)
    (kept,) = grid.kept
    assert list(kept.predicted) == ["finetuned.epoch3", "finetuned.epoch6"]
    typed = [job.typed for job in grid.jobs if job.kind == "predict" and ".epoch6." in job.name]
    assert [words[words.index("--checkpoint") + 1] for words in typed] == ["checkpoint_epoch_0006.pth"] * 2
    (scored,) = [job for job in grid.jobs if job.name.endswith("/kept")]
    assert len(scored.needs) == 4
    (group,) = grid.groups
    assert "finetuned" in group.predicted


def test_other_settings_are_filed_elsewhere(tmp_path):
    changed = ("budget.epochs=7", "seeds=[1]", "networks.unet.batch_size=4", "arms.binary.learning_rate=0.1")
    of_binary = {
        next(t.name for t in build_grid(paper("table-12", *setting), tmp_path).trainings if t.name.startswith("binary"))
        for setting in [(), *((each,) for each in changed)]
    }
    assert len(of_binary) == 1 + len(changed)
    studies = {build_grid(paper("table-12", *setting), tmp_path).study for setting in [(), ("metrics.border=true",)]}
    assert len(studies) == 2


def test_a_download_that_changed_is_another_data_set(tmp_path):
    label, store = tmp_path / "case_00001" / "segmentation.nii.gz", tmp_path / "store"
    label.parent.mkdir()
    label.write_text("labels")

    def jobs() -> set[str]:
        recipe = recipe_of_paper("table-12", [f"kits23={tmp_path}"], [], has_ours=False)
        return {job.name for job in build_grid(recipe, store).jobs}

    first = jobs()
    store.mkdir()
    for beside in (".DS_Store", "store/a log"):
        (tmp_path / beside).write_text("is no part of the download")
    assert jobs() == first
    label.write_text("mended labels")
    assert not jobs() & first
    changed = jobs()
    label.with_name("imaging.nii.gz").write_text("added")
    assert not jobs() & changed


def test_ours_stands_beside_the_papers_arms(tmp_path):
    with_ours = build_grid(paper("table-12", has_ours=True), tmp_path)
    (typed,) = [job.typed for job in with_ours.jobs if job.name.endswith("fold0") and "/ours-" in job.name][:1]
    assert typed[typed.index("--loss") + 1] == "target-first"
    assert typed[typed.index("--sampling") + 1] == "target"
    ours, theirs = ({job.name for job in grid.jobs} for grid in (with_ours, build_grid(paper("table-12"), tmp_path)))
    assert len([name for name in theirs - ours if name.startswith("train")]) == 0


def test_data_that_one_has_is_chosen_by_name(tmp_path):
    recipe = recipe_of_paper("table-1", [f"kits23={tmp_path}"], [], has_ours=False)
    assert list(recipe.data) == ["kits23"]
    assert recipe.data["kits23"].folder == tmp_path
    assert recipe.metrics.tolerance_mm == (1.0,)


def test_wrong_names_say_what_there_is(tmp_path, capfd):
    for typed, words in (
        (["reproduce", "table-99", "--data", "phantom"], "no recipe 'table-99'; there are table-1, "),
        (["reproduce", "table-1", "--data", "kits23"], "expected kits23=FOLDER panther=FOLDER nsclc-radiomics=FOLDER"),
        (["reproduce", "table-1", "--data", "lits=x"], "--data lits: the recipe has kits23, panther, nsclc-radiomics"),
        (["reproduce", "table-1", "--data", "phantom", "mr"], "--data mr: the recipe has kits23, panther, nsclc-"),
        (["reproduce", "table-2", "--data", "mswal=x"], "mswal gets masks from a model of abdomenatlas; name abdomen"),
        (["reproduce", "table-6", "--data", "phantom", "--ours"], "table-6 compares no arms, so there is none to put"),
    ):
        assert main(typed) == 1
        assert words in capfd.readouterr().err


ORGANS = """\
include: base.yaml
data:
  mr:
    phantom: {num_cases: 8, size: 32, seed: 1}
    targets: [cyst]
    auxiliaries: [kidney, liver]
    masks: {organs: {source: nnunet, trained: {data: ct, arm: organs}}}
    sources: [organs]
arms:
  binary: {data: [mr]}
  backsplit: {data: [mr]}
  organs: {arm: binary, data: [ct]}
"""


def test_a_model_that_the_recipe_trains_itself_makes_masks_for_other_data(tmp_path):
    written(tmp_path, GOOD, "base.yaml")
    path = written(tmp_path, ORGANS)
    grid = build_grid(read_recipe(path), tmp_path)
    (annotate,) = [job for job in grid.jobs if job.kind == "annotate"]
    (trained,) = [job for job in grid.jobs if job.name.startswith("train/ct-")]
    assert annotate.once == (trained.name,)
    assert annotate.typed[annotate.typed.index("--workspace") + 1] == str(grid.store.data(grid.addresses["ct"]).root)
    assert annotate.typed[annotate.typed.index("--model") + 1] == trained.typed[trained.typed.index("--name") + 1]
    other = build_grid(read_recipe(path, ["arms.organs.epochs=9"]), tmp_path)
    assert other.addresses["ct"] == grid.addresses["ct"]
    assert other.addresses["mr"] != grid.addresses["mr"], "another model, other masks"
    (told,) = faults(path, "data.mr.masks.organs.trained.arm=backsplit")
    assert told.endswith("data.mr.masks.organs.trained.arm: no arm 'backsplit' is trained on ct with unet")
