"""Names and figures -> Markdown, in which a name is never markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluation.intervals import wilson


def to_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_texts: int) -> str:
    """Return a table whose first `num_texts` columns are names, with any characters; the others are figures."""
    rule = ["---" if number < num_texts else "---:" for number in range(len(header))]
    lines = [list(header), rule, *([*map(plain, row[:num_texts]), *row[num_texts:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return the text as one line in which nothing is markup, neither of Markdown nor of HTML."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{char}" if char in "\\`*_[]|~$" else char for char in text)


def code(text: str) -> str:
    """Return a span of code, whatever backticks are in the text."""
    text = " ".join(text.split())
    fence = "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def share(value: float, n: int) -> str:
    """Return a share of n images with Wilson's interval of 95 %."""
    low, high = wilson(round(value * n), n)
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def with_interval(row: Mapping[Any, Any], name: str) -> str:
    """Return a figure of a row and its interval in brackets; nothing where it is not defined."""
    if pd.isna(row[name]):
        return ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.3f}" + ("" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]")
