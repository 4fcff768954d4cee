"""Scores of clean images -> the sections of a report with ROC curves, histograms and reliability diagrams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluation.metrics import calibration_error
from evaluation.tables.scores import ScoreTable
from reporting import plots
from reporting.blocks import Block, Picture, Pictures, Section, Words, percent
from reporting.svg import to_picture


def ranking(scores: ScoreTable) -> Section:
    """Return the section with the ROC and precision-recall curves of each benchmark."""
    blocks: list[Block] = []
    for benchmark, models in _by_benchmark(scores):
        both = {name: pair for name, pair in models.items() if len(np.unique(pair[0])) == 2}
        if not both:
            blocks.append(Words(["One class only: there is nothing to rank."], heading=benchmark))
            continue
        pictures = []
        for name, draw in (("ROC curve", plots.roc), ("Precision-recall curve", plots.precision_recall)):
            label = f"{name} of {', '.join(both)} on {benchmark}"
            caption = f"{name}, all images of {benchmark} together."
            pictures.append(to_picture(draw(both), label=label, caption=caption))
        blocks += [Words(heading=benchmark), Pictures(pictures)]
    meaning = (
        "Every point of a curve is a threshold: how many fakes it finds, and how many false alarms that costs. "
        "Read the ROC curve at the rate of false alarms that you can afford. Precision depends on how common "
        "fakes are: here as common as in the benchmark (dotted line). Where they are rarer, it is lower."
    )
    return Section("ranking", "What each threshold costs", meaning, blocks)


def calibrated(scores: ScoreTable) -> Section:
    """Return the section with the histogram and the reliability of each model's scores, by benchmark."""
    blocks: list[Block] = []
    for benchmark, models in _by_benchmark(scores):
        pictures = []
        for model, (labels_N, scores_N) in models.items():
            pictures.append(_histogram(scores, labels_N, scores_N, model=model, benchmark=benchmark))
            pictures.append(_reliability(scores, labels_N, scores_N, model=model, benchmark=benchmark))
        blocks += [Words(heading=benchmark), Pictures(pictures)]
    meaning = (
        "Where the two classes overlap, no threshold separates them. In a reliability diagram, dots on the "
        "diagonal mean that a score can be read as a probability where fakes are as common as here. Dots below "
        "the diagonal mean that scores are too high."
    )
    return Section("scores", "Scores as probabilities", meaning, blocks)


def _histogram(
    scores: ScoreTable, labels_N: np.ndarray, scores_N: np.ndarray, *, model: str, benchmark: str
) -> Picture:
    threshold = scores.threshold(model)
    rule = scores.rule(model)
    band = (rule.real_below, rule.threshold) if rule.has_band else None
    caption = f"{model}: scores of real images and fakes."
    if band:
        caption += f" {percent(rule.unsure(scores_N).mean())} are in the unsure band."
    label = f"Histogram of the scores of {model} on {benchmark} with its threshold {threshold:.3g}"
    figure = plots.histogram(labels_N, scores_N, threshold=threshold, band=band)
    return to_picture(figure, label=label, caption=caption)


def _reliability(
    scores: ScoreTable, labels_N: np.ndarray, scores_N: np.ndarray, *, model: str, benchmark: str
) -> Picture:
    ece = calibration_error(labels_N, scores_N)
    state = "calibrated" if scores.calibration(model) else "not calibrated"
    label = f"Reliability diagram of {model} on {benchmark}, expected calibration error {ece:.3f}"
    caption = f"{model} ({state}): large dots are many images, bars are intervals of 95 %."
    return to_picture(plots.reliability(labels_N, scores_N, ece=ece), label=label, caption=caption)


def _by_benchmark(scores: ScoreTable) -> Iterator[tuple[str, dict[str, plots.Labelled]]]:
    """Yield each benchmark that has scores of clean images, with their labels and scores by model."""
    for benchmark in dict.fromkeys(scores.frame["benchmark"]):
        models = {}
        for model in scores.models:
            rows = scores.readable(model, benchmark=benchmark)
            if len(rows):
                models[model] = rows["label"].to_numpy(int), rows["score"].to_numpy(float)
        if models:
            yield str(benchmark), models
