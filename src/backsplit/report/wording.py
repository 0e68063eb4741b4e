"""Numbers as text, and the sentences that an interval allows."""

import math
from dataclasses import dataclass

from backsplit.report.page import Headline, Verdict
from backsplit.report.palette import Dashes

UNDEFINED = "undefined"
SIGNIFICANCE = 0.05
"""Goes with intervals of 95 %."""
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Dice of an arm minus Dice of the baseline, for one class: mean over the pairs and its 95 % interval.

    `estimate`, `low`, `high` and `p_value` are NaN where they are undefined.
    """

    class_name: str
    arm: str
    baseline: str
    estimate: float
    low: float
    high: float
    num_pairs: int
    p_value: float
    folds: tuple[str, ...]
    against: tuple[str, ...] = ()
    """Other scores whose corrected test says the opposite, each as a clause."""


def decimals(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a true minus sign; NaN is spelled out."""
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", _MINUS)


def interval(low: float, high: float, digits: int = 3) -> str:
    """Both ends, as in `-0.012 to +0.145`; undefined if one of them is."""
    if math.isnan(low) or math.isnan(high):
        return UNDEFINED
    return f"{decimals(low, digits, signed=True)} to {decimals(high, digits, signed=True)}"


def p_text(value: float) -> str:
    """A p value with three decimals, never as zero."""
    if math.isnan(value):
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(number: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dash_text(dashes: Dashes, line_width: float = 2.5) -> str:
    """Dash lengths in line widths, as SVG's `stroke-dasharray` in pixels."""
    return " ".join(f"{length * line_width:g}" for length in dashes) or "none"


def verdict(difference: Difference) -> Verdict:
    """What the interval allows: `helps` or `harms` if it leaves out zero, else `open`.

    Also `open` where the interval is undefined, or stands on so few pairs that no paired test could confirm it.
    """
    if smallest_p(difference.num_pairs) > SIGNIFICANCE:
        return "open"
    if difference.low > 0:
        return "helps"
    return "harms" if difference.high < 0 else "open"


def smallest_p(num_pairs: int) -> float:
    """The smallest two-sided p that a signed-rank test of so many pairs can give: both sign patterns of 2^n."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def headline(difference: Difference) -> Headline:
    """The comparison in words, with what limits it."""
    return Headline(
        verdict=verdict(difference),
        claim=f"{difference.class_name}: {_claim(difference)}",
        numbers=_numbers(difference),
        caveats=tuple(_caveats(difference)),
    )


def _claim(difference: Difference) -> str:
    arm, baseline = difference.arm, difference.baseline
    if math.isnan(difference.low) or math.isnan(difference.high):
        return f"{arm} and {baseline} cannot be compared, there is no interval."
    if smallest_p(difference.num_pairs) > SIGNIFICANCE:
        return f"too few cases to tell {arm} from {baseline}."
    return {
        "helps": f"{arm} helps. Its Dice is higher than that of {baseline}.",
        "harms": f"{arm} harms. Its Dice is lower than that of {baseline}.",
        "open": f"no evidence of a difference between {arm} and {baseline}.",
    }[verdict(difference)]


def _numbers(difference: Difference) -> str:
    folds = ", ".join(difference.folds)
    where = f"{count(difference.num_pairs, 'case')}, fold {folds}"
    change = decimals(difference.estimate, signed=True)
    return f"Mean Dice difference {change} (95 % interval {interval(difference.low, difference.high)}) over {where}."


def _caveats(difference: Difference) -> list[str]:
    decided, floor = verdict(difference) != "open", smallest_p(difference.num_pairs)
    caveats = [
        "The interval is about which cases were drawn. One training per arm and fold stands behind it (a single "
        "seed): how much the scores change from one random seed to another is not in it."
    ]
    if floor > SIGNIFICANCE:
        caveats.append(
            f"With {count(difference.num_pairs, 'pair')} of cases the smallest p value the Wilcoxon test can give is "
            f"{floor:.3f}, and a bootstrap interval is too narrow."
        )
    elif not decided:
        caveats.append("No evidence of a difference is not evidence of none: the interval says what remains possible.")
    caveats += [f"Another score says the opposite: {clause}." for clause in difference.against]
    if decided and not difference.p_value <= SIGNIFICANCE:
        caveats.append(
            "The Wilcoxon test, corrected for all rows of the table, does not confirm it "
            f"(p {p_text(difference.p_value)}): read the verdict with care."
        )
    return caveats
