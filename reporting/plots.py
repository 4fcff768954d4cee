"""Labels, scores, embeddings -> the pictures of a report, as matplotlib figures in the style of reporting.svg.

Shape suffixes: N images, K bins, T thresholds, P prototypes, G generators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from evaluation.intervals import wilson
from evaluation.metrics import ECE_BINS
from reporting.blocks import FIGURES, shorten
from reporting.svg import INK, STYLE

# Legible on white and on black, and distinct for colour-blind readers; lines differ in their dashes too.
REAL, FAKE = "#2a7ab9", "#d55e00"
SERIES = ("#2a7ab9", "#d55e00", "#1b9e77", "#a566b8", "#8a7400", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
PANEL_INCHES = (4.3, 3.4)
MAX_POINTS = 250  # of a curve
MAX_VECTORS = 1500  # points of a map that are drawn one by one; more become pixels
SCORE_BINS = 40

Labelled = tuple[np.ndarray, np.ndarray]  # labels_N, scores_N


@mpl.rc_context(STYLE)
def roc(models: Mapping[str, Labelled]) -> Figure:
    """Draw the share of fakes found against the share of real images called fake; both classes are needed."""
    figure, axes = _panel("ROC", "real images called fake (FPR)", "fakes found (TPR)")
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
    for number, (name, (labels_N, scores_N)) in enumerate(models.items()):
        fpr_T, tpr_T, _ = roc_curve(labels_N, scores_N)
        _curve(axes, fpr_T, tpr_T, number, f"{shorten(name, limit=24)}: {roc_auc_score(labels_N, scores_N):.3f}")
    axes.legend(loc="lower right", title="AUROC", alignment="left")
    return figure


@mpl.rc_context(STYLE)
def precision_recall(models: Mapping[str, Labelled]) -> Figure:
    """Draw the share of true alarms against the share of fakes found; the dotted share of fakes is chance."""
    figure, axes = _panel("Precision and recall", "fakes found (recall)", "alarms that are fakes (precision)")
    for number, (name, (labels_N, scores_N)) in enumerate(models.items()):
        precision_T, recall_T, _ = precision_recall_curve(labels_N, scores_N, drop_intermediate=True)
        ap = average_precision_score(labels_N, scores_N)
        _curve(axes, recall_T, precision_T, number, f"{shorten(name, limit=24)}: {ap:.3f}")
        axes.axhline(float(labels_N.mean()), color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
    axes.legend(loc="lower left", title="average precision", alignment="left")
    return figure


@mpl.rc_context(STYLE)
def reliability(labels_N: np.ndarray, scores_N: np.ndarray, *, ece: float) -> Figure:
    """Draw the share of fakes among images of about the same score, with Wilson's intervals of 95 %."""
    figure, axes = _panel(f"Reliability, ECE {ece:.3f}", "score, P(fake)", "share of fakes")
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
    bin_N = np.minimum((scores_N * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = pd.DataFrame({"bin": bin_N, "score": scores_N, "label": labels_N}).groupby("bin")
    table = bins.agg(score=("score", "mean"), share=("label", "mean"), fakes=("label", "sum"), n=("label", "size"))
    low_K, high_K = wilson(table["fakes"].to_numpy(), table["n"].to_numpy())
    axes.vlines(table["score"], low_K, high_K, color=REAL, alpha=0.6, linewidth=1.2)
    size_K = 16 + 120 * np.sqrt(table["n"].to_numpy() / len(labels_N))
    axes.scatter(table["score"], table["share"], s=size_K, color=REAL, edgecolors="none", zorder=3, clip_on=False)
    return figure


@mpl.rc_context(STYLE)
def histogram(
    labels_N: np.ndarray, scores_N: np.ndarray, *, threshold: float, band: tuple[float, float] | None = None
) -> Figure:
    """Draw the scores of each class as shares of it, with the threshold and the unsure band."""
    figure, axes = _panel("Scores", "score, P(fake)", "share of the class", unit_square=False)
    edges_K = np.linspace(0, 1, SCORE_BINS + 1)
    for label, (name, colour) in enumerate((("real images", REAL), ("fakes", FAKE))):
        of_class_n = scores_N[labels_N == label]
        if len(of_class_n):
            weight_n = np.full(len(of_class_n), 1 / len(of_class_n))
            options: dict[str, Any] = {"bins": edges_K, "weights": weight_n, "color": colour}
            axes.hist(of_class_n, histtype="stepfilled", alpha=0.3, **options)
            axes.hist(of_class_n, histtype="step", linewidth=1.4, label=name, **options)
    if band is not None:
        axes.axvspan(*band, color=INK, alpha=0.12, linewidth=0, label="unsure")
    axes.axvline(threshold, color=INK, linewidth=1, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axes.legend(loc="upper center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def before_and_now(before_N: np.ndarray, now_M: np.ndarray, *, name: str) -> Figure:
    """Draw the numbers of two sets of images as shares of each set."""
    figure, axes = _panel("", name, "share of the images", unit_square=False)
    edges_K = np.histogram_bin_edges(np.concatenate([before_N, now_M]), SCORE_BINS)
    for called, values_n, colour, dash in (("before", before_N, REAL, "-"), ("now", now_M, FAKE, "--")):
        options: dict[str, Any] = {"bins": edges_K, "weights": np.full(len(values_n), 1 / len(values_n))}
        axes.hist(values_n, histtype="step", linewidth=1.4, linestyle=dash, color=colour, label=called, **options)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)  # room for the legend
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axes.legend(loc="upper center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def strengths(points: pd.DataFrame, *, models: Sequence[str], family: str) -> Figure:
    """Draw the AUROC of evaluation.robustness.curves against the strength of one family of degradations.

    The benchmarks of a model are thin, their mean is thick, and the clean AUROC is dotted. Colours are in the
    order of `models`.
    """
    wanted = points[points["family"] == family].dropna(subset="auroc")
    unit = wanted["unit"].iloc[0] if len(wanted) else ""
    figure, axes = _panel(family, f"{family}: {unit}", FIGURES["auroc"], unit_square=False)
    for number, name in enumerate(models):
        of_model = wanted[wanted["model"] == name]
        if of_model.empty:
            continue
        colour = SERIES[number % len(SERIES)]
        for _, line in of_model.groupby("benchmark", sort=False):
            axes.plot(line["strength"], line["auroc"], color=colour, alpha=0.35, linewidth=0.8)
        mean = of_model.groupby("strength")[["auroc", "clean"]].mean()
        options: dict[str, Any] = {"color": colour, "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(mean.index, mean["auroc"], marker="o", markersize=4, label=shorten(name, limit=24), **options)
        axes.axhline(float(mean["clean"].mean()), color=colour, linewidth=0.9, linestyle=":")
    axes.margins(y=0.15)
    if wanted["model"].nunique() > 1:
        axes.legend(loc="best")
    return figure


@mpl.rc_context(STYLE)
def attention(attention_GP: np.ndarray, *, names: Sequence[str], num_real: int | None = None) -> Figure:
    """Draw the mean attention of each source (a row) to each prototype (a column).

    num_real   how many prototypes stand for real images; they come first, and a line is drawn after them
    """
    num_rows, num_columns = attention_GP.shape
    figure = Figure(figsize=(8.6, min(1.3 + 0.24 * num_rows, 14)), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(attention_GP, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0)
    axes.set_yticks(
        range(num_rows), [shorten(name, limit=30) for name in names], fontsize=8.5 if num_rows < 50 else 5
    )
    axes.tick_params(left=False)
    axes.set_xlabel("prototype")
    if num_real is not None and 0 < num_real < num_columns:
        axes.axvline(num_real - 0.5, color="white", linewidth=1.2)
        axes.set_xlabel(f"prototype: {num_real} of real images, then {num_columns - num_real} of fakes")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label("mean attention")
    bar.outline.set_visible(False)
    return figure


@mpl.rc_context(STYLE)
def embedding_map(points_N2: np.ndarray, labels_N: np.ndarray, *, axis_names: tuple[str, str]) -> Figure:
    """Draw images as points: real images are circles, fakes triangles."""
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axes = figure.subplots()
    as_pixels = len(points_N2) > MAX_VECTORS
    figure.set_dpi(144 if as_pixels else 72)
    for label, (name, colour, marker) in enumerate((("real images", REAL, "o"), ("fakes", FAKE, "^"))):
        of_class_n2 = points_N2[labels_N == label]
        options: dict[str, Any] = {"s": 14, "alpha": 0.6, "edgecolors": "none", "rasterized": as_pixels}
        axes.scatter(*of_class_n2.T, color=colour, marker=marker, label=f"{len(of_class_n2)} {name}", **options)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.1), ncols=2, borderaxespad=0, markerscale=1.5)
    return figure


def _panel(title: str, x: str, y: str, *, unit_square: bool = True) -> tuple[Figure, Axes]:
    figure = Figure(figsize=PANEL_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if unit_square:
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)
    return figure, axes


def _curve(axes: Axes, x_T: np.ndarray, y_T: np.ndarray, number: int, label: str) -> None:
    kept = np.unique(np.linspace(0, len(x_T) - 1, MAX_POINTS).astype(int))
    style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}
    axes.plot(x_T[kept], y_T[kept], label=label, **style)
