"""Scored benchmarks -> the rows of a table: each subset, the mean, all images at once; absent ones say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from data.catalog import Absent, Benchmark
from evaluation.metrics import RATES, Metrics, mean_metrics, metrics_of
from evaluation.predict import ScoreRow

MEAN = "mean"
ALL_IMAGES = "all images"
COLUMNS = ("benchmark", "subset", "n_real", "n_fake", *RATES, "unreadable", "note")
SHORT = {
    "accuracy": "acc",
    "real_accuracy": "real_acc",
    "fake_accuracy": "fake_acc",
    "balanced_accuracy": "bal_acc",
}


def make_table(
    found: Sequence[Benchmark | Absent], scores: Mapping[str, Sequence[ScoreRow]], *, threshold: float
) -> pd.DataFrame:
    """The rows of every benchmark, and at the end the unweighted mean of those that were found."""
    table: list[dict[str, object]] = []
    means: dict[str, Metrics] = {}
    for each in found:
        if isinstance(each, Absent):
            table.append({"benchmark": each.name, "subset": "-", "note": each.reason.partition(":")[0]})
        else:
            rows, means[each.name] = _benchmark_rows(each, scores[each.name], threshold)
            table += rows
    if len(means) > 1:
        averaged = [name for name in means if means[name].balanced_accuracy is not None] or list(means)
        unreadable = sum(_unreadable(scores[name]) for name in means)
        note = f"of {', '.join(averaged)}"
        table.append(_row("MEAN", MEAN, mean_metrics(list(means.values())), unreadable, note))
    return pd.DataFrame(table, columns=list(COLUMNS))


def _benchmark_rows(
    benchmark: Benchmark, rows: Sequence[ScoreRow], threshold: float
) -> tuple[list[dict[str, object]], Metrics]:
    """One row a subset, their unweighted mean, and the metrics of all images counted once; and that mean."""
    by_uri = {row.uri: row for row in rows}
    table, parts = [], []
    for subset in benchmark.subsets:
        of_subset = [by_uri[record.uri] for record in subset.manifest]
        parts.append(metrics_of(of_subset, threshold=threshold))
        note = "shared photographs" if subset.reals_shared else ""
        table.append(_row(benchmark.name, subset.name, parts[-1], _unreadable(of_subset), note))
    missing = f"without {', '.join(benchmark.missing_subsets)}" if benchmark.missing_subsets else ""
    unreadable = _unreadable(list(by_uri.values()))
    mean = mean_metrics(parts)
    if len(parts) > 1:
        table.append(_row(benchmark.name, MEAN, mean, unreadable, missing))
        pooled = metrics_of(list(by_uri.values()), threshold=threshold)
        table.append(_row(benchmark.name, ALL_IMAGES, pooled, unreadable, missing))
    return table, mean


def to_text(table: pd.DataFrame) -> str:
    """For a terminal: rates as fractions with three digits, blanks where a figure is not defined."""
    shown = table.rename(columns=SHORT).dropna(axis="columns", how="all")
    for name in ("n_real", "n_fake", "unreadable"):
        if name in shown:
            shown[name] = shown[name].map(lambda value: "" if pd.isna(value) else f"{int(value)}")
    return shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")


def _row(benchmark: str, subset: str, metrics: Metrics, unreadable: int, note: str) -> dict[str, object]:
    return {"benchmark": benchmark, "subset": subset, **asdict(metrics), "unreadable": unreadable, "note": note}


def _unreadable(rows: Sequence[ScoreRow]) -> int:
    return sum(bool(row.error) for row in rows)
