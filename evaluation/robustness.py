"""Scores of clean and degraded images -> what each degradation costs: figures, falls, flipped verdicts.

Every image of a benchmark counts once, whichever subsets share it; images without a score are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from data.images.degrade import CLEAN, FAMILIES, described, split_name
from evaluation.metrics import compute_metrics
from evaluation.tables.rows import MEAN
from evaluation.tables.scores import ScoreTable
from gapl.verdict import DecisionRule

FIGURES = ("auroc", "balanced_accuracy")
GROUP = ["model", "benchmark"]
COLUMNS = (
    *GROUP,
    "degradation",
    "n_real",
    "n_fake",
    "unreadable",
    *(name for figure in FIGURES for name in (figure, f"{figure}_fall")),
    "n_paired",
    "flips",
    "real_to_fake",
    "fake_to_real",
    "flips_sure",
    "unsure",
)


def robustness_table(scores: ScoreTable) -> pd.DataFrame:
    """Return a row for each model, benchmark and degradation, clean first; the columns are COLUMNS.

    auroc, balanced_accuracy   in [0, 1]; NaN when a class is missing
    ..._fall    the clean figure, of the images that have a score for this degradation, minus this figure
    flips       share of the images with both scores (n_paired) whose score and clean score are on different
                sides of the detector's threshold; it is the sum of real_to_fake (real when clean, fake now) and
                fake_to_real
    flips_sure  share of them that are called real when clean and fake now, or the other way round, by the
                detector's rule: neither verdict is unsure
    unsure      share of them that are called unsure now; 0 without an unsure band, where flips_sure equals flips

    Raises ValueError when a benchmark has no clean scores, or an image two rows.
    """
    frame = scores.frame
    key = [*GROUP, "degradation", "uri"]
    if (doubled := frame.duplicated(key)).any():
        model, benchmark, degradation, uri = frame.loc[doubled, key].iloc[0]
        raise ValueError(f"{uri} has two scores for {degradation!r} ({benchmark}, {model}); expected one")
    rows: list[dict[str, object]] = []
    for (model, benchmark), group in frame.groupby(GROUP, sort=False):
        threshold, rule = scores.threshold(str(model)), scores.rule(str(model))
        by_degradation = dict(list(group.set_index("uri").groupby("degradation", sort=False)))
        if CLEAN not in by_degradation:
            raise ValueError(
                f"{benchmark}, {model}: no scores for {CLEAN!r} to compare {', '.join(by_degradation)} with"
            )
        for name in _in_order(by_degradation):
            figures = _compare(by_degradation[name], by_degradation[CLEAN], threshold=threshold, rule=rule)
            rows.append({"model": model, "benchmark": benchmark, "degradation": name, **figures})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    rates = [name for name in COLUMNS[COLUMNS.index("auroc") :] if name != "n_paired"]
    return table.astype(dict.fromkeys(rates, float))


def _compare(
    degraded: pd.DataFrame, clean: pd.DataFrame, *, threshold: float, rule: DecisionRule
) -> dict[str, object]:
    read, read_clean = (part[part["error"].fillna("") == ""] for part in (degraded, clean))
    paired = read.index.intersection(read_clean.index)
    now = _figures(read, threshold)
    before, after = (_figures(part.loc[paired], threshold) for part in (read_clean, read))
    falls = {f"{name}_fall": before[name] - after[name] for name in FIGURES}
    was, is_now = (part.loc[paired, "score"] for part in (read_clean, read))
    was_fake, is_fake = was >= threshold, is_now >= threshold
    return {
        "n_real": int((read["label"] == 0).sum()),
        "n_fake": int((read["label"] == 1).sum()),
        "unreadable": len(degraded) - len(read),
        **now,
        **falls,
        "n_paired": len(paired),
        "flips": (was_fake != is_fake).mean(),
        "real_to_fake": (~was_fake & is_fake).mean(),
        "fake_to_real": (was_fake & ~is_fake).mean(),
        **_sure_figures(rule, was.to_numpy(), is_now.to_numpy()),
    }


def _sure_figures(rule: DecisionRule, was_N: np.ndarray, is_now_N: np.ndarray) -> dict[str, float]:
    """Return what the scores of the same images say of flips when a detector may be unsure."""
    unsure = pd.Series(rule.unsure(is_now_N))
    contradict = (rule.labels(was_N) != rule.labels(is_now_N)) & ~rule.unsure(was_N) & ~unsure
    return {"flips_sure": contradict.mean(), "unsure": unsure.mean()}


def _figures(rows: pd.DataFrame, threshold: float) -> dict[str, float]:
    metrics = compute_metrics(rows["label"].to_numpy(int), rows["score"].to_numpy(float), threshold=threshold)
    return {name: math.nan if (value := getattr(metrics, name)) is None else value for name in FIGURES}


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort by family, as data.images.degrade lists them, then by strength; unknown names come last."""
    families = list(FAMILIES)

    def place(name: str) -> tuple[int, float, str]:
        family, strength = split_name(name)
        return families.index(family) if family in FAMILIES else len(families), strength or 0.0, name

    return sorted(names, key=place)


def matrix(table: pd.DataFrame, *, model: str, figure: str) -> pd.DataFrame:
    """Return benchmark x degradation of one figure of `robustness_table`.

    Several benchmarks get a last row: the unweighted mean over those that have the figure for all degradations.
    """
    wanted = table[table["model"] == model]
    wide = wanted.pivot(index="benchmark", columns="degradation", values=figure)
    wide = wide.loc[list(dict.fromkeys(wanted["benchmark"])), _in_order(wide.columns)]
    whole = wide.dropna()
    if len(wide) > 1 and len(whole):
        wide.loc[MEAN] = whole.mean()
    return wide


def worst_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each model, benchmark and figure the degradation under which the figure is lowest.

    Columns: model, benchmark, figure, clean, worst, fall, degradation. Of equals, the first in the table is named.
    A figure that is not defined has no row.
    """
    rows = []
    for (model, benchmark), group in table.groupby(GROUP, sort=False):
        by_name = group.set_index("degradation")
        for figure in FIGURES:
            degraded = by_name[figure].drop(index=CLEAN).dropna()
            if len(degraded):
                name = degraded.idxmin()
                figures = (by_name.loc[CLEAN, figure], degraded[name], by_name.loc[name, f"{figure}_fall"])
                rows.append((model, benchmark, figure, *figures, name))
    return pd.DataFrame(rows, columns=["model", "benchmark", "figure", "clean", "worst", "fall", "degradation"])


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the curves of AUROC by strength.

    Columns: model, benchmark, family, unit, strength, auroc, clean. Families without a strength, and names that
    data.images.degrade does not know, have no curve.
    """
    clean = table[table["degradation"] == CLEAN].set_index(GROUP)["auroc"]
    rows = []
    for model, benchmark, name, auroc in table[[*GROUP, "degradation", "auroc"]].itertuples(index=False):
        family, strength = split_name(str(name))
        if family in FAMILIES and strength is not None:
            rows.append(
                (model, benchmark, family, FAMILIES[family].unit, strength, auroc, clean[model, benchmark])
            )
    found = pd.DataFrame(rows, columns=[*GROUP, "family", "unit", "strength", "auroc", "clean"])
    return found.sort_values([*GROUP, "family", "strength"], ignore_index=True)


def to_text(table: pd.DataFrame) -> str:
    """Return a line for each degradation, then the worst cases, for a terminal."""
    words = described(table["degradation"])
    figures = ["degradation", *FIGURES, "flips", "real_to_fake", "fake_to_real", "flips_sure", "unsure"]
    shown = table[[*GROUP, *figures]].assign(degradation=table["degradation"].map(words))
    lines = [shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")]
    for worst in worst_cases(table).to_dict("records"):
        fall = f"{worst['clean']:.3f} -> {worst['worst']:.3f} ({words[worst['degradation']]})"
        lines.append(f"{worst['model']}, {worst['benchmark']}: worst {worst['figure']} {fall}")
    return "\n".join(lines)
