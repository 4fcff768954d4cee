"""A table of scores, and audits of its benchmarks -> one HTML file for people who decide about a detector.

Pictures, styles and thumbnails are inside the file, and it loads nothing from a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.metrics import RATES
from evaluation.tables.report import make_table
from evaluation.tables.scores import ScoreTable
from reporting.audits import audited
from reporting.blocks import Section
from reporting.curves import calibrated, ranking
from reporting.damage import robustness
from reporting.mistakes import mistakes
from reporting.prototype_use import prototype_use
from reporting.provenance import absences, made
from reporting.results import by_source, subsets, summary
from reporting.template import write_page

if TYPE_CHECKING:
    from evaluation.audit.audit import Audit

TITLE = "Detector report"


def write_report(
    path: Path, scores: ScoreTable, *, audits: Mapping[str, Audit] | None = None, thumbnails: bool = True
) -> None:
    """Write the file whole or not at all.

    audits       name of a benchmark -> what evaluation.audit.audit found
    thumbnails   show the worst mistakes as small images, read from where the table says that they are
    """
    sections = make_sections(scores, audits=audits or {}, thumbnails=thumbnails)
    write_page(path, sections, title=TITLE, models=scores.models)


def make_sections(scores: ScoreTable, *, audits: Mapping[str, Audit], thumbnails: bool) -> list[Section]:
    """Return the sections in the order of the page, without those that the table has nothing for."""
    table = make_table(scores).astype(dict.fromkeys(RATES, float))  # a figure that no row has is None
    sections = [
        summary(table, absent=absences(scores)),
        subsets(table),
        ranking(scores),
        calibrated(scores),
        by_source(scores),
        robustness(scores),
        audited(audits) if audits else None,
        prototype_use(scores),
        mistakes(scores, thumbnails=thumbnails),
        made(scores),
    ]
    return [section for section in sections if section is not None]
