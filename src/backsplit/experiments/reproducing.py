"""The recipes of the paper, and what is put in place of what they leave open: the data."""

from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from backsplit.errors import ConfigurationError
from backsplit.experiments.reading import checked
from backsplit.experiments.recipe_files import Draft, Place, override, read_draft
from backsplit.experiments.recipes import Recipe

PHANTOM = "phantom"
FOLDER = Path(str(files("backsplit.experiments") / "paper"))
OURS = {"arm": "backsplit", "preset": "ours"}


def names() -> list[str]:
    """Of the recipes there are, tables before figures."""
    found = [path.stem for kind in ("table", "figure") for path in FOLDER.glob(f"{kind}-*.yaml")]
    return sorted(found, key=lambda name: (name.partition("-")[0] != "table", int(name.partition("-")[2])))


def recipe_of_paper(name: str, data: Sequence[str], settings: Sequence[str], *, has_ours: bool) -> Recipe:
    """A recipe of the paper, on the data sets that are at hand.

    Args:
        name: such as `table-1`.
        data: `kits23=FOLDER` for each data set to run, the others are left out; or `phantom`, and behind it the names
            of those to run, if not all.
        settings: put over the recipe.
        has_ours: add the default arm of this package.

    Raises:
        ConfigurationError: no such recipe, or data that it does not use.
        RecipeError: as `read_recipe`.
    """
    if name not in names():
        raise ConfigurationError(f"no recipe {name!r}; there are {', '.join(names())}")
    is_phantom = PHANTOM in data[:1]
    draft = read_draft(FOLDER / f"{name}.yaml", is_stand_in=is_phantom)
    folders = {} if is_phantom else _folders(draft, data)
    named = data[1:] if is_phantom else tuple(folders)
    if named or not is_phantom:
        _choose(draft, named)
    for key, folder in folders.items():
        draft.put(("data", key, "folder"), folder, Place(f"--data {key}={folder}", 0))
    if has_ours:
        _add_ours(draft, name)
    override(draft, settings)
    return checked(draft)


def _add_ours(draft: Draft, name: str) -> None:
    """The default arm, on the data sets of the binary one."""
    arms = draft.content.get("arms", {})
    if "binary" not in arms:
        raise ConfigurationError(f"{name} compares no arms, so there is none to put ours beside; leave out --ours")
    where = {key: arms["binary"][key] for key in ("data",) if key in arms["binary"]}
    draft.put(("arms", "ours"), {**OURS, **where}, Place("--ours", 0))


def _folders(draft: Draft, data: Sequence[str]) -> dict[str, str]:
    """Folder by data set."""
    named = dict(each.partition("=")[::2] for each in data)
    if wrong := [f"{name}={folder}" for name, folder in named.items() if not folder]:
        known = " ".join(f"{name}=FOLDER" for name in draft.content["data"])
        raise ConfigurationError(
            f"--data {' '.join(wrong)}: expected {known}, those that you have; or {PHANTOM}, made-up cases"
        )
    return named


def _choose(draft: Draft, named: Collection[str]) -> None:
    """Leave out the other data sets, and what is for them alone."""
    there: dict[str, Any] = draft.content["data"]
    if not named or not {*named} <= {*there}:
        raise ConfigurationError(f"--data {' '.join(named)}: the recipe has {', '.join(there)}; choose among these")
    draft.content["data"] = {name: entry for name, entry in there.items() if name in named}
    for name, entry in draft.content["data"].items():
        for masks in entry.get("masks", {}).values():
            model = masks.get("trained", {}).get("data", name)
            if model not in named:
                raise ConfigurationError(f"--data: {name} gets masks from a model of {model}; name {model} too")
    for kind in ("arms", "networks"):
        parts = draft.content.get(kind, {})
        for key in [key for key, part in parts.items() if part and part.get("data") and not {*part["data"]} & {*named}]:
            del parts[key]
        for part in filter(None, parts.values()):
            if part.get("data"):
                part["data"] = [name for name in part["data"] if name in named]
