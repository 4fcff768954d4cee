"""A table of metrics, and scores -> the sections of a report with its results, in tables."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from evaluation.audit.shortcuts import false_positives
from evaluation.tables.report import headlines
from evaluation.tables.rows import ALL_IMAGES, MEAN, NO_SUBSET, OVERALL
from evaluation.tables.scores import ScoreTable
from reporting.blocks import Block, Cell, Column, Section, Table, Words, count, percent, ranged, to_table

MAX_SENTENCES = 4  # about a model
FOLDED_ROWS = 15  # rows of a long table that are shown at once
# What is wrong of a class -> the share of it that is right.
ERRORS = {"real images called fake": "real_accuracy", "fakes missed": "fake_accuracy"}
SUBSET_COLUMNS = {
    "model": "model",
    "subset": "subset",
    "n_real": "real",
    "n_fake": "fake",
    "auroc": "AUROC",
    "ap": "AP",
    "balanced_accuracy": "bal. acc.",
    "accuracy": "acc.",
    "real_accuracy": "real right",
    "fake_accuracy": "fake right",
    "tpr_at_5_fpr": "found at 5\N{NO-BREAK SPACE}% FPR",
    "published_accuracy": "published acc.",
    "published_ap": "published AP",
    "note": "note",
}


def summary(table: pd.DataFrame, *, absent: list[str]) -> Section:
    """Return the section with one row for each model and benchmark, and what is not in the figures."""
    rows = headlines(table)
    heads = ["model", "benchmark"] if table["model"].nunique() > 1 else ["benchmark"]
    columns = [Column(name, False) for name in heads]
    columns += [Column(name) for name in ("real", "fake", "AUROC", "balanced accuracy", *ERRORS)]
    cells = [_summary_row(row, heads) for row in rows.to_dict("records")]
    means = frozenset(i for i, name in enumerate(rows["benchmark"]) if name == OVERALL)
    caption = (
        "Unweighted means over subsets, or all images together where no subset has both classes. In brackets, and "
        "drawn from 0 to 1, are 95 % bootstrap intervals. Errors are at the threshold stored with the detector."
    )
    blocks: list[Block] = [Words(list(_sentences(rows)), as_list=True)]
    blocks.append(Table(caption, columns, cells, num_heads=len(heads), emphasised=means))
    if absent:
        blocks.append(Words(absent, heading="Not in these figures", as_list=True))
    meaning = (
        "AUROC is the chance that a fake scores above a real image: 1 is perfect, 0.5 is guessing. What counts in "
        "practice are the two kinds of error on the right: false alarms, and fakes that pass."
    )
    return Section("summary", "Summary", meaning, blocks)


def _summary_row(row: Mapping[Hashable, Any], heads: list[str]) -> list[Cell]:
    cells = [Cell("mean over benchmarks" if row[name] == OVERALL else str(row[name])) for name in heads]
    cells += [Cell(count(row[name])) for name in ("n_real", "n_fake")]
    cells += [
        ranged(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("auroc", "balanced_accuracy")
    ]
    for name in ERRORS.values():
        cells.append(ranged(1 - row[name], 1 - row[f"{name}_high"], 1 - row[f"{name}_low"], write=percent))
    return cells


def _sentences(rows: pd.DataFrame) -> Iterator[str]:
    """Say the errors of each model: over all benchmarks, or on each of the first if there is no mean."""
    for model, of_model in rows.groupby("model", sort=False):
        overall = of_model[of_model["benchmark"] == OVERALL]
        for row in (overall if len(overall) else of_model.head(MAX_SENTENCES)).to_dict("records"):
            where = "Over the benchmarks" if len(overall) else f"On {row['benchmark']}"
            rates = (("of real images are called fake", "real_accuracy"), ("of fakes are missed", "fake_accuracy"))
            errors = [f"{percent(1 - row[name])} {what}" for what, name in rates if pd.notna(row[name])]
            if errors:
                yield f"{where}, {model}: at a threshold of {row['threshold']:.3g}, {' and '.join(errors)}."


def subsets(table: pd.DataFrame) -> Section:
    """Return the section with a table for each benchmark, a row for each subset."""
    blocks: list[Block] = []
    heads = ["model", "subset"] if table["model"].nunique() > 1 else ["subset"]
    headings = {
        key: text for key, text in SUBSET_COLUMNS.items() if key in heads or key not in ("model", "subset")
    }
    for benchmark, rows in table[table["subset"] != NO_SUBSET].groupby("benchmark", sort=False):
        if benchmark == OVERALL:
            continue
        shown = rows.dropna(axis="columns", how="all").replace({"note": {"": pd.NA}}).dropna(axis=1, how="all")
        of_benchmark = to_table(
            shown,
            caption=f"{benchmark}, at the threshold stored with the detector",
            headings=headings,
            texts=["model", "subset", "note"],
            writers={"n_real": count, "n_fake": count},
            num_heads=len(heads),
        )
        means = frozenset(i for i, name in enumerate(shown["subset"]) if name in (MEAN, ALL_IMAGES))
        blocks += [Words(heading=str(benchmark)), replace(of_benchmark, emphasised=means)]
    meaning = (
        "A mean hides generators that the detector does not recognise. Look for rows where few fakes are right: "
        "images of these generators pass. Found at 5\N{NO-BREAK SPACE}% FPR is the share of fakes found if one "
        "real image in twenty may raise a false alarm."
    )
    return Section("subsets", "Results by subset", meaning, blocks)


def by_source(scores: ScoreTable) -> Section:
    """Return the section with the real images called fake, by source and by file format."""
    blocks: list[Block] = []
    for model in scores.models:
        rows = scores.readable(model).assign(camera="")
        found = false_positives(rows, threshold=scores.threshold(model))
        shown = {"source": "source"} | ({"format": "file format"} if (rows["format"] != "").any() else {})
        for by, called in shown.items():
            of_kind = found[found["by"] == by]
            if of_kind.empty:
                continue
            cells = [_source_row(row) for row in of_kind.to_dict("records")]
            columns = [Column(called, False), Column("real images"), Column("called fake"), Column("rate")]
            blocks.append(
                Table(f"{model}: real images called fake, by {called}", columns, cells, folded=FOLDED_ROWS)
            )
    if not blocks:
        blocks.append(Words(["No real image has a score."]))
    meaning = (
        "A detector that is right on average can still accuse one camera, archive or file format again and again. "
        "Rates from few real images are uncertain; the interval (Wilson, 95 %) says how much."
    )
    return Section("false-positives", "False positives by source", meaning, blocks)


def _source_row(row: Mapping[Hashable, Any]) -> list[Cell]:
    rate = ranged(row["rate"], row["low"], row["high"], write=percent)
    return [Cell(row["value"]), Cell(count(row["n"])), Cell(count(row["false_positives"])), rate]
