"""What a report consists of: sections of sentences, tables, pictures and galleries, for a template to lay out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """Text of a table. Fractions in [0, 1] beside it are drawn: `at` between `low` and `high`, or a `heat`."""

    text: str
    low: float | None = None
    at: float | None = None
    high: float | None = None
    heat: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading, and whether numbers or texts stand below it."""

    heading: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """The first `num_heads` columns head their row. `emphasised` are numbers of rows; of those from `folded` on a
    reader sees a line to open."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    num_heads: int = 1
    emphasised: frozenset[int] = frozenset()
    folded: int | None = None
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """An inline SVG. `label` says in words what it shows, for those who cannot see it; `caption` is for all."""

    svg: Markup
    label: str
    caption: str
    is_wide: bool = False
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Pictures:
    """Side by side where there is room."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Words:
    """A paragraph, or a list of sentences; a `heading` above them is of the third rank."""

    sentences: Sequence[str] = ()
    heading: str = ""
    as_list: bool = False
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Thumbnail:
    """An image of a gallery; without a `source`, which is a data URI, its name stands alone."""

    name: str
    score: str
    origin: str
    source: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Gallery:
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
    """`anchor` is its address in the page, `meaning` a sentence or two for who has to decide something."""

    anchor: str
    title: str
    meaning: str
    blocks: Sequence[Block] = field(default=())


# ---------------------------------------------------------------------------------------------------------
# Cells


def fraction(value: Any) -> str:
    """Three digits; empty where a figure is not defined."""
    return "" if pd.isna(value) else f"{value:.3f}"


def percent(value: Any) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def count(value: Any) -> str:
    return "" if pd.isna(value) else f"{int(value):,}"


def ranged(value: Any, low: Any, high: Any, *, write: Callable[[Any], str] = fraction) -> Cell:
    """A figure, its interval in brackets, and both drawn."""
    if pd.isna(value):
        return Cell("")
    if pd.isna(low):
        return Cell(write(value), at=float(value))
    ends = f"[{write(low)}, {write(high)}]".replace("\N{NO-BREAK SPACE}%,", ",")
    return Cell(f"{write(value)} {ends}", low=float(low), at=float(value), high=float(high))


def shorten(name: str, *, limit: int = 48) -> str:
    """The middle is left out; what cannot be printed becomes a question mark."""
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
    """The columns that `headings` names, in its order. `texts` are left-aligned; of the others a whole number is a
    count and the rest a fraction, unless `writers` has a way to write it."""
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
