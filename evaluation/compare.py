"""Two detectors' scores of the same images -> how much better one is, with intervals and tests of the difference.

Shape suffixes: N images, M fakes, K real images, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from evaluation.intervals import Replicates, bootstrap
from evaluation.metrics import compute_metrics
from evaluation.tables.scores import CLEAN, ScoreTable

OVERALL = "ALL"
COMPARED = ("auroc", "balanced_accuracy")
COLUMNS = (
    "benchmark",
    "model_a",
    "model_b",
    "n_shared",
    "n_only_a",
    "n_only_b",
    "unreadable",
    "n_real",
    "n_fake",
    *(f"{name}_{part}" for name in COMPARED for part in ("a", "b", "difference", "low", "high", "p")),
    "auroc_p_delong",
    "only_a_right",
    "only_b_right",
    "p_mcnemar",
    "interval_of",
    "note",
)


@dataclass(frozen=True)
class DeLong:
    """The areas under both curves, the variance of their difference, and the two-sided p of no difference.

    p is 1 for equal areas, and None when the difference has no variance but is not 0.
    """

    auroc_a: float
    auroc_b: float
    variance: float
    p: float | None


def compare_models(scores: ScoreTable, *, models: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a row for each benchmark, and one, ALL, for all images; a difference is the second model's minus the
    first's.

    Images are the same if their bytes are (content_sha256), or if their uri is where either table has no such
    hash. Copies count once. The benchmarks are those of the first model; where the second has none of that name,
    as in a table of another tool, all its images are searched. Only clean images that both could read are
    compared, each model at its own threshold.

    <name>_low, _high   95 % interval of the difference over paired resamples, as `intervals.bootstrap` draws them
    <name>_p            twice the share of resamples on the rarer side of no difference, at most 1
    auroc_p_delong      `delong`        p_mcnemar   `mcnemar`, of decisions: only_a_right against only_b_right

    Raises ValueError when there are not two models or they share no image.
    """
    name_a, name_b = _choose_models(scores, models)
    clean = scores.frame[scores.frame["degradation"] == CLEAN]
    a, b = (clean[clean["model"] == name] for name in (name_a, name_b))
    thresholds = scores.threshold(name_a), scores.threshold(name_b)
    benchmarks = [str(name) for name in dict.fromkeys(a["benchmark"])]
    rows = []
    for benchmark in benchmarks if len(benchmarks) > 1 else []:
        named = b[b["benchmark"] == benchmark]
        row = _compare(a[a["benchmark"] == benchmark], b if named.empty else named, thresholds)
        if named.empty:
            notes = [row["note"], f"{name_b} has no benchmark of this name"]
            row |= {"n_only_b": None, "note": "; ".join(filter(None, notes))}
        rows.append(row | {"benchmark": benchmark})
    overall = _compare(a, b, thresholds)
    if overall["n_shared"] == 0:
        first = f"the first are {_first(a)} and {_first(b)}"
        raise ValueError(f"{name_a!r} and {name_b!r} share no image, by content or uri; {first}")
    rows.append(overall | {"benchmark": OVERALL if rows else benchmarks[0]})
    table = pd.DataFrame(rows).assign(model_a=name_a, model_b=name_b)
    return table[list(COLUMNS)]


def to_text(table: pd.DataFrame) -> str:
    """Return a block for each benchmark, for a terminal."""
    blocks = ["\n  ".join(_lines(row)) for row in table.to_dict("records")]
    title = f"{table['model_a'].iloc[0]} -> {table['model_b'].iloc[0]}"
    return "\n".join([title, *blocks])


def _lines(row: dict[Any, Any]) -> Iterator[str]:
    head = f"{row['benchmark']}: {row['n_shared']} shared images, {row['n_real']} real, {row['n_fake']} fake"
    counts = {row[f"model_{side}"]: row[f"n_only_{side}"] for side in "ab"}
    only = [f"{int(count)} only in {model}" for model, count in counts.items() if pd.notna(count)]
    yield f"{', '.join([head, *only])}; {row['unreadable']} unreadable"
    for name in COMPARED:
        if pd.notna(row[f"{name}_difference"]):
            values = f"{row[f'{name}_a']:.4f} -> {row[f'{name}_b']:.4f}  {row[f'{name}_difference']:+.4f}"
            interval = f"[{row[f'{name}_low']:+.4f}, {row[f'{name}_high']:+.4f}] p {row[f'{name}_p']:.3g}"
            more = row["auroc_p_delong"] if name == "auroc" else None
            yield f"{name:18s} {values} {interval}" + ("" if pd.isna(more) else f", DeLong p {more:.3g}")
    if pd.notna(row["p_mcnemar"]):
        first, second = row["only_a_right"], row["only_b_right"]
        decisions = f"{first:.0f} right only by the first, {second:.0f} by the second"
        yield f"{'decisions':18s} {decisions}, McNemar p {row['p_mcnemar']:.3g}"
    if row["note"]:
        yield f"note: {row['note']}"


# ---------------------------------------------------------------------------------------------------------
# Tests


def delong(labels_N: np.ndarray, first_N: np.ndarray, second_N: np.ndarray) -> DeLong:
    """Compare two areas as DeLong, DeLong & Clarke-Pearson 1988, with the midranks of Sun & Xu 2014.

    Raises ValueError when one of the classes is missing.
    """
    is_fake_N = labels_N == 1
    num_fake, num_real = int(is_fake_N.sum()), int((~is_fake_N).sum())
    if not num_fake or not num_real:
        raise ValueError(f"the area under the curve needs both classes; got {num_real} real and {num_fake} fake")
    aurocs, of_fakes, of_reals = [], [], []
    for scores_N in (first_N, second_N):
        rank_N = rankdata(scores_N)
        # The share of real images that a fake outranks, and of fakes that outrank a real image (their V10, V01).
        wins_M = (rank_N[is_fake_N] - rankdata(scores_N[is_fake_N])) / num_real
        losses_K = 1 - (rank_N[~is_fake_N] - rankdata(scores_N[~is_fake_N])) / num_fake
        aurocs.append(float(wins_M.mean()))
        of_fakes.append(wins_M)
        of_reals.append(losses_K)
    spreads = ((of_fakes, num_fake), (of_reals, num_real))
    variance = sum(_variance_of_mean(pair[0] - pair[1], count) for pair, count in spreads)
    difference = aurocs[1] - aurocs[0]
    if abs(difference) < 1e-12:
        p: float | None = 1.0
    else:
        p = float(2 * norm.sf(abs(difference) / np.sqrt(variance))) if variance > 0 else None
    return DeLong(aurocs[0], aurocs[1], variance, p)


def _variance_of_mean(values: np.ndarray, count: int) -> float:
    return float(values.var(ddof=1)) / count if count > 1 else 0.0


def mcnemar(right_a_N: np.ndarray, right_b_N: np.ndarray) -> tuple[int, int, float]:
    """Return (right only by a, right only by b, p) of McNemar's exact test of 1947, two-sided binomial."""
    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p


# ---------------------------------------------------------------------------------------------------------
# Rows


def _choose_models(scores: ScoreTable, models: Sequence[str] | None) -> tuple[str, str]:
    found = ", ".join(scores.models)
    chosen = list(scores.models if models is None else models)
    unknown = [name for name in chosen if name not in scores.models]
    if unknown:
        raise ValueError(f"no scores of a model {unknown[0]!r}; the tables hold {found}")
    if len(chosen) != 2 or chosen[0] == chosen[1]:
        raise ValueError(f"two models are compared, of {found}; choose them with --models FIRST SECOND")
    return chosen[0], chosen[1]


def match(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Return the pairs of rows with the same image, and how many images only a has, and only b.

    The columns of the pairs end in _a and _b.
    """
    a, b = (_once(rows) for rows in (a, b))
    kept = ["uri", "content_sha256", "label", "source", "score", "logit", "error", "row"]
    a, b = (rows.reset_index(drop=True).rename_axis("row").reset_index()[kept] for rows in (a, b))
    by_bytes = a[a["content_sha256"] != ""].merge(b, on="content_sha256", suffixes=("_a", "_b"))
    by_bytes = by_bytes.assign(content_sha256_a=by_bytes["content_sha256"])
    rest_a, rest_b = a[~a["row"].isin(by_bytes["row_a"])], b[~b["row"].isin(by_bytes["row_b"])]
    by_uri = rest_a.merge(rest_b, on="uri", suffixes=("_a", "_b"))
    by_uri = by_uri[(by_uri["content_sha256_a"] == "") | (by_uri["content_sha256_b"] == "")]
    by_uri = by_uri.drop_duplicates("row_a").drop_duplicates("row_b").assign(uri_a=by_uri["uri"])
    pairs = pd.concat([by_bytes, by_uri], ignore_index=True).sort_values("row_a", ignore_index=True)
    return pairs, len(a) - len(pairs), len(b) - len(pairs)


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each image once: the same bytes, or the same uri without a hash, are one image."""
    key = rows["content_sha256"].where(rows["content_sha256"] != "", "uri " + rows["uri"])
    return rows[~key.duplicated()]


def _compare(a: pd.DataFrame, b: pd.DataFrame, thresholds: tuple[float, float]) -> dict[str, Any]:
    """Return the row for all images that two models share, without the names of models and benchmark."""
    pairs, only_a, only_b = match(a, b)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"n_shared": len(pairs), "n_only_a": only_a, "n_only_b": only_b}
    is_same = _same_label(pairs)
    row["note"] = "" if is_same.all() else f"{(~is_same).sum()} images left out whose labels differ"
    is_read = (pairs["error_a"] == "") & (pairs["error_b"] == "")
    row["unreadable"] = int((~is_read).sum())
    pairs = pairs[is_same & is_read]
    labels_N = pairs["label_a"].to_numpy(int)
    scores = [pairs[f"score_{side}"].to_numpy(float) for side in "ab"]
    row |= {"n_real": int((labels_N == 0).sum()), "n_fake": int((labels_N == 1).sum())}
    if pairs.empty:
        return row
    sources = pairs["source_a"].tolist()
    metrics, replicates, right = [], [], []
    for scores_N, threshold in zip(scores, thresholds, strict=True):
        metrics.append(compute_metrics(labels_N, scores_N, threshold=threshold))
        replicates.append(bootstrap(labels_N, scores_N, threshold=threshold, sources_N=sources))
        right.append((scores_N >= threshold) == (labels_N == 1))
    row["interval_of"] = replicates[0].unit
    for name in COMPARED:
        if getattr(metrics[0], name) is not None:
            row |= _difference(name, [getattr(each, name) for each in metrics], replicates)
    row["only_a_right"], row["only_b_right"], row["p_mcnemar"] = mcnemar(right[0], right[1])
    if row["n_real"] and row["n_fake"]:
        row["auroc_p_delong"] = delong(labels_N, *scores).p
    return row


def _same_label(pairs: pd.DataFrame) -> pd.Series:
    """Return which pairs have one label. Raises ValueError when most do not: one table counts the other way."""
    is_same = pairs["label_a"] == pairs["label_b"]
    if (~is_same).sum() > is_same.sum():
        first = pairs.loc[~is_same, "uri_a"].iloc[0]
        raise ValueError(
            f"{(~is_same).sum()} of {len(is_same)} shared images have the other label in the second table, "
            f"first {first!r}; expected 0 for real and 1 for fake in both"
        )
    return is_same


def _difference(name: str, values: Sequence[float], replicates: Sequence[Replicates]) -> dict[str, float]:
    difference_R = replicates[1].values[name] - replicates[0].values[name]
    low, high = np.quantile(difference_R, [0.025, 0.975])
    # Counting the data as a resample of its own keeps p above 0 (Davison & Hinkley 1997, 4.2.3).
    rarer = min(int((difference_R <= 0).sum()), int((difference_R >= 0).sum()))
    p = min(1.0, 2 * (rarer + 1) / (len(difference_R) + 1))
    figures = {"a": values[0], "b": values[1], "difference": values[1] - values[0]}
    return {f"{name}_{part}": float(x) for part, x in (figures | {"low": low, "high": high, "p": p}).items()}


def _first(rows: pd.DataFrame) -> str:
    return repr(rows["uri"].iloc[0]) if len(rows) else "none"
