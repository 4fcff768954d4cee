"""A table of scores -> a table of metrics: a row for each model, benchmark and subset, and for their means.

Every row says by which protocol its images were chosen; its note says what is missing in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.intervals import FIGURES, Replicates, bootstrap, mean_replicates
from evaluation.metrics import RATES, Metrics, compute_metrics, mean_metrics
from evaluation.tables.layout import COUNTS, to_latex, to_markdown
from evaluation.tables.published import PUBLISHED_COLUMNS, add_published, published_table
from evaluation.tables.rows import ALL_IMAGES, MEAN, NO_SUBSET, OVERALL
from evaluation.tables.scores import CLEAN, ScoreTable

AT_HALF = ("accuracy_at_0.5", "balanced_accuracy_at_0.5")
COLUMNS = (
    "model",
    "benchmark",
    "subset",
    "protocol",
    "n_real",
    "n_fake",
    "unreadable",
    "threshold",
    *RATES,
    *AT_HALF,
    "threshold_oracle",
    *(f"{name}_{end}" for name in FIGURES for end in ("low", "high")),
    "interval_of",
    *PUBLISHED_COLUMNS,
    "note",
)


@dataclass(frozen=True)
class _Part:
    """What is in a row: the figures at the model's threshold and at 0.5, and their resamples."""

    metrics: Metrics
    at_half: Metrics
    replicates: Replicates
    unreadable: int
    protocol: str

    @property
    def has_both(self) -> bool:
        return self.metrics.balanced_accuracy is not None


@dataclass(frozen=True)
class _Measure:
    """How rows of scores become figures: at which threshold, with or without intervals."""

    threshold: float
    intervals: bool
    seed: int

    def __call__(self, rows: pd.DataFrame) -> _Part:
        read = rows[rows["error"] == ""].sort_values("uri")
        labels_N, scores_N = read["label"].to_numpy(int), read["score"].to_numpy(float)
        logits_N = read["logit"].to_numpy(float)
        metrics, at_half = (
            compute_metrics(labels_N, scores_N, threshold=threshold, logits_N=logits_N)
            for threshold in (self.threshold, 0.5)
        )
        replicates = Replicates({}, "")
        if self.intervals and len(read):
            replicates = bootstrap(
                labels_N,
                scores_N,
                threshold=self.threshold,
                sources_N=read["source"].tolist(),
                uris_N=read["uri"].tolist(),
                seed=self.seed,
            )
        protocol = ", ".join(dict.fromkeys(rows["protocol"]))
        return _Part(metrics, at_half, replicates, int((rows["error"] != "").sum()), protocol)


def make_table(scores: ScoreTable, *, intervals: bool = True, seed: int = 0) -> pd.DataFrame:
    """Return the metrics of the clean images of a table of scores.

    For each model and benchmark there is a row for each subset, for their unweighted mean, and for all images
    together, each counted once. A benchmark without scores has a row too, and the last is the unweighted mean over
    benchmarks.

    Thresholds: accuracy, real_, fake_ and balanced_accuracy are at the one stored with the model (column
    `threshold`), those called _at_0.5 at 0.5, and balanced_accuracy_oracle at the best one on these images. A
    subset or benchmark of fakes only has a recall, and is in no mean unless there is nothing else.

    intervals   add <name>_low and <name>_high, 95 % bootstrap intervals. The interval of a mean is made of its
                resamples' means; real images that several subsets share are drawn alike in all of them
    """
    clean = scores.frame[scores.frame["degradation"] == CLEAN]
    rows = []
    for model in scores.models:
        measure = _Measure(scores.threshold(model), intervals, seed)
        for row in _model_rows(clean[clean["model"] == model], scores, measure):
            rows.append({"model": model, **row})
    about = scores.about.get("benchmarks", {})
    missing = {name: known.get("missing_subsets") or () for name, known in about.items()}
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))
    return add_published(table, missing_subsets=missing)[list(COLUMNS)]


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row of a table of metrics for each model and benchmark.

    It is the mean over the subsets; or all images together, where no subset has both classes; or the only subset.
    """
    rows = table[table["subset"] != NO_SUBSET]
    rank = np.where(rows["subset"] == MEAN, 0, np.where(rows["subset"] == ALL_IMAGES, 1, 2))
    ranked = rows.assign(rank=rank, undefined=rows["balanced_accuracy"].isna())
    best = ranked.sort_values(["undefined", "rank"], kind="stable").drop_duplicates(["model", "benchmark"])
    kept = rows.loc[rows.index.isin(best.index)]
    # A mean over benchmarks is one of their means over subsets, which then are not shown.
    is_other = (kept["benchmark"] == OVERALL) & kept["balanced_accuracy"].isna()
    return kept if is_other.all() or kept["balanced_accuracy"].isna().all() else kept[~is_other]


def write_tables(table: pd.DataFrame, folder: Path) -> None:
    """Write metrics.csv with every column, and metrics.md and metrics.tex with those that a reader compares."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "metrics.csv", index=False)
    markdown = to_markdown(table)
    published = published_table(table)
    if len(published):
        markdown += f"\nPublished, accuracy at a threshold of 0.5:\n\n{to_markdown(published)}"
    (folder / "metrics.md").write_text(markdown, encoding="utf-8")
    (folder / "metrics.tex").write_text(to_latex(table), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------
# Rows


def _model_rows(clean: pd.DataFrame, scores: ScoreTable, measure: _Measure) -> list[dict[str, Any]]:
    about: Mapping[str, Mapping[str, Any]] = scores.about.get("benchmarks", {})
    of_benchmark = {str(name): rows for name, rows in clean.groupby("benchmark", sort=False)}
    table: list[dict[str, Any]] = []
    means: dict[str, _Part] = {}
    for name, rows in of_benchmark.items():
        of_rows, means[name] = _benchmark_rows(name, rows, about.get(name, {}), measure)
        table += of_rows
    absent = [name for name in dict.fromkeys([*about, *scores.frame["benchmark"]]) if name not in of_benchmark]
    for name in absent:
        note = about.get(name, {}).get("absent") or "no scores of undegraded images"
        table.append({"benchmark": name, "subset": NO_SUBSET, "note": note})
    if len(means) > 1:
        notes = [f"of {', '.join(_averaged(means))}", *_left_out(means)]
        notes += [f"absent: {', '.join(absent)}"] if absent else []
        partial = [name for name in means if about.get(name, {}).get("missing_subsets")]
        notes += [f"not all subsets of {', '.join(partial)}"] if partial else []
        table.append(_row(OVERALL, MEAN, _mean(means), measure, notes))
    return table


def _benchmark_rows(
    name: str, rows: pd.DataFrame, about: Mapping[str, Any], measure: _Measure
) -> tuple[list[dict[str, Any]], _Part]:
    """Return the rows of a benchmark: its subsets, their mean and all images; and that mean."""
    of_subset = rows.explode("subsets").groupby("subsets", sort=False)
    parts = {str(subset): measure(members) for subset, members in of_subset}
    shared = rows["uri"][(rows["label"] == 0) & (rows["subsets"].map(len) > 1)]
    sharing = {str(subset) for subset, members in of_subset if members["uri"].isin(shared).any()}
    missing = about.get("missing_subsets") or ()
    notes = [f"without {', '.join(missing)}"] if missing else []
    notes += [about["note"]] if about.get("note") else []
    if len(parts) == 1:
        (subset, part), *_ = parts.items()
        return [_row(name, subset, part, measure, notes)], part
    table = [
        _row(name, subset, part, measure, ["shared real images"] if subset in sharing else [])
        for subset, part in parts.items()
    ]
    pooled = measure(rows)
    mean = _mean(parts, pooled)
    table.append(_row(name, MEAN, mean, measure, [*notes, *_left_out(parts)]))
    table.append(_row(name, ALL_IMAGES, pooled, measure, notes))
    return table, mean


def _averaged(parts: Mapping[str, _Part]) -> list[str]:
    """Return the names of the parts that are in the mean, as `mean_metrics` chooses them."""
    return [name for name, part in parts.items() if part.has_both] or list(parts)


def _left_out(parts: Mapping[str, _Part]) -> list[str]:
    averaged = _averaged(parts)
    left_out: dict[str, list[str]] = {}
    for name, part in parts.items():
        if name not in averaged:
            counts = part.metrics
            kind = "fakes only" if counts.n_fake else "real images only" if counts.n_real else "nothing readable"
            left_out.setdefault(kind, []).append(name)
    return [f"{kind}, not in the mean: {', '.join(names)}" for kind, names in left_out.items()]


def _mean(parts: Mapping[str, _Part], pooled: _Part | None = None) -> _Part:
    """Return the mean of the parts, with the counts of all images together where these are given."""
    every = list(parts.values())
    protocols = dict.fromkeys(name for part in every for name in part.protocol.split(", "))
    mean = mean_metrics([part.metrics for part in every])
    if pooled:
        mean = replace(mean, n_real=pooled.metrics.n_real, n_fake=pooled.metrics.n_fake)
    return _Part(
        mean,
        mean_metrics([part.at_half for part in every]),
        mean_replicates([parts[name].replicates for name in _averaged(parts)]),
        pooled.unreadable if pooled else sum(part.unreadable for part in every),
        pooled.protocol if pooled else ", ".join(protocols),
    )


def _row(benchmark: str, subset: str, part: _Part, measure: _Measure, notes: Sequence[str]) -> dict[str, Any]:
    row = {"benchmark": benchmark, "subset": subset, **asdict(part.metrics), "threshold": measure.threshold}
    row |= {"unreadable": part.unreadable, "protocol": part.protocol, "note": "; ".join(notes)}
    row["accuracy_at_0.5"] = part.at_half.accuracy
    row["balanced_accuracy_at_0.5"] = part.at_half.balanced_accuracy
    for name, (low, high) in part.replicates.intervals().items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row | {"interval_of": part.replicates.unit or np.nan}
