"""Audits of benchmarks -> the section of a report that says how far to trust its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reporting.blocks import Block, Section, Table, Words, percent, to_table
from reporting.results import FOLDED_ROWS

if TYPE_CHECKING:
    from evaluation.audit.audit import Audit

TEXTS = ("trait", "degradation", "class", "by", "value", "uri", "partner")
ENDS = {"low": "from", "high": "to"}
# Attribute of an audit -> caption, and column -> heading.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "traits": (
        "Label predicted from traits of the files, AUROC",
        {"trait": "trait", "auroc": "AUROC", **ENDS},
    ),
    "re_encoded": (
        "Scores after both classes were encoded alike",
        {"degradation": "degradation", "n": "images", "auroc": "AUROC", "fall": "fall"},
    ),
    "correlations": (
        "Rank correlation of scores with traits",
        {"trait": "trait", "class": "class", "n": "images", "spearman": "Spearman"},
    ),
    "false_positives": (
        "Real images called fake",
        {"by": "by", "value": "value", "n": "images", "false_positives": "called fake", "rate": "rate", **ENDS},
    ),
    "across_classes": (
        "Fakes that look like a real image",
        {"uri": "image", "partner": "looks like", "bits": "bits apart"},
    ),
    "with_train": ("Images that look like one of the training", {"uri": "image", "partner": "looks like"}),
}


def audited(audits: Mapping[str, Audit]) -> Section:
    """Return the section with the verdict and the tables of each benchmark's audit."""
    blocks: list[Block] = []
    for name, audit in audits.items():
        blocks.append(Words(audit.verdict, heading=name, as_list=True))
        blocks += _tables(audit)
    meaning = (
        "In some benchmarks real images are JPEG and fakes PNG, or they differ in size. A detector may then be "
        "right for a reason that is worth nothing on your platform. The audit says how well traits of the files "
        "alone predict the label."
    )
    return Section("audit", "Audit of the benchmarks", meaning, blocks)


def _tables(audit: Audit) -> list[Table]:
    tables = []
    for name, (caption, headings) in TABLES.items():
        table = getattr(audit, name)
        if table is not None and len(table):
            rates = dict.fromkeys(("rate", *ENDS), percent) if "rate" in table else {}
            writers = {"trait": lambda trait: trait.replace("_", " "), **rates}
            tables.append(
                to_table(
                    table, caption=caption, headings=headings, texts=TEXTS, writers=writers, folded=FOLDED_ROWS
                )
            )
    return tables
