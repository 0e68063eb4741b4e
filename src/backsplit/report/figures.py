"""Figures: arrays and numbers in, the bytes of an SVG, PNG or PDF out. Nothing here touches the disk or global state.

The same input gives the same bytes: no date, no random ids. Text in an SVG is drawn as outlines, so that it looks the
same on every machine; names are printed as they are, never read as mathematics.
"""

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from backsplit.report.palette import REFERENCE_COLOUR, ArmStyle, Theme
from backsplit.report.slices import View

Format = Literal["svg", "png", "pdf"]
NO_METADATA: dict[Format, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Nothing that differs from one time, or one machine, to another."""
DPI = 200
_MARGIN_INCHES = (0.58, 0.45, 0.12)
_STEPS_PER_PIXEL = 4
_SLICE_INCHES = 2.7
_KEY_INCHES, _TITLE_INCHES = 2.1, 0.3


@dataclass(frozen=True, slots=True)
class Line:
    """One arm's training curve: a value per epoch, NaN where none was logged."""

    epochs: Float[np.ndarray, " epochs"]
    values: Float[np.ndarray, " epochs"]
    style: ArmStyle


@dataclass(frozen=True, slots=True)
class Pairs:
    """Dice of the same cases in two arms, each in 0 to 1 and defined; `marks` are letters beside some of the points."""

    baseline: Float[np.ndarray, " cases"]
    arm: Float[np.ndarray, " cases"]
    names: tuple[str, str]
    style: ArmStyle
    marks: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled difference: estimate, lower and upper end; the estimate is finite."""

    label: str
    values: tuple[float, float, float]
    style: ArmStyle


class SliceRow(NamedTuple):
    """Slices beside each other, with the same outlines."""

    title: str
    cells: Sequence[tuple[str, View]]
    """What stands above each slice."""
    keys: Mapping[str, ArmStyle | None]
    """What the outlines are, in the order of the masks of a view; `None` is the reference."""


def pair_plot(pairs: Pairs, theme: Theme, fmt: Format = "svg") -> bytes:
    """A picture with one point per case, baseline to the right, arm upward; above the diagonal the arm is better."""
    with _settings():
        figure = Figure(figsize=(3.7, 3.7))
        axes = _plain_axes(figure, theme)
        axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, dashes=(4, 3))
        colour = theme.colour(pairs.style)
        axes.scatter(pairs.baseline, pairs.arm, s=34, color=colour, alpha=0.75, linewidths=0, clip_on=False, zorder=3)
        for index, mark in pairs.marks:
            _mark(axes, (pairs.baseline[index], pairs.arm[index]), mark, theme)
        axes.text(0.03, 0.97, f"{_printable(pairs.names[1])} better", color=theme.muted, va="top", zorder=2)
        axes.text(0.97, 0.03, f"{_printable(pairs.names[0])} better", color=theme.muted, ha="right", zorder=2)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel(f"Dice, {_printable(pairs.names[0])}")
        axes.set_ylabel(f"Dice, {_printable(pairs.names[1])}")
        return _saved(figure, fmt)


def curve_plot(lines: Sequence[Line], theme: Theme, fmt: Format = "svg") -> bytes:
    """A picture of one quantity over the epochs, one line per arm; values that are not finite leave a gap."""
    with _settings():
        figure = Figure(figsize=(3.7, 2.3))
        axes = _plain_axes(figure, theme)
        for line in lines:
            drawn = np.where(np.isfinite(line.values), line.values, np.nan)
            linestyle = (0, line.style.curve) if line.style.curve else "solid"
            marker = "o" if np.isfinite(drawn).sum() == 1 else None
            colour = theme.colour(line.style)
            axes.plot(line.epochs, drawn, color=colour, linestyle=linestyle, linewidth=1.8, marker=marker)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return _saved(figure, fmt)


def interval_plot(intervals: Sequence[Interval], theme: Theme, fmt: Format = "svg") -> bytes:
    """A picture of differences around a line at zero, one below the other; an interval with a NaN is a point alone."""
    with _settings():
        figure = Figure(figsize=(3.7, 0.65 + 0.5 * len(intervals)))
        axes = _plain_axes(figure, theme)
        axes.axvline(0, color=theme.muted, linewidth=1, dashes=(4, 3))
        reach = max(abs(value) for each in intervals for value in each.values if math.isfinite(value)) * 1.15 or 1
        for row, each in enumerate(intervals):
            estimate, low, high = each.values
            colour = theme.colour(each.style)
            axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="round", alpha=0.6)
            axes.plot([estimate], [row], color=colour, marker="o", markersize=8)
            axes.text(-reach, row - 0.27, _printable(each.label), color=theme.text, va="bottom")
        axes.set(xlim=(-reach, reach), ylim=(len(intervals) - 0.6, -0.85), yticks=[])
        axes.set_xlabel("Dice difference")
        axes.spines["left"].set_visible(False)
        return _saved(figure, fmt)


def slice_picture(view: View, styles: Sequence[ArmStyle | None], fmt: Format = "png") -> bytes:
    """One plane with an outline per mask, along the voxel edges; style `None` is the reference.

    The picture is square, `view.field_mm` wide around the view's centre, black where the image ends, and has a scale
    bar. Masks without a voxel on the plane leave no outline.
    """
    with _settings():
        figure = Figure(figsize=(_SLICE_INCHES, _SLICE_INCHES), facecolor="black")
        _draw_slice(figure.add_axes((0, 0, 1, 1), facecolor="black"), view, styles)
        return _saved(figure, fmt)


def slice_grid(rows: Sequence[SliceRow], fmt: Format = "png") -> bytes:
    """Rows of slices, each drawn as by `slice_picture`, with a title above each and the outlines named at its left."""
    with _settings():
        num_columns = max(len(row.cells) for row in rows)
        size = (_KEY_INCHES + num_columns * _SLICE_INCHES, len(rows) * (_SLICE_INCHES + _TITLE_INCHES))
        figure = Figure(figsize=size, facecolor="black")
        for number, row in enumerate(rows):
            bottom = 1 - (number + 1) / len(rows)
            height = _SLICE_INCHES / size[1]
            _keys(figure, row, (0.1 / size[0], bottom + height))
            for column, (title, view) in enumerate(row.cells):
                left = (_KEY_INCHES + column * _SLICE_INCHES) / size[0]
                axes = figure.add_axes((left, bottom, _SLICE_INCHES / size[0], height), facecolor="black")
                _draw_slice(axes, view, list(row.keys.values()))
                axes.set_title(_printable(title, 48), color="white", fontsize=9, pad=4)
        return _saved(figure, fmt)


def _draw_slice(axes: Axes, view: View, styles: Sequence[ArmStyle | None]) -> None:
    axes.set_axis_off()
    height_mm, width_mm = np.multiply(view.image.shape, view.pixel_mm)
    axes.imshow(view.image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, width_mm, height_mm, 0))
    for mask, style in zip(view.masks, styles, strict=True):
        _outline(axes, mask, view.pixel_mm, style)
    (down, right), half = view.centre_mm, view.field_mm / 2
    axes.set(xlim=(right - half, right + half), ylim=(down + half, down - half), aspect="equal")
    _letters(axes, view.sides)
    _scale_bar(axes, view.field_mm)


def _keys(figure: Figure, row: SliceRow, corner: tuple[float, float]) -> None:
    """Title of a row and what its outlines are, below each other from a corner on."""
    left, top = corner
    width, height = figure.get_size_inches()
    figure.text(left, top, _printable(row.title), color="white", va="top", weight="bold")
    for number, (name, style) in enumerate(row.keys.items(), start=1):
        y = top - (0.08 + 0.22 * number) / height
        colour = REFERENCE_COLOUR if style is None else style.on_dark
        dashes = "solid" if style is None else (0, style.contour)
        figure.add_artist(Line2D((left, left + 0.35 / width), (y, y), color=colour, linestyle=dashes, linewidth=2))
        figure.text(left + 0.45 / width, y, _printable(name), color="white", va="center")


def scale_bar_mm(field_mm: float) -> float:
    """The longest of 1, 2, 5, 10, 20, ... mm that takes up to a third of the field."""
    power = 10.0 ** math.floor(math.log10(field_mm / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= field_mm / 3)


def _settings() -> AbstractContextManager[None]:
    """Settings for building and saving a figure; what was set before comes back."""
    return mpl.rc_context(
        {
            "svg.hashsalt": "backsplit",
            "svg.fonttype": "path",
            "text.parse_math": False,
            "font.family": "DejaVu Sans",
            "font.size": 9.5,
            "axes.unicode_minus": True,
        }
    )


def _plain_axes(figure: Figure, theme: Theme) -> Axes:
    width, height = figure.get_size_inches()
    left, bottom, rim = _MARGIN_INCHES
    figure.patch.set_alpha(0)
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + rim) / width, 1 - (bottom + rim) / height), facecolor="none"
    )
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelcolor=theme.muted, length=0)
    axes.xaxis.label.set_color(theme.text)
    axes.yaxis.label.set_color(theme.text)
    for side, spine in axes.spines.items():
        spine.set(visible=side in {"left", "bottom"}, color=theme.muted, linewidth=0.8)
    return axes


def _mark(axes: Axes, point: tuple[float, float], mark: str, theme: Theme) -> None:
    toward_middle = -8 if point[0] > 0.9 else 8
    axes.plot(*point, marker="o", markersize=8, fillstyle="none", color=theme.text, clip_on=False, zorder=4)
    axes.annotate(
        mark, point, (toward_middle, 0), textcoords="offset points", color=theme.text, weight="bold", va="center",
        ha="right" if toward_middle < 0 else "left", zorder=5,
    )  # fmt: skip


def _outline(axes: Axes, mask: Bool[np.ndarray, "rows columns"], pixel_mm: tuple, style: ArmStyle | None) -> None:
    if not mask.any():
        return
    fine = np.pad(mask, 1).repeat(_STEPS_PER_PIXEL, axis=0).repeat(_STEPS_PER_PIXEL, axis=1).astype(float)
    down, right = (
        ((np.arange(size) + 0.5) / _STEPS_PER_PIXEL - 1) * mm for size, mm in zip(fine.shape, pixel_mm, strict=True)
    )
    lines = axes.contour(right, down, fine, levels=[0.5])
    if style is None:
        lines.set(edgecolor=REFERENCE_COLOUR, linewidth=2.4)
        lines.set_path_effects([withStroke(linewidth=3.2, foreground="#000000A0")])
    else:
        lines.set(edgecolor=style.on_dark, linewidth=1.5, linestyle=(0, style.contour))


def _letters(axes: Axes, sides: tuple[str, str, str, str]) -> None:
    places = ((0.035, 0.5), (0.965, 0.5), (0.5, 0.96), (0.5, 0.04))
    for (x, y), letter in zip(places, sides, strict=True):
        _caption(axes, (x, y), letter)


def _scale_bar(axes: Axes, field_mm: float) -> None:
    length_mm = scale_bar_mm(field_mm)
    start, end = 0.955 - length_mm / field_mm, 0.955
    axes.plot([start, end], [0.045, 0.045], transform=axes.transAxes, color="white", linewidth=2, solid_capstyle="butt")
    _caption(axes, ((start + end) / 2, 0.085), f"{length_mm:g} mm")


def _caption(axes: Axes, place: tuple[float, float], text: str) -> None:
    written = axes.text(*place, text, transform=axes.transAxes, color="white", ha="center", va="center", fontsize=8.5)
    written.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _printable(name: str, num_kept: int = 24) -> str:
    """The name with `?` for every character that the font lacks, cut to some characters."""
    font = get_font(findfont("DejaVu Sans"))
    kept = "".join(letter if font.get_char_index(ord(letter)) else "?" for letter in name)
    return kept if len(kept) <= num_kept else f"{kept[: num_kept - 1]}\N{HORIZONTAL ELLIPSIS}"


def _saved(figure: Figure, fmt: Format) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=fmt, dpi=DPI, metadata=NO_METADATA[fmt])
    return buffer.getvalue()
