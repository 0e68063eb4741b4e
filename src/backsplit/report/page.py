"""Everything the page shows, and the HTML it becomes."""

import base64
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Verdict = Literal["helps", "harms", "open"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as bytes, with a twin for dark pages where the figure has no background of its own."""

    light: bytes
    alt: str
    caption: str
    dark: bytes | None = None
    media_type: Literal["image/svg+xml", "image/png"] = "image/svg+xml"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as the file says them, so that the page does not move when the picture is there."""
        if self.media_type == "image/png":
            return struct.unpack(">II", self.light[16:24])
        _, _, width, height = re.findall(rb'viewBox="([^"]*)"', self.light)[0].split()
        return round(float(width)), round(float(height))

    @property
    def light_url(self) -> str:
        """The picture for light pages and paper, as a `data:` address."""
        return _data_url(self.light, self.media_type)

    @property
    def dark_url(self) -> str | None:
        """The picture for dark pages, as a `data:` address."""
        return None if self.dark is None else _data_url(self.dark, self.media_type)


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: a name and its line, `dashes` as in SVG's `stroke-dasharray`."""

    name: str
    on_light: str
    on_dark: str
    dashes: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table cell, in small print what has to be known about it, and the number that it is sorted by."""

    text: str
    note: str = ""
    number: float | None = None

    @property
    def key(self) -> str:
        """What a browser sorts by; nothing for an undefined number."""
        return self.text if self.number is None else "" if math.isnan(self.number) else f"{self.number:.9g}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their column names; the first cell names its row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a column; `minor` ones are left out where all their cells are equal, and on narrow screens."""

    text: str
    is_number: bool = False
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice among the values that rows have under one tag."""

    tag: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListingRow:
    """A row that opens a view of the page at `address`, and the tags it is filtered by."""

    address: str
    cells: tuple[Cell, ...]
    tags: Mapping[str, tuple[str, ...]]

    @property
    def tags_text(self) -> str:
        """The tags as JSON, for the script of the page."""
        return json.dumps(dict(self.tags), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """A long table, sorted and filtered by the reader."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[ListingRow, ...]
    filters: tuple[Filter, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headline:
    """What one comparison allows to say: the verdict in a few words, the numbers, and what limits both."""

    verdict: Verdict
    claim: str
    numbers: str
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseStudy:
    """One case, seen in three planes."""

    rank: str
    name: str
    address: str
    """Its id in the case view."""
    facts: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class CaseSection:
    """The cases picked for one arm and class, and the lines that are drawn in them."""

    title: str
    legend: tuple[Key, ...]
    studies: tuple[CaseStudy, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows, as text, numbers already formatted; names are raw and escaped on the way to HTML."""

    title: str
    subtitle: str
    headlines: tuple[Headline, ...]
    caveats: tuple[str, ...]
    """What limits all headlines, where there are several."""
    warnings: tuple[str, ...]
    intervals: Picture | None
    study: tuple[tuple[str, str], ...]
    """What was studied, in a few facts."""
    costs: Table
    scores: Table
    comparison: Table
    pairs: tuple[Picture, ...]
    listings: tuple[Listing, ...]
    curve_legend: tuple[Key, ...]
    curves: tuple[Picture, ...]
    curves_note: str
    case_rule: str
    cases: tuple[CaseSection, ...]
    provenance: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Sections of facts."""
    viewer: Mapping[str, Any]
    """What the case view knows before a case is opened; becomes JSON."""


@dataclass(frozen=True, slots=True)
class Inline:
    """What a page holds in itself instead of in files beside it."""

    cases: Mapping[str, str]
    """JSON of each case, by its id."""


LICENCES = "LICENSES.txt"
STYLES = ("page.css", "viewer.css")
SCRIPTS = ("page.js", "volumes.js", "casefiles.js", "masks.js", "stills.js", "viewer.js")
VIEWER_LIBRARY = "niivue.umd.js"
_RULES = "font-src 'none'; connect-src 'none'; base-uri 'none'; form-action 'none'"


def asset(name: str) -> str:
    """A style sheet or script of the page, or the licences of what it is made with."""
    folder = "viewer" if name in (VIEWER_LIBRARY, LICENCES) else "templates"
    return resources.files("backsplit.report").joinpath(folder, name).read_text(encoding="utf-8")


def render(page: Page, inline: Inline | None = None) -> str:
    """The page as HTML that loads nothing from elsewhere.

    Its content security policy allows `data:` images, and the scripts and style sheets in the folder of the page; or,
    where all is inside, those alone that stand in it, by their hashes.
    """
    names = (*STYLES, VIEWER_LIBRARY, *SCRIPTS) if inline else ()
    contents = {name: Markup(asset(name)) for name in names}  # noqa: S704  our own files
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            page=page,
            contents=contents,
            cases={name: Markup(_in_script(text)) for name, text in inline.cases.items()} if inline else {},  # noqa: S704
            viewer=Markup(_in_script(json.dumps(page.viewer, sort_keys=True))),  # noqa: S704  JSON without a `<`
            policy=_policy(contents),
            styles=STYLES,
            scripts=SCRIPTS,
            library=VIEWER_LIBRARY,
            licences=asset(LICENCES) if inline else "",
        )
    )


def render_waiting(reason: str, trainings: Sequence[tuple[str, str]]) -> str:
    """What is shown while there is nothing to compare: why, and how far each training is."""
    template = _environment().get_template("waiting.html.j2")
    return template.render(reason=reason, trainings=trainings, policy=_policy({}))


def _in_script(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c")


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("backsplit.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _policy(contents: Mapping[str, str]) -> str:
    scripts = " ".join(_hash(text) for name, text in contents.items() if name.endswith(".js")) or "'self'"
    styles = " ".join(_hash(text) for name, text in contents.items() if name.endswith(".css")) or "'self'"
    return f"default-src 'none'; img-src data:; script-src {scripts}; style-src {styles}; {_RULES}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
