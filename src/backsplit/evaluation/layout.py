"""Tables as a paper prints them: arms as rows, metrics as columns, best in bold, significance marked, choices below."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from backsplit.errors import ConfigurationError
from backsplit.evaluation.definitions import Metric, metric_of
from backsplit.evaluation.empty import policy_named
from backsplit.evaluation.statistics import COMPARED

SIGNIFICANT = 0.05
PAPER_METRICS = ("dice", "hd95_mm", "nsd")
FORMATS = ("markdown", "latex", "csv", "html")


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell."""

    text: str
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A table that is ready to be written in any format."""

    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    caption: str


def arrange(summary: pd.DataFrame, comparison: pd.DataFrame, *, paper: pd.DataFrame | None = None) -> Layout:
    """A row per class and arm; columns Dice, HD95 and NSD at every tolerance.

    Args:
        summary: of `summarise`.
        comparison: of `compare`; a difference with a corrected p below 0.05 is marked with a star.
        paper: rows of `paper_numbers`, put below, where a column has their metric.

    Returns:
        The best mean of each class and metric is marked; the caption names baseline, rule, unit, empty policy, and how
        many values were undefined.
    """
    metrics = [m for m in map(metric_of, _mean_columns(summary)) if m is not None and _is_main(m)]
    rows: list[tuple[Entry, ...]] = [
        (
            Entry(str(row["class"])),
            Entry(str(row["arm"])),
            *(_cell(row, metric, summary, comparison) for metric in metrics),
        )
        for _, row in summary.iterrows()
    ]
    if paper is not None:
        rows += _paper_rows(paper, metrics)
    header = ("Class", "Arm", *(f"{metric.label} {'↑' if metric.better == 'higher' else '↓'}" for metric in metrics))
    caption = _caption(summary, comparison, metrics)
    if paper is not None:
        caption += " Rows of the paper: its rule for empty masks and its NSD tolerance are not stated."
    return Layout(header, tuple(rows), caption)


def paper_numbers(table: int | None = None) -> pd.DataFrame:
    """What the paper printed, as far as this package knows it: Tables 1 to 4 and 12, in part; Saluja et al. 2025.

    The numbers come from notes on the paper, not from its own pages; the column `printed_in` says which.

    Args:
        table: its number; by default all.

    Raises:
        ConfigurationError: no number of that table is known.
    """
    with files("backsplit.evaluation").joinpath("paper.csv").open(encoding="utf-8") as handle:
        numbers = pd.read_csv(handle)
    if table is None:
        return numbers
    chosen = numbers[numbers["table"] == table]
    if chosen.empty:
        known = ", ".join(str(number) for number in sorted(numbers["table"].unique()))
        raise ConfigurationError(f"no number of the paper's table {table} is known here; there are tables {known}")
    return chosen


def render(layout: Layout, fmt: str) -> str:
    """The table as `markdown`, `latex`, `csv` or `html`; names are escaped."""
    writers: dict[str, Callable[[Layout], str]] = {
        "markdown": _markdown,
        "latex": _latex,
        "csv": _csv,
        "html": _html,
    }
    return writers[fmt](layout)


def _mean_columns(summary: pd.DataFrame) -> list[str]:
    return [column.removeprefix("mean_") for column in summary.columns if column.startswith("mean_")]


def _is_main(metric: Metric) -> bool:
    return metric.column in COMPARED or metric.column.startswith("nsd_")


def _cell(row: pd.Series, metric: Metric, summary: pd.DataFrame, comparison: pd.DataFrame) -> Entry:
    value = row[f"mean_{metric.column}"]
    if pd.isna(value):
        return Entry("-")
    others = summary.loc[summary["class"] == row["class"], f"mean_{metric.column}"].dropna()
    best = others.max() if metric.better == "higher" else others.min()
    tested = comparison.query("arm == @row['arm'] and `class` == @row['class'] and metric == @metric.column")
    star = "*" if (tested["p_holm"] < SIGNIFICANT).any() else ""
    return Entry(_number(value, metric) + star, is_best=bool(value == best) and len(others) > 1)


def _number(value: float, metric: Metric) -> str:
    return f"{value:.1f}" if metric.column.endswith("_mm") else f"{value:.3f}"


def _paper_rows(paper: pd.DataFrame, metrics: Sequence[Metric]) -> list[tuple[Entry, ...]]:
    keys = ["table", "data_set", "target", "network", "arm"]
    rows: list[tuple[Entry, ...]] = []
    for _, group in paper.groupby(keys, sort=False):
        table, data_set, target, network, arm = group.iloc[0][keys]
        printed = dict(zip(group["metric"], group["value"], strict=True))
        cells = [printed.get("nsd" if metric.column.startswith("nsd_") else metric.column) for metric in metrics]
        shown = [
            Entry("" if value is None else _number(value, metric)) for value, metric in zip(cells, metrics, strict=True)
        ]
        rows.append((Entry(f"{target} ({data_set})"), Entry(f"{arm}, {network}, paper's table {table}"), *shown))
    return rows


def _caption(summary: pd.DataFrame, comparison: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    undefined = [
        f"{metric.label} {count}"
        for metric in metrics
        if (count := int(summary[f"num_undefined_{metric.column}"].sum()))
    ]
    policy = policy_named(str(summary["empty_policy"].iloc[0]))
    parts = [f"Means over cases; rule {' and '.join(sorted(summary['rule'].unique()))}.", policy.describe()]
    parts.append(f"Undefined values: {', '.join(undefined) or 'none'}.")
    if len(comparison):
        unit, baseline = comparison["unit"].iloc[0], comparison["baseline"].iloc[0]
        parts.append(f"* differs from {baseline} (Wilcoxon over {unit}s, Holm-corrected p below {SIGNIFICANT}).")
    return " ".join(parts)


def _markdown(layout: Layout) -> str:
    def cell(entry: Entry) -> str:
        text = entry.text.replace("|", "\\|")
        return f"**{text}**" if entry.is_best else text

    lines = [layout.header, ["---"] * len(layout.header), *([cell(entry) for entry in row] for row in layout.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{layout.caption}\n"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def _latex(layout: Layout) -> str:
    def escape(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    def cell(entry: Entry) -> str:
        return rf"\textbf{{{escape(entry.text)}}}" if entry.is_best else escape(entry.text)

    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{ll{'r' * (len(layout.header) - 2)}}}", r"\hline"]
    lines += [" & ".join(map(escape, layout.header)) + r" \\", r"\hline"]
    lines += [" & ".join(map(cell, row)) + r" \\" for row in layout.rows]
    lines += [r"\hline", r"\end{tabular}", rf"\caption{{{escape(layout.caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _csv(layout: Layout) -> str:
    rows = [[entry.text for entry in row] for row in layout.rows]
    table = pd.DataFrame(rows, columns=list(layout.header)).to_csv(index=False, lineterminator="\n")
    return f"{table}# {layout.caption}\n"


def _html(layout: Layout) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    def cell(entry: Entry) -> str:
        text = html.escape(entry.text)
        return f"<strong>{text}</strong>" if entry.is_best else text

    head = row([html.escape(name) for name in layout.header], "th")
    body = "\n".join(row([cell(entry) for entry in each], "td") for each in layout.rows)
    caption = html.escape(layout.caption)
    return f"<table>\n<caption>{caption}</caption>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"
