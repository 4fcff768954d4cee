"""A table of metrics -> text for a terminal, Markdown or LaTeX, with the columns that a reader compares."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import fill
from typing import Any

import pandas as pd

from evaluation.tables.rows import NO_SUBSET

MAX_NAME = 24  # characters of a name on a terminal
MAX_NOTE = 18  # characters of a note in its row; longer ones are below the table
WIDTH = 140  # characters of a line of these notes
COUNTS = ("n_real", "n_fake", "unreadable")
# Column of a report -> its heading. Others are in the CSV.
HEADINGS = {
    "model": "model",
    "benchmark": "benchmark",
    "subset": "subset",
    "method": "method",
    "n_real": "n_real",
    "n_fake": "n_fake",
    "accuracy": "acc",
    "real_accuracy": "real",
    "fake_accuracy": "fake",
    "balanced_accuracy": "bal_acc",
    "balanced_accuracy_at_0.5": "at_0.5",
    "balanced_accuracy_oracle": "oracle",
    "ap": "ap",
    "auroc": "auroc",
    "auroc_95": "auroc_95%",
    "unreadable": "unread",
    "note": "note",
}
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {char: f"\\{char}" for char in "%_&#${}"}


def to_text(table: pd.DataFrame) -> str:
    """Return the table for a terminal: fractions with three digits, blank where a figure is not defined.

    bal_acc is at the model's threshold; at_0.5 and oracle are balanced accuracies too. Below it are long
    notes, and benchmarks without scores, by reason.
    """
    is_absent = table["subset"] == NO_SUBSET
    shown = _shown(table[~is_absent])
    notes: dict[str, int] = {}
    columns: list[list[str]] = []
    if "note" in shown:
        for note in shown["note"]:
            if len(note) > MAX_NOTE:
                notes.setdefault(note, len(notes) + 1)
        shown["note"] = [f"[{notes[note]}]" if note in notes else note for note in shown["note"]]
    for name in shown:
        cells = [name, *(each if len(each) <= MAX_NAME else f"{each[: MAX_NAME - 2]}.." for each in shown[name])]
        width = max(map(len, cells))
        columns.append([cell.ljust(width) if _is_text(name) else cell.rjust(width) for cell in cells])
    lines = [" ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    below = [fill(f"[{number}] {note}", WIDTH, subsequent_indent="    ") for note, number in notes.items()]
    absent = [
        fill(f"{note}: {', '.join(names.unique())}", WIDTH, subsequent_indent="    ")
        for note, names in table[is_absent].groupby("note", sort=False)["benchmark"]
    ]
    return "\n".join([*lines, *below, *absent])


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in GitHub's Markdown."""
    shown = _shown(table)
    rule = ["---" if _is_text(name) else "---:" for name in shown.columns]
    lines = [list(shown.columns), rule, *_cells(shown, lambda cell: cell.replace("|", "\\|"))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(table: pd.DataFrame) -> str:
    r"""Return a tabular that needs \usepackage{booktabs}."""
    shown = _shown(table)
    columns = "".join("l" if _is_text(name) else "r" for name in shown.columns)
    lines = [[escape_latex(name) for name in shown.columns], *_cells(shown, escape_latex)]
    heading, *body = [f"{' & '.join(line)} \\\\\n" for line in lines]
    begin = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    return f"{begin}{heading}\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n"


def escape_latex(text: str) -> str:
    """Escape the characters that LaTeX takes for commands."""
    return "".join(_LATEX.get(char, char) for char in text)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns as text under their headings, without those that say nothing.

    Left out are blank columns, the name of a single model, a column of no unreadable images, and the figures at
    0.5 where that is the threshold anyway.
    """
    table = table.copy()
    if "auroc_low" in table:
        ends = zip(table["auroc_low"], table["auroc_high"], strict=True)
        table["auroc_95"] = ["" if pd.isna(low) else f"{low:.3f}-{high:.3f}" for low, high in ends]
    table = table[[name for name in HEADINGS if name in table]].dropna(axis="columns", how="all")
    unneeded = ["model"] if "model" in table and table["model"].nunique() == 1 else []
    if "unreadable" in table and not table["unreadable"].any():
        unneeded.append("unreadable")
    twice = ("balanced_accuracy", "balanced_accuracy_at_0.5")
    if set(twice) <= set(table) and table[twice[0]].equals(table[twice[1]]):
        unneeded.append(twice[1])
    table = table.drop(columns=unneeded)
    shown = {HEADINGS[name]: [_text(name, value) for value in table[name]] for name in table.columns}
    return pd.DataFrame({heading: cells for heading, cells in shown.items() if any(cells)})


def _text(name: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if name in COUNTS:
        return f"{int(value)}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_text(heading: str) -> bool:
    return heading in ("model", "benchmark", "subset", "method", "note")


def _cells(shown: pd.DataFrame, escape: Callable[[str], str]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in shown.itertuples(index=False)]
