"""Tables as plain text for a terminal."""

import math

import pandas as pd

_SETTINGS = ("baseline", "rule", "unit", "num_seeds", "empty_policy")


def format_table(table: pd.DataFrame) -> str:
    """Plain text: settings that all rows share in one line above, headers stacked word by word, numbers to the right.

    Numbers have three decimals, p-values four significant digits at most, and undefined values are a dash.
    """
    shared = [name for name in _SETTINGS if name in table and len(table[name].unique()) == 1]
    lines = [", ".join(f"{name.replace('_', ' ')}: {_cell(name, table[name].iloc[0])}" for name in shared)]
    kept = table.drop(columns=shared)
    columns = [[*_header(name, kept), *(_cell(name, value) for value in kept[name])] for name in kept.columns]
    aligned = [_aligned(texts, name, kept) for texts, name in zip(columns, kept.columns, strict=True)]
    lines += ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
    num_above = len(lines) - len(kept)
    width = max(map(len, lines))
    lines.insert(num_above, "-" * width)
    return "\n".join(lines[0 if shared else 1 :]) + "\n"


def _header(name: str, table: pd.DataFrame) -> list[str]:
    height = max(other.count("_") + 1 for other in table.columns)
    words = name.split("_")
    return [""] * (height - len(words)) + words


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if name.startswith(("p_", "tolerance")) else f"{value:.3f}"
    return str(value)


def _aligned(texts: list[str], name: str, table: pd.DataFrame) -> list[str]:
    width = max(map(len, texts))
    is_number = pd.api.types.is_numeric_dtype(table[name])
    return [text.rjust(width) if is_number else text.ljust(width) for text in texts]
