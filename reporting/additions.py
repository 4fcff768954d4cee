"""What a detector gained and lost by learning new images -> a page for people who decide whether to deploy it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gapl.cli import printable
from reporting.blocks import Block, Cell, Column, Facts, Section, Table, Words, count, percent, ranged
from reporting.results import FOLDED_ROWS
from reporting.template import write_page

TITLE = "Before and after"


def write_additions(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the page whole or not at all; `facts` are those of prototype/addition.py."""
    write_page(
        path, [_new(facts), _old(facts), _made(facts["added"])], title=TITLE, models=[_names(facts["added"])]
    )


def _names(added: Mapping[str, Any]) -> str:
    return printable(", ".join(f"{source} ({count(number)} images)" for source, number in added["images"].items()))


def _new(facts: Mapping[str, Any]) -> Section:
    blocks: list[Block] = [_table("New images that were kept for judging", facts, group="new")]
    for name, heading in (
        ("suspects", "Their label looks wrong: a detector that learnt the others is sure of the opposite"),
        ("known", "Left out: the memory has them, or they are there twice"),
    ):
        if facts[name]:
            blocks.append(Words([printable(each) for each in facts[name]], heading=heading, as_list=True))
    meaning = "The share of images that are right, and its 95 % interval: few images say little."
    return Section("new", "New images", meaning, blocks)


def _old(facts: Mapping[str, Any]) -> Section:
    rows = [
        [Cell(name), Cell(f"{each['before']:.3f}"), Cell(f"{each['after']:.3f}")]
        for name, each in facts["overall"].items()
    ]
    columns = [Column("of all held-out images", False), Column("before"), Column("after")]
    unsure = f"{percent(facts['unsure']['before'])} were unsure, and {percent(facts['unsure']['after'])} are."
    flips = (
        f"{percent(facts['flips'])} of their verdicts change. {unsure} The largest loss is {facts['loss']:.3f}."
    )
    blocks: list[Block] = [
        Table("All of them", columns, rows), Words([flips]), _table("By kind", facts, group="old"),
    ]  # fmt: skip
    meaning = (
        "Images of sources that neither training nor the new images have seen: what was forgotten shows here."
    )
    return Section("old", "Held-out images", meaning, blocks)


def _table(caption: str, facts: Mapping[str, Any], *, group: str) -> Table:
    columns = [Column("what", False), Column("label", False), Column("images"), Column("before"), Column("after")]
    rows = [
        [
            Cell(printable(row["name"])),
            Cell(row["label"]),
            Cell(count(row["images"])),
            Cell(percent(row["before"]), at=row["before"]),
            ranged(row["after"], row["low"], row["high"], write=percent),
        ]
        for row in facts["rows"]
        if row["group"] == group
    ]
    return Table(caption, columns, rows, folded=FOLDED_ROWS)


def _made(added: Mapping[str, Any]) -> Section:
    pairs = [
        ("learnt", _names(added)),
        ("date", added["date"]),
        ("SHA-256 of the detector before", added["detector_sha256"]),
        ("SHA-256 of the list of images", added["images_sha256"]),
        ("settings", ", ".join(f"{name}: {value}" for name, value in added["settings"].items())),
    ]
    meaning = "The detector file says the same in its header. The detector from before is the way back."
    return Section("made", "How this was made", meaning, [Facts(pairs)])
