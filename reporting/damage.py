"""Scores of degraded images -> the section of a report that says what recompression and the like cost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from evaluation.robustness import MEAN, curves, matrix, robustness_table, worst_cases
from evaluation.tables.scores import CLEAN, ScoreTable
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
    fraction,
    percent,
    to_table,
)
from reporting.svg import to_svg


def robustness(scores: ScoreTable) -> Section | None:
    """None when nothing but clean images was scored."""
    frame = scores.frame
    has_clean = frame.groupby(["model", "benchmark"])["degradation"].transform(
        lambda names: (names == CLEAN).any()
    )
    frame = frame[has_clean.astype(bool)]
    if not (frame["degradation"] != CLEAN).any():
        return None
    table = robustness_table(frame, thresholds={name: scores.threshold(name) for name in scores.models})
    blocks: list[Block] = []
    called = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "flips": "Verdicts that flip"}
    for model in dict.fromkeys(table["model"]):
        blocks.append(Words(heading=str(model)))
        blocks += [_heat(table, model=str(model), figure=figure, title=title) for figure, title in called.items()]
    points = curves(table)
    pictures = []
    strengths = points.groupby("family")["strength"].nunique()
    for family in (name for name in dict.fromkeys(points["family"]) if strengths[name] > 1):
        label = f"AUROC against the strength of {family}"
        drawn = plots.strengths(points, models=scores.models, family=family, figure="auroc")
        svg = to_svg(drawn, label=label, prefix=f"deg-{family}")
        pictures.append(
            Picture(svg, label, f"AUROC under {family}: thick the mean over benchmarks, dotted clean.")
        )
    if pictures:
        blocks += [Words(heading="By strength"), Pictures(pictures)]
    worst = worst_cases(table).replace({"figure": {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}})
    headings = {name: name for name in ("model", "benchmark", "figure", "degradation", "clean", "worst", "fall")}
    texts = ["model", "benchmark", "figure", "degradation"]
    blocks.append(
        to_table(worst, caption="What the worst degradation costs", headings=headings, texts=texts, num_heads=2)
    )
    meaning = (
        "Images are recompressed, resized and captured from screens on their way to you. The stronger a cell is "
        "coloured, the worse; flips are images whose verdict differs from that on the untouched file."
    )
    return Section("robustness", "Robustness", meaning, blocks)


def _heat(table: pd.DataFrame, *, model: str, figure: str, title: str) -> Table:
    """The worse, the stronger: figures from 1 to 0.5, which is chance, flips from 0 to a half."""
    wide = matrix(table, model=model, figure=figure)
    write, best = (percent, 0.0) if figure == "flips" else (fraction, 1.0)
    cells = [
        [
            Cell(str(benchmark)),
            *(
                Cell(write(x), heat=None if pd.isna(x) else float(np.clip(abs(x - best) / 0.5, 0, 1)))
                for x in wide.loc[benchmark]
            ),
        ]
        for benchmark in wide.index
    ]
    columns = [
        Column("benchmark", False),
        *(Column("clean" if name == CLEAN else str(name)) for name in wide.columns),
    ]
    means = frozenset({len(cells) - 1} if len(cells) > 1 and wide.index[-1] == MEAN else ())
    return Table(title, columns, cells, emphasised=means)
