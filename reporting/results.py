"""A table of scores -> the sections of a report that say how good the detectors are, and where they fail."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from evaluation.audit.shortcuts import false_positives
from evaluation.metrics import calibration_error
from evaluation.tables.published import ALL_IMAGES, MEAN, NO_SUBSET, OVERALL
from evaluation.tables.scores import CLEAN, ScoreTable
from gapl.verdict import decision_rule
from reporting import plots
from reporting.blocks import (
    Block,
    Cell,
    Column,
    Picture,
    Pictures,
    Section,
    Table,
    Words,
    count,
    percent,
    ranged,
    to_table,
)
from reporting.svg import to_svg

MAX_SENTENCES = 4  # about a model
FOLDED_ROWS = 15  # of a long table; the others are shown when they are asked for
RIGHT = ("real_accuracy", "fake_accuracy")
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


def readable(scores: ScoreTable, *, model: str, benchmark: str | None = None) -> pd.DataFrame:
    """The clean images that have a score, of one benchmark or each once."""
    frame = scores.frame
    rows = frame[(frame["model"] == model) & (frame["degradation"] == CLEAN) & (frame["error"] == "")]
    return rows.drop_duplicates("uri") if benchmark is None else rows[rows["benchmark"] == benchmark]


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Of a report's rows one for each model and benchmark: the mean over its subsets; all images at once where no
    subset has both classes; its only subset."""
    rows = table[table["subset"] != NO_SUBSET]
    rank = np.where(rows["subset"] == MEAN, 0, np.where(rows["subset"] == ALL_IMAGES, 1, 2))
    ranked = rows.assign(rank=rank, undefined=rows["balanced_accuracy"].isna())
    best = ranked.sort_values(["undefined", "rank"], kind="stable").drop_duplicates(["model", "benchmark"])
    kept = rows.loc[rows.index.isin(best.index)]
    # A mean over benchmarks is one of their means over subsets, which then are not shown.
    is_other = (kept["benchmark"] == OVERALL) & kept["balanced_accuracy"].isna()
    return kept if is_other.all() or kept["balanced_accuracy"].isna().all() else kept[~is_other]


# ---------------------------------------------------------------------------------------------------------
# Sections


def summary(table: pd.DataFrame, *, absent: list[str]) -> Section:
    rows = headlines(table)
    several = table["model"].nunique() > 1
    heads = ["model", "benchmark"] if several else ["benchmark"]
    columns = [Column(name, False) for name in heads] + [Column("real"), Column("fake")]
    columns += [Column(name) for name in ("AUROC", "balanced accuracy", "photographs called fake", "fakes missed")]
    cells = []
    for row in rows.to_dict("records"):
        wrong = [(1 - row[name], 1 - row[f"{name}_high"], 1 - row[f"{name}_low"]) for name in RIGHT]
        cells.append(
            [
                *(Cell(_called(str(row[name]))) for name in heads),
                *(Cell(count(row[name])) for name in ("n_real", "n_fake")),
                *(ranged(row[k], row[f"{k}_low"], row[f"{k}_high"]) for k in ("auroc", "balanced_accuracy")),
                *(ranged(*each, write=percent) for each in wrong),
            ]
        )
    means = frozenset(i for i, name in enumerate(rows["benchmark"]) if name == OVERALL)
    caption = (
        "Unweighted means over subsets, or all images at once where no subset has both classes. In brackets, and "
        "drawn from 0 to 1, intervals of 95 % by bootstrap. Errors are at the threshold stored with the detector."
    )
    blocks: list[Block] = [Words(list(_sentences(rows)), as_list=True)]
    blocks.append(Table(caption, columns, cells, num_heads=len(heads), emphasised=means))
    if absent:
        blocks.append(Words(absent, heading="Not in these figures", as_list=True))
    meaning = (
        "AUROC is the chance that a fake scores above a photograph: 1 is perfect, 0.5 is guessing. What a queue "
        "of reviewers feels is the two kinds of error on the right."
    )
    return Section("summary", "Summary", meaning, blocks)


def _sentences(rows: pd.DataFrame) -> Iterator[str]:
    for model, of_model in rows.groupby("model", sort=False):
        overall = of_model[of_model["benchmark"] == OVERALL]
        for row in (overall if len(overall) else of_model.head(MAX_SENTENCES)).to_dict("records"):
            where = "Over the benchmarks" if len(overall) else f"On {row['benchmark']}"
            rates = (("of photographs are called fake", "real_accuracy"), ("of fakes are missed", "fake_accuracy"))
            errors = [f"{percent(1 - row[name])} {what}" for what, name in rates if pd.notna(row[name])]
            if errors:
                yield f"{where}, {model}: at a threshold of {row['threshold']:.3g}, {' and '.join(errors)}."


def subsets(table: pd.DataFrame) -> Section:
    blocks: list[Block] = []
    for benchmark, rows in table[table["subset"] != NO_SUBSET].groupby("benchmark", sort=False):
        if benchmark == OVERALL:
            continue
        shown = rows.dropna(axis="columns", how="all").replace({"note": {"": pd.NA}}).dropna(axis=1, how="all")
        heads = ["model", "subset"] if table["model"].nunique() > 1 else ["subset"]
        headings = {k: v for k, v in SUBSET_COLUMNS.items() if k in heads or k not in ("model", "subset")}
        numbers = {"n_real": count, "n_fake": count}
        each = to_table(
            shown,
            caption=f"{benchmark}, at the threshold stored with the detector",
            headings=headings,
            texts=["model", "subset", "note"],
            writers=numbers,
            num_heads=len(heads),
        )
        means = frozenset(i for i, name in enumerate(shown["subset"]) if name in (MEAN, ALL_IMAGES))
        blocks.append(Words(heading=str(benchmark)))
        blocks.append(Table(each.caption, each.columns, each.rows, num_heads=each.num_heads, emphasised=means))
    meaning = (
        "A mean hides generators that the detector does not see. Look for rows where few fakes are right: images "
        "of these generators pass. Found at 5\N{NO-BREAK SPACE}% FPR: the share of fakes found if one photograph "
        "in twenty may raise a false alarm."
    )
    return Section("subsets", "Results by subset", meaning, blocks)


def ranking(scores: ScoreTable) -> Section:
    blocks: list[Block] = []
    for number, (benchmark, models) in enumerate(_by_benchmark(scores)):
        both = {name: pair for name, pair in models.items() if len(np.unique(pair[0])) == 2}
        if not both:
            blocks.append(Words(["One class only: there is nothing to rank."], heading=benchmark))
            continue
        pictures = []
        for name, draw in (("ROC curve", plots.roc), ("Precision-recall curve", plots.precision_recall)):
            label = f"{name} of {', '.join(both)} on {benchmark}"
            svg = to_svg(draw(both), label=label, prefix=f"rank{number}{name[0]}")
            pictures.append(Picture(svg, label, f"{name}, all images of {benchmark} at once."))
        blocks += [Words(heading=benchmark), Pictures(pictures)]
    meaning = (
        "Every point of a curve is a threshold: how many fakes are found, at the cost of how many false alarms. "
        "Read the ROC curve at the false alarms that you can afford. Precision depends on how common fakes are; "
        "here they are as common as in the benchmark (dotted line). Where they are rarer, precision is lower."
    )
    return Section("ranking", "Which threshold buys what", meaning, blocks)


def calibrated(scores: ScoreTable) -> Section:
    blocks: list[Block] = []
    number = 0
    for benchmark, models in _by_benchmark(scores):
        pictures = []
        for name, (labels_N, scores_N) in models.items():
            number += 1
            threshold = scores.threshold(name)
            rule = decision_rule(scores.calibration(name), threshold=threshold)
            band = (rule.real_below, rule.threshold) if rule.has_band else None
            drawn = plots.histogram(labels_N, scores_N, threshold=threshold, band=band)
            caption = f"{name}: scores of photographs and fakes."
            if band:
                caption += f" {percent(rule.unsure(scores_N).mean())} are in the band called unsure."
            label = f"Histogram of the scores of {name} on {benchmark} with its threshold {threshold:.3g}"
            pictures.append(Picture(to_svg(drawn, label=label, prefix=f"hist{number}"), label, caption))
            ece = calibration_error(labels_N, scores_N)
            drawn = plots.reliability(labels_N, scores_N, ece=ece)
            state = "calibrated" if scores.calibration(name) else "not calibrated"
            label = f"Reliability diagram of {name} on {benchmark}, expected calibration error {ece:.3f}"
            caption = f"{name} ({state}): large dots are many images, bars intervals of 95 %."
            pictures.append(Picture(to_svg(drawn, label=label, prefix=f"cal{number}"), label, caption))
        blocks += [Words(heading=benchmark), Pictures(pictures)]
    meaning = (
        "Where the two classes overlap, no threshold separates them. In a reliability diagram dots on the "
        "diagonal mean that a score can be read as a probability, where fakes are as common as here; dots below "
        "it mean that scores overstate."
    )
    return Section("scores", "Scores and what they are worth", meaning, blocks)


def by_source(scores: ScoreTable) -> Section:
    blocks: list[Block] = []
    for model in scores.models:
        rows = readable(scores, model=model).assign(camera="")
        found = false_positives(rows, threshold=scores.threshold(model))
        found = found[found["by"].isin(["source", "format"] if (rows["format"] != "").any() else ["source"])]
        for by, of_kind in found.groupby("by", sort=False):
            cells = [
                [
                    Cell(row["value"]),
                    *(Cell(count(row[name])) for name in ("n", "false_positives")),
                    ranged(row["rate"], row["low"], row["high"], write=percent),
                ]
                for row in of_kind.to_dict("records")
            ]
            title = f"{model}: photographs called fake, by {'photo source' if by == 'source' else 'file format'}"
            columns = [Column(str(by), False), Column("photographs"), Column("called fake"), Column("rate")]
            blocks.append(Table(title, columns, cells, folded=FOLDED_ROWS))
    if not blocks:
        blocks.append(Words(["No photograph has a score."]))
    meaning = (
        "A detector that is right on average can still accuse one camera, archive or file format again and again. "
        "Rates from few photographs are uncertain: the interval (Wilson, 95 %) says how much."
    )
    return Section("false-positives", "False positives by photo source", meaning, blocks)


def _by_benchmark(scores: ScoreTable) -> Iterator[tuple[str, dict[str, plots.Labelled]]]:
    """(benchmark, model -> labels and scores of its clean images), those without any left out."""
    for benchmark in dict.fromkeys(scores.frame["benchmark"]):
        models = {}
        for model in scores.models:
            rows = readable(scores, model=model, benchmark=benchmark)
            if len(rows):
                models[model] = rows["label"].to_numpy(int), rows["score"].to_numpy(float)
        if models:
            yield str(benchmark), models


def _called(name: str) -> str:
    return "mean over benchmarks" if name == OVERALL else name
