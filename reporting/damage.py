"""Scores of degraded images -> the section of a report that says what recompression and the like cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from data.images.degrade import described
from evaluation.robustness import curves, matrix, robustness_table, worst_cases
from evaluation.tables.rows import MEAN
from evaluation.tables.scores import CLEAN, ScoreTable
from reporting import plots
from reporting.blocks import (
    FIGURES,
    Block,
    Cell,
    Column,
    Picture,
    Pictures,
    Section,
    Table,
    Words,
    fraction,
    percent,
    to_table,
)
from reporting.svg import to_picture

MATRICES = ("auroc", "balanced_accuracy", "flips")
BAND_MATRICES = ("flips_sure", "unsure")  # of a detector with an unsure band
SHARES = ("flips", *BAND_MATRICES)


def robustness(scores: ScoreTable) -> Section | None:
    """Return the section, or None when only clean images were scored."""
    groups = scores.frame.groupby(["model", "benchmark"])
    frame = groups.filter(lambda rows: (rows["degradation"] == CLEAN).any())
    if not (frame["degradation"] != CLEAN).any():
        return None
    table = robustness_table(replace(scores, frame=frame))
    blocks: list[Block] = []
    for model in dict.fromkeys(table["model"]):
        blocks.append(Words(heading=str(model)))
        figures = (*MATRICES, *(BAND_MATRICES if scores.rule(str(model)).has_band else ()))
        blocks += [_heat_map(table, model=str(model), figure=figure) for figure in figures]
    if pictures := _curves(table, models=scores.models):
        blocks += [Words(heading="By strength"), Pictures(pictures)]
    blocks.append(_worst(table))
    meaning = (
        "Images are recompressed, resized and captured from screens before they reach you. The stronger the "
        "colour of a cell, the worse. Flips are images whose verdict differs from that of the untouched file. "
        "Sure flips are those where neither verdict is unsure."
    )
    return Section("robustness", "Robustness", meaning, blocks)


def _heat_map(table: pd.DataFrame, *, model: str, figure: str) -> Table:
    """Return benchmark x degradation, coloured by how bad it is: fully at 0.5, which is chance, or at 50 %."""
    wide = matrix(table, model=model, figure=figure)
    write, best = (percent, 0.0) if figure in SHARES else (fraction, 1.0)
    cells = []
    for benchmark in wide.index:
        values = list(wide.loc[benchmark])
        heats = [None if pd.isna(value) else float(np.clip(abs(value - best) / 0.5, 0, 1)) for value in values]
        row = [Cell(write(value), heat=heat) for value, heat in zip(values, heats, strict=True)]
        cells.append([Cell(str(benchmark)), *row])
    columns = [Column("clean" if words == CLEAN else words) for words in described(wide.columns).values()]
    means = frozenset({len(cells) - 1} if len(cells) > 1 and wide.index[-1] == MEAN else ())
    title = FIGURES[figure][:1].upper() + FIGURES[figure][1:]
    return Table(title, [Column("benchmark", False), *columns], cells, emphasised=means)


def _curves(table: pd.DataFrame, *, models: list[str]) -> list[Picture]:
    """Return a picture for each family of degradations that has several strengths."""
    points = curves(table)
    num_strengths = points.groupby("family", sort=False)["strength"].nunique()
    pictures = []
    for family in num_strengths.index[num_strengths > 1]:
        figure = plots.strengths(points, models=models, family=family)
        label = f"AUROC against the strength of {family}"
        caption = f"AUROC under {family}: the mean over benchmarks is thick, the clean AUROC dotted."
        pictures.append(to_picture(figure, label=label, caption=caption))
    return pictures


def _worst(table: pd.DataFrame) -> Table:
    worst = worst_cases(table).replace({"figure": FIGURES, "degradation": described(table["degradation"])})
    texts = ["model", "benchmark", "figure", "degradation"]
    headings = {name: name for name in (*texts, "clean", "worst", "fall")}
    return to_table(worst, caption="What the worst degradation costs", headings=headings, texts=texts, num_heads=2)
