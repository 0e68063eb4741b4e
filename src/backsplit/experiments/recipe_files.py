"""Recipes in YAML: includes, overrides, and every fault with the file and line it is in."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from backsplit.errors import RecipeError
from backsplit.experiments.recipes import Name, Part, Recipe

Keys = tuple[str | int, ...]
"""Where something stands in a recipe: `("budget", "epochs")`."""
INCLUDE, STAND_IN = "include", "stand_in"
PARTS_BY_NAME = ("data", "networks", "arms")


class Place(NamedTuple):
    """Where something was written; line 0 is no file but the command line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(slots=True)
class Draft:
    """A recipe before it is validated: plain values, and where each was written."""

    file: str
    content: dict[str, Any] = field(default_factory=dict)
    places: dict[Keys, Place] = field(default_factory=dict)
    faults: list[tuple[Place, str]] = field(default_factory=list)

    def place_of(self, keys: Keys) -> Place:
        """Where it was written, or the nearest thing around it."""
        found = (self.places[keys[:length]] for length in range(len(keys), -1, -1) if keys[:length] in self.places)
        return next(found, Place(self.file, 1))

    def fault(self, keys: Keys, what: str) -> None:
        """Note a fault at a place."""
        name = ".".join(map(str, keys))
        self.faults.append((self.place_of(keys), f"{name}: {what}" if name else what))

    def put(self, keys: Keys, value: Any, place: Place) -> None:  # noqa: ANN401  any YAML
        """Put a value at a place, over what is there; mappings are merged, all else is replaced."""
        *above, last = keys
        home: dict[Any, Any] = self.content
        for key in above:
            if not isinstance(home.get(key), dict):
                home[key] = {}
            home = home[key]
        if isinstance(value, dict) and isinstance(home.get(last), dict):
            for key, inner in value.items():
                self.put((*keys, key), inner, place)
            return
        home[last] = value
        self.places = {known: where for known, where in self.places.items() if known[: len(keys)] != keys}
        self.places[keys] = place

    def require(self) -> None:
        """Stop if there are faults.

        Raises:
            RecipeError: lists all, in the order in which they are written.
        """
        if self.faults:
            ordered = sorted(set(self.faults), key=lambda fault: (fault[0].line == 0, *fault))
            raise RecipeError([f"{place}: {what}" for place, what in ordered])


def read_draft(path: Path, *, is_stand_in: bool = False) -> Draft:
    """Read a file with all that it includes; what is written later, or nearer, wins. Nothing is validated yet.

    Args:
        path: of the recipe.
        is_stand_in: put the data and settings of `stand_in`, made-up cases of the same structure, in place of the
            real ones.
    """
    draft = Draft(str(path))
    _read_into(draft, path, ())
    others = draft.content.pop(STAND_IN, None) or {}
    if is_stand_in and not others:
        draft.fault((), f"has no {STAND_IN}, so it cannot run on a phantom; name its data sets instead")
    if is_stand_in:
        moved = {keys[1:]: place for keys, place in draft.places.items() if keys[:1] == (STAND_IN,)}
        draft.content["data"] = {}
        for key, value in others.items():
            draft.put((key,), value, draft.place_of((STAND_IN, key)))
        draft.places |= moved
    return draft


def override(draft: Draft, settings: Sequence[str]) -> None:
    """Put settings such as `budget.epochs=50` over what is written; the value is read as YAML."""
    for setting in settings:
        place = Place(f"--set {setting}", 0)
        name, sign, text = setting.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value, sign = None, ""
        if not sign or not all(name.split(".")):
            draft.faults.append((place, "cannot be read; write KEY.KEY=VALUE, such as budget.epochs=50"))
        else:
            draft.put(tuple(name.split(".")), value, place)


def validated(draft: Draft) -> Recipe:
    """The recipe that a draft holds, with faults noted in the draft; parts with faults are left out of it."""
    draft.content = {key: value for key, value in draft.content.items() if key != INCLUDE}
    known = Recipe.model_fields
    for key in draft.content.keys() - known.keys():
        draft.fault((key,), _unknown(str(key), known))
    parts = {}
    for key, about in known.items():
        if key in draft.content:
            parts |= dict(_valid_part(draft, key, about))
        elif about.is_required():
            draft.fault((key,), "is missing; add it")
    none: dict[str, Any] = {**{key: {} for key in PARTS_BY_NAME}, "name": "", "metrics": None}
    return Recipe.model_construct(None, **{**none, **parts})


def _valid_part(draft: Draft, key: str, about: FieldInfo) -> Iterator[tuple[str, Any]]:
    raw = draft.content[key]
    if key in PARTS_BY_NAME and isinstance(raw, dict):
        kind = get_args(about.annotation)[1]
        raw = {name: _filled(key, name, value) for name, value in raw.items()}
        whole = {name: _valid(draft, (key, str(name)), value, kind) for name, value in raw.items()}
        for name in raw:  # names, and that there are some
            _valid(draft, (key,), name, Name)
        if not raw:
            draft.fault((key,), "has none; name one at least")
        yield key, {name: part for name, part in whole.items() if part is not None}
    else:
        part = _valid(draft, (key,), raw, about.annotation, about)
        if part is not None:
            yield key, part


def _filled(key: str, name: object, value: object) -> object:
    """`unet:` alone is the network of that name, `binary:` the arm."""
    kind = {"networks": "network", "arms": "arm"}.get(key)
    if kind is None or not (value is None or isinstance(value, dict)):
        return value
    return {kind: name, **(value or {})}


def _valid(draft: Draft, keys: Keys, raw: Any, kind: Any, about: FieldInfo | None = None) -> Any:  # noqa: ANN401  any part
    wanted = Annotated[kind, *about.metadata] if about is not None and about.metadata else kind
    try:
        return TypeAdapter(wanted).validate_python(raw)
    except ValidationError as error:
        for each in error.errors():
            loc = tuple(part for part in each["loc"] if part != "[key]")
            draft.fault((*keys, *loc), _told(each, _fields_at(kind, loc)))
        return None


def _told(error: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(str(error["loc"][-1]), fields)
    if error["type"] == "missing":
        return "is missing; add it"
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"got {str(error['input'])[:60]!r}: {message}"


def _unknown(key: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, 1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known are {', '.join(fields)}"


def _fields_at(kind: Any, loc: Keys) -> Mapping[str, Any]:  # noqa: ANN401  a type
    """Fields of the part that a fault lies in."""
    for key in loc[:-1]:
        if isinstance(kind, type) and issubclass(kind, Part) and key in kind.model_fields:
            kind = kind.model_fields[str(key)].annotation
        kinds = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, Part)]
        kind = kinds[0] if kinds else kind
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, Part) else {}


def _read_into(draft: Draft, path: Path, above: tuple[Path, ...]) -> None:
    here = path.resolve()
    if here in above:
        chain = " -> ".join(each.name for each in (*above[above.index(here) :], here))
        draft.fault((INCLUDE,), f"the files include each other: {chain}; take one out")
        return
    node = _composed(draft, path)
    if node is None:
        return
    places: dict[Keys, Place] = {}
    content = _plain(draft, node, (), places, str(path))
    included = content.get(INCLUDE) or []
    if INCLUDE in content:
        draft.places[(INCLUDE,)] = places[(INCLUDE,)]
    for name in [included] if isinstance(included, str) else included:
        _read_into(draft, path.parent / str(name), (*above, here))
    for key, value in content.items():
        draft.put((key,), value, places[(key,)])
    draft.places |= places


def _composed(draft: Draft, path: Path) -> yaml.MappingNode | None:
    """The top of a file, or None with the fault noted."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            draft.faults.append((Place(str(path), 1), "aliases (*name) are not read; write the values out"))
            return None
        node = yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        draft.fault((INCLUDE,), f"{path} cannot be read ({error.strerror}); mend the path")
        return None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "not a text in UTF-8"
        draft.faults.append((Place(str(path), mark.line + 1 if mark else 1), f"is not YAML: {what}; mend the line"))
        return None
    if not isinstance(node, yaml.MappingNode):
        draft.faults.append((Place(str(path), 1), "is no recipe: expected keys with values, such as `name: my-study`"))
        return None
    return node


def _plain(draft: Draft, node: yaml.Node, keys: Keys, places: dict[Keys, Place], file: str) -> Any:  # noqa: ANN401  any YAML
    """The values of a node, with the place of each."""
    places[keys] = Place(file, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(draft, each, (*keys, number), places, file) for number, each in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_object(node)
    content = {}
    for key_node, value in node.value:
        key = str(key_node.value)
        place = Place(file, key_node.start_mark.line + 1)
        if key in content:
            where = ".".join(map(str, (*keys, key)))
            draft.faults.append((place, f"{where}: is there twice; rename one"))
        content[key] = _plain(draft, value, (*keys, key), places, file)
        places[(*keys, key)] = place
    return content
