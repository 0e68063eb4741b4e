"""Everything the page shows, and the one HTML file it becomes."""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

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
    """Text of a table cell, and in small print what has to be known about it."""

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their column names; the first cell names its row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
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
    warnings: tuple[str, ...]
    intervals: Picture | None
    scores: Table
    comparison: Table
    pairs: tuple[Picture, ...]
    curve_legend: tuple[Key, ...]
    curves: tuple[Picture, ...]
    curves_note: str
    case_rule: str
    cases: tuple[CaseSection, ...]
    facts: tuple[tuple[str, str], ...]


def render(page: Page) -> str:
    """The page as one HTML document that loads nothing and runs nothing.

    Its content security policy allows `data:` images and the one style sheet inside, by its hash.
    """
    style = resources.files("backsplit.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
    template = _environment().get_template("index.html.j2")
    return template.render(page=page, style=Markup(style), policy=_policy(style))  # noqa: S704  our own style sheet


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("backsplit.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
