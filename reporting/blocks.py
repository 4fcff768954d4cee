"""The parts of a report: sections of sentences, tables, pictures and galleries, for a template to lay out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """The text of a table's cell, and fractions in [0, 1] to draw: `at` between `low` and `high`, or a `heat`."""

    text: str
    low: float | None = None
    at: float | None = None
    high: float | None = None
    heat: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading, and whether numbers or texts are below it."""

    heading: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """A table of a report.

    num_heads    the first columns, which are the headings of their rows
    emphasised   numbers of rows to print in bold
    folded       how many rows are shown; a click shows the others. None shows all
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    num_heads: int = 1
    emphasised: frozenset[int] = frozenset()
    folded: int | None = None
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """An inline SVG. `label` describes it for those who cannot see it; `caption` is for all."""

    svg: Markup
    label: str
    caption: str
    is_wide: bool = False
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, where there is room."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Words:
    """A paragraph, or a list of sentences, with or without a heading of the third rank."""

    sentences: Sequence[str] = ()
    heading: str = ""
    as_list: bool = False
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Thumbnail:
    """An image of a gallery. `source` is a data URI; without it only the name is shown."""

    name: str
    score: str
    origin: str
    source: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Gallery:
    """Small images under one caption."""

    caption: str
    items: Sequence[Thumbnail]
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


Block = Table | Picture | Pictures | Words | Gallery | Facts


@dataclass(frozen=True)
class Section:
    """A section of the page at the address `anchor`; `meaning` is a sentence or two for those who decide."""

    anchor: str
    title: str
    meaning: str
    blocks: Sequence[Block] = field(default=())


# What figures are called in captions and headings.
FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "ap": "average precision",
    "flips": "verdicts that flip",
    "flips_sure": "verdicts that flip and are sure",
    "unsure": "verdicts that are unsure",
}


# ---------------------------------------------------------------------------------------------------------
# Cells


def fraction(value: Any) -> str:
    """Write three digits; nothing where a figure is not defined."""
    return "" if pd.isna(value) else f"{value:.3f}"


def percent(value: Any) -> str:
    """Write a fraction as a percentage with one digit."""
    return "" if pd.isna(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def count(value: Any) -> str:
    """Write a whole number."""
    return "" if pd.isna(value) else f"{int(value):,}"


def ranged(value: Any, low: Any, high: Any, *, write: Callable[[Any], str] = fraction) -> Cell:
    """Return a cell with a figure and its interval in brackets, both drawn below."""
    if pd.isna(value):
        return Cell("")
    if pd.isna(low):
        return Cell(write(value), at=float(value))
    ends = f"[{write(low)}, {write(high)}]".replace("\N{NO-BREAK SPACE}%,", ",")
    return Cell(f"{write(value)} {ends}", low=float(low), at=float(value), high=float(high))


def shorten(name: str, *, limit: int = 48) -> str:
    """Leave out the middle of a long name; what cannot be printed becomes a question mark."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    if len(name) <= limit:
        return name
    head = (limit - 3) // 2
    return f"{name[:head]}...{name[len(name) - (limit - 3 - head) :]}"


def to_table(
    frame: pd.DataFrame,
    *,
    caption: str,
    headings: Mapping[str, str],
    texts: Iterable[str] = (),
    writers: Mapping[str, Callable[[Any], str]] | None = None,
    num_heads: int = 1,
    folded: int | None = None,
) -> Table:
    """Return the columns of a frame that `headings` names, in its order.

    texts     columns of text, aligned to the left; in other columns, whole numbers are counts, the rest fractions
    writers   column -> how to write its values instead
    """
    left, known = set(texts), dict(writers or {})

    def cell(name: str, value: Any) -> Cell:
        if name in known:
            return Cell(known[name](value))
        if name in left:
            return Cell("" if pd.isna(value) else str(value))
        return Cell(count(value) if isinstance(value, int) else fraction(value))

    shown = [name for name in headings if name in frame]
    return Table(
        caption,
        [Column(headings[name], name not in left) for name in shown],
        [[cell(name, row[name]) for name in shown] for row in frame.to_dict("records")],
        num_heads=num_heads,
        folded=folded,
    )
