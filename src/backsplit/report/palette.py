"""One colour and one line style per arm, the same in every figure and legend.

The hues are those of Okabe and Ito (*Color Universal Design*, 2008), which people with a colour-vision deficiency tell
apart; the shades are set apart for white paper, for a dark page and for grey images. No line is known by hue alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Dashes = tuple[float, ...]
"""Lengths of dash and gap in line widths, alternating; empty is a solid line."""

REFERENCE_COLOUR = "#F0E442"
"""Of the reference contour, which is always solid."""


@dataclass(frozen=True, slots=True)
class ArmStyle:
    """How an arm is drawn; colours as `#RRGGBB`."""

    on_light: str
    on_dark: str
    curve: Dashes
    contour: Dashes


@dataclass(frozen=True, slots=True)
class Theme:
    """Ink of a figure that stands on the page, whose own background stays transparent."""

    is_dark: bool
    text: str
    muted: str
    grid: str

    def colour(self, style: ArmStyle) -> str:
        """The shade of an arm that reads on this page."""
        return style.on_dark if self.is_dark else style.on_light


LIGHT = Theme(is_dark=False, text="#1B1F27", muted="#5B6472", grid="#E1E5EB")
DARK = Theme(is_dark=True, text="#E8EAEE", muted="#A0A8B6", grid="#323945")

ARM_STYLES = (
    ArmStyle("#0072B2", "#56B4E9", curve=(5, 1.5), contour=(3.2, 1.6)),
    ArmStyle("#C24E00", "#FF7A45", curve=(), contour=(1, 1)),
    ArmStyle("#00805C", "#2DC79B", curve=(6, 1.5, 1, 1.5), contour=(4, 1.2, 1, 1.2)),
    ArmStyle("#A3477C", "#E79AC6", curve=(1, 1), contour=(2, 0.8)),
    ArmStyle("#4B5563", "#D5DAE1", curve=(3, 1.5), contour=(5, 2.5)),
)


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Styles by arm, in the order given; they start over after the fifth arm."""
    return {arm: ARM_STYLES[position % len(ARM_STYLES)] for position, arm in enumerate(arms)}
