"""Traits of image files, and a detector's scores -> how well the traits explain the label and the scores.

Shape suffixes: N images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from evaluation.intervals import MIN_SOURCES, bootstrap, wilson
from gapl.labels import Label

NUM_FOLDS = 5
SEED = 0  # of the samples, folds and forests
MAX_PER_CLASS = 20_000  # images that a model of traits is fitted to; a sample of more
# Trait -> its columns. The JPEG quality is missing where a file is not JPEG, and the model sees that. The number
# of bytes per pixel depends in part on the content: smooth pictures take few.
TRAITS = {
    "format": ("format",),
    "size": ("width", "height"),
    "JPEG quality": ("jpeg_quality",),
    "bytes per pixel": ("bytes_per_pixel",),
    "chroma subsampling": ("subsampling",),
    "EXIF": ("has_exif",),
}
ALL = "all"
CATEGORIES = ("format", "subsampling")
NUMBERS = ("width", "height", "bytes_per_pixel", "jpeg_quality", "is_jpeg", "has_exif")


def is_by_source(traits: pd.DataFrame) -> bool:
    """Return whether each class has enough sources (MIN_SOURCES) to hold some of them out."""
    return bool((traits.groupby("label")["source"].nunique() >= MIN_SOURCES).all())


def predict_labels(traits: pd.DataFrame, *, num_resamples: int) -> tuple[pd.DataFrame, str]:
    """Return how well each trait, and all together, predict the label; and what the intervals were drawn from.

    There is a row for each: trait, auroc, low, high; 0.5 is chance. A boosted forest sees only the trait, and
    predicts the images of NUM_FOLDS folds, each after it was fitted to the other folds. If `is_by_source`, all
    images of a source are in the same fold, so that the result holds for other sources; otherwise images are dealt
    at random. The intervals are those of evaluation.intervals, of the predictions.
    """
    drawn = pd.concat(
        part.sample(min(len(part), MAX_PER_CLASS), random_state=SEED).sort_index()
        for _, part in traits.groupby("label")
    )
    label_N = drawn["label"].to_numpy(int)
    folds = list(_folds(drawn))
    rows, unit = [], ""
    for name in (*TRAITS, ALL):
        wanted = list(dict.fromkeys(sum(TRAITS.values(), ()))) if name == ALL else list(TRAITS[name])
        score_N = _out_of_fold(drawn[wanted], label_N, folds)
        figures, unit = auroc_interval(drawn, score_N, num_resamples=num_resamples)
        rows.append({"trait": name, **figures})
    return pd.DataFrame(rows), unit


def auroc_interval(
    traits: pd.DataFrame, score_N: np.ndarray, *, num_resamples: int
) -> tuple[dict[str, float], str]:
    """Return "auroc", "low" and "high" of the scores of these images, and what the interval was drawn from."""
    label_N = traits["label"].to_numpy(int)
    resampled = bootstrap(
        label_N,
        score_N,
        threshold=0.5,  # no AUROC depends on it
        sources_N=traits["source"].to_list(),
        uris_N=traits["uri"].to_list(),
        num_resamples=num_resamples,
    )
    low, high = resampled.intervals()["auroc"]
    return {"auroc": float(roc_auc_score(label_N, score_N)), "low": low, "high": high}, resampled.unit


def _folds(traits: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    label_N = traits["label"].to_numpy(int)
    options = {"n_splits": NUM_FOLDS, "shuffle": True, "random_state": SEED}
    if is_by_source(traits):
        return StratifiedGroupKFold(**options).split(label_N, label_N, groups=traits["source"])
    return StratifiedKFold(**options).split(label_N, label_N)


def _out_of_fold(
    columns: pd.DataFrame, label_N: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return P(fake) of each image by the model of the other folds, with both classes weighted alike."""
    score_N = np.full(len(label_N), 0.5)
    if (columns.nunique(dropna=False) == 1).all():
        return score_N
    encoded = columns.assign(**{name: columns[name].astype("category") for name in CATEGORIES if name in columns})
    model = HistGradientBoostingClassifier(
        max_iter=30,
        learning_rate=0.3,
        max_leaf_nodes=15,
        min_samples_leaf=5,
        categorical_features="from_dtype",
        class_weight="balanced",
        early_stopping=False,
        random_state=SEED,
    )
    # On so few numbers, threads that wait for each other cost more than they save.
    with threadpool_limits(1, user_api="openmp"):
        for train, test in folds:
            if len(np.unique(label_N[train])) == 2:
                model.fit(encoded.iloc[train], label_N[train])
                score_N[test] = model.predict_proba(encoded.iloc[test])[:, 1]
    # Images with the same trait must tie, but models of two folds differ in the last bits.
    return score_N.round(6)


# ---------------------------------------------------------------------------------------------------------
# Scores beside traits: rows of traits with a column `score`


def size_bins(traits: pd.DataFrame) -> pd.Series:
    """Return the size of each image as "256-362 px": the side of a square of as many pixels, in half octaves."""
    side = np.sqrt(traits["width"].to_numpy(float) * traits["height"].to_numpy(float))
    step = np.floor(2 * np.log2(np.maximum(side, 1)) + 1e-9)
    return pd.Series(
        [f"{round(2 ** (k / 2))}-{round(2 ** ((k + 1) / 2))} px" for k in step], index=traits.index, dtype=object
    )


def auroc_of(scored: pd.DataFrame) -> float:
    """Return the AUROC of the scores; NaN where a class is missing."""
    label_N = scored["label"].to_numpy(int)
    both = 0 < label_N.sum() < len(label_N)
    return float(roc_auc_score(label_N, scored["score"])) if both else float("nan")


def auroc_within(scored: pd.DataFrame) -> tuple[float, float]:
    """Return the AUROC among pairs of a real and a fake image of one format and size bin, and their share of all.

    It is the mean over formats and size bins, weighted by their pairs; NaN when there are no such pairs.
    """
    total, outranked = 0, 0.0
    for _, stratum in scored.groupby(["format", size_bins(scored)]):
        num_fake = int((stratum["label"] == 1).sum())
        if pairs := num_fake * (len(stratum) - num_fake):
            total += pairs
            outranked += pairs * auroc_of(stratum)
    num_fake = int((scored["label"] == 1).sum())
    all_pairs = num_fake * (len(scored) - num_fake)
    return (outranked / total if total else float("nan")), (total / all_pairs if all_pairs else float("nan"))


def correlations(scored: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's rank correlation of the score with each number, within each class.

    Columns: trait, class, n, spearman. It is NaN where all images have the same trait; the JPEG quality is that of
    JPEG files only.
    """
    numbers = scored.assign(is_jpeg=scored["format"] == "JPEG")
    rows = []
    for name in NUMBERS:
        for label in Label:
            part = numbers[(numbers["label"] == label) & numbers[name].notna()]
            varies = part[name].nunique() > 1 and part["score"].nunique() > 1
            rho = float(spearmanr(part[name].astype(float), part["score"]).statistic) if varies else float("nan")
            rows.append({"trait": name, "class": label.word, "n": len(part), "spearman": rho})
    return pd.DataFrame(rows)


def false_positives(scored: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """Count the real images with a score of `threshold` or more, by source, camera, format and size bin.

    Columns: by, value, n, false_positives, rate, low, high (95 % Wilson interval). The highest rate comes first.
    """
    reals = scored[scored["label"] == 0].assign(size=size_bins)
    called = reals["score"] >= threshold
    rows = []
    for by in ("source", "camera", "format", "size"):
        for value, wrong in called.groupby(reals[by]):
            count, n = int(wrong.sum()), len(wrong)
            low, high = wilson(count, n)
            named = {"by": by, "value": str(value) or "unknown", "n": n, "false_positives": count}
            rows.append({**named, "rate": count / n, "low": float(low), "high": float(high)})
    columns = ["by", "value", "n", "false_positives", "rate", "low", "high"]
    table = pd.DataFrame(rows, columns=columns)
    rank = table["by"].map({by: i for i, by in enumerate(("source", "camera", "format", "size"))})
    order = table.assign(rank=rank).sort_values(["rank", "rate", "n"], ascending=[True, False, False]).index
    return table.loc[order].reset_index(drop=True)
