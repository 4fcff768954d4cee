"""What was found of two streams of images -> a page for people who decide what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evaluation.drift import words
from evaluation.drift.drift import Change, Drift
from evaluation.drift.label_first import Chosen
from evaluation.drift.stream import Stream
from gapl.cli import printable
from reporting.blocks import Block, Cell, Column, Facts, Pictures, Section, Table, Words, count, percent
from reporting.plots import before_and_now
from reporting.results import FOLDED_ROWS
from reporting.svg import to_picture
from reporting.template import write_page

TITLE = "Has the stream of images changed?"


def write_drift(path: Path, drift: Drift, chosen: Sequence[Chosen]) -> None:
    """Write the page whole or not at all."""
    sections = [_answer(drift), _values(drift), *_to_label(chosen), _made(drift)]
    write_page(path, sections, title=TITLE, models=[printable(each.path) for each in (drift.before, drift.now)])


def _answer(drift: Drift) -> Section:
    columns = [Column("property", False), Column("answer", False), Column("what moved", False), Column("p")]
    rows = [_row(each) for each in drift.changes]
    changed = frozenset(i for i, each in enumerate(drift.changes) if each.changed)
    caption = "The surest change first. Brackets are 95 % intervals; p is adjusted for the number of properties."
    counted = [f"{name}: {words.counted(each)}." for name, each in (("Before", drift.before), ("Now", drift.now))]
    blocks: list[Block] = [Words(counted, as_list=True), Table(caption, columns, rows, emphasised=changed)]
    if drift.left_out:
        blocks.append(Words([f"Not both tables tell for all images: {', '.join(drift.left_out)}."]))
    blocks.append(Words([words.reach(drift)], heading="What such tables can find"))
    return Section("answer", words.answer(drift).capitalize(), words.promise(drift), blocks)


def _row(change: Change) -> list[Cell]:
    said = "changed" if change.changed else "no change found"
    return [Cell(change.property.name), Cell(said), Cell(words.sentence(change)), Cell(words.p_text(change.p))]


def _values(drift: Drift) -> Section:
    numbers = [each for each in drift.changes if each.property.is_number]
    pictures = [
        to_picture(
            before_and_now(each.property.before_N, each.property.now_M, name=each.property.name),
            label=f"{each.property.name} before and now",
            caption=f"{each.property.name}: shares of the images of each table",
        )
        for each in numbers
    ]
    tables = [_shares(each) for each in drift.changes if not each.property.is_number]
    blocks: list[Block] = [*([Pictures(pictures)] if pictures else []), *tables]
    return Section("values", "Before and now", "What the images of the two tables are like.", blocks)


def _shares(change: Change) -> Table:
    groups = change.groups
    totals = int(groups.before_K.sum()), int(groups.now_K.sum())
    rows = [
        [Cell(printable(name)), *(_share(int(each), total) for each, total in zip(pair, totals, strict=True))]
        for name, *pair in zip(groups.names_K, groups.before_K, groups.now_K, strict=True)
    ]
    columns = [Column(change.property.name, False), Column("before"), Column("now")]
    caption = f"{change.property.name}: {count(totals[0])} images before, {count(totals[1])} now"
    return Table(caption, columns, rows, folded=FOLDED_ROWS)


def _share(number: int, total: int) -> Cell:
    return Cell(f"{count(number)} ({percent(number / total)})", at=number / total)


def _to_label(chosen: Sequence[Chosen]) -> Iterator[Section]:
    if not chosen:
        return
    columns = [Column("image", False), Column("score"), Column("verdict", False), Column("reason", False)]
    rows = [
        [
            Cell(printable(each.path)),
            Cell(f"{each.score:.3f}", at=each.score),
            Cell(each.verdict),
            Cell(each.reason),
        ]
        for each in chosen
    ]
    meaning = (
        "Images of now that are unsure or far from training, and unlike each other. Their true labels tell most "
        "about what has changed, and how well the detector copes with it."
    )
    yield Section("label-first", "Label these first", meaning, [Table("", columns, rows, folded=FOLDED_ROWS)])


def _made(drift: Drift) -> Section:
    judgement = drift.before.judgement
    rule = judgement.rule
    pairs = [
        ("SHA-256 of the detector", judgement.sha256 or "not stated"),
        ("views", judgement.views),
        ("operating point", judgement.operating_point or "thresholds of the detector"),
        ("unsure", f"{rule.real_below:.4g} to {rule.threshold:.4g}" if rule.has_band else "never"),
        ("alpha, looks", f"{drift.alpha:g}, {drift.looks}"),
        *((name, _of_table(each)) for name, each in (("before", drift.before), ("now", drift.now))),
    ]
    meaning = "What you need to compare two such pages: both are of the same detector."
    return Section("made", "How this was made", meaning, [Facts(pairs)])


def _of_table(stream: Stream) -> str:
    return f"{printable(stream.path)}, {count(len(stream.images))} different images"
