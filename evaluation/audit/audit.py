"""Traits of a benchmark's files, and if there are some a detector's scores -> an audit: is the label in the files?

A detector that has learnt JPEG against PNG, or one size against another, scores well on a benchmark whose classes
differ in that (Grommelt et al. 2024, "Fake or JPEG?"). An audit says how far that goes, without a look at pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.benchmarks.benchmark import Benchmark
from data.benchmarks.traits import TRAIT_COLUMNS, read_traits
from data.images.degrade import CLEAN, CODECS
from data.records import Record
from evaluation.audit.duplicates import MAX_BITS, find_duplicates
from evaluation.audit.findings import (
    about_detector,
    about_duplicates,
    about_false_positives,
    about_method,
    about_traits,
)
from evaluation.audit.shortcuts import (
    NUM_FOLDS,
    auroc_of,
    auroc_within,
    correlations,
    false_positives,
    is_by_source,
    predict_labels,
)
from evaluation.intervals import NUM_RESAMPLES, bootstrap
from evaluation.tables.scores import ScoreTable

SCORE_COLUMNS = ("uri", "content_sha256", "model", "degradation", "score", "error")
MIN_PER_CLASS = NUM_FOLDS  # images, one for each fold
SHOWN_ROWS = 12  # of a table in a terminal


@dataclass(frozen=True)
class Audit:
    """What is found; each table has the columns that its function in shortcuts.py or duplicates.py names.

    by_source         whether sources were held out to predict labels; images were otherwise
    interval_unit     what the intervals were drawn from: "images" or "sources"
    traits            how well each trait, and all of them, predict the label
    detector          "model", "threshold", "n_real", "n_fake", "without_score", "auroc", "low", "high",
                      "auroc_within" pairs of one format and size bin, "paired_share"; None without scores,
                      like the three tables after it
    correlations      of scores with traits
    re_encoded        degradation, n, auroc, fall: scores after both classes were encoded alike
    false_positives   by source, camera, format and size
    across_classes    fakes that look like a photograph
    with_train        images that look like one of the training; None when no training images were given
    verdict           all that in sentences
    """

    name: str
    n_real: int
    n_fake: int
    unreadable: int
    by_source: bool
    interval_unit: str
    max_bits: int
    traits: pd.DataFrame
    detector: dict[str, Any] | None
    correlations: pd.DataFrame | None
    re_encoded: pd.DataFrame | None
    false_positives: pd.DataFrame | None
    across_classes: pd.DataFrame
    with_train: pd.DataFrame | None
    verdict: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a table is a list of rows, a figure that is not defined None."""
        return {name: _plain(value) for name, value in vars(self).items()}


def audit_benchmark(
    traits: pd.DataFrame,
    *,
    name: str,
    scores: pd.DataFrame | None = None,
    model: str | None = None,
    threshold: float = 0.5,
    train: pd.DataFrame | None = None,
    max_bits: int = MAX_BITS,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Audit:
    """traits    rows of data.benchmarks.traits.read_traits, one for each image of the benchmark
    scores       a table of scores, for these images or for more; they are found by uri, and those
                 that are not by their content
    model        whose scores; needed when there are several
    threshold    from which on an image is called fake
    train        rows of read_traits of the training images

    Raises ValueError for a table without a needed column, a class with fewer images than folds, and scores that
    are of other images or of several models.
    """
    for table, columns, what in (
        (traits, TRAIT_COLUMNS, "traits"),
        (scores, SCORE_COLUMNS, "scores"),
        (train, TRAIT_COLUMNS, "traits of training images"),
    ):
        if table is not None:
            _require_columns(table, columns, what=f"{name}: the table of {what}")
    read = traits[traits["error"] == ""].drop_duplicates("uri").reset_index(drop=True)
    counts = {label: int((read["label"] == label).sum()) for label in (0, 1)}
    if min(counts.values()) < MIN_PER_CLASS:
        raise ValueError(
            f"{name}: {counts[0]} real and {counts[1]} fake images could be read; an audit takes at least "
            f"{MIN_PER_CLASS} of each"
        )
    unreadable = traits["uri"].nunique() - len(read)
    by_degradation = None if scores is None else _join(read, scores, model=model, name=name)
    predicted, unit = predict_labels(read, seed=seed, num_resamples=num_resamples)
    fakes, reals = read[read["label"] == 1], read[read["label"] == 0]
    across = find_duplicates(fakes, reals, max_bits=max_bits)
    with_train = None if train is None else find_duplicates(read, train[train["error"] == ""], max_bits=max_bits)
    detector = of_scores = re_encoded = wrong = None
    found: list[str] = []
    if by_degradation is not None:
        clean = by_degradation[CLEAN]
        detector = _detector(clean, threshold=threshold, seed=seed, num_resamples=num_resamples)
        detector["without_score"] = len(read) - len(clean)
        of_scores = correlations(clean)
        re_encoded = _re_encoded(by_degradation)
        wrong = false_positives(clean, threshold=threshold)
        found = about_detector(detector, re_encoded, of_scores) + about_false_positives(wrong)
    by_source = is_by_source(read)
    verdict = [
        *about_traits(predicted, read, detector=detector),
        *found,
        *about_duplicates(across, with_train, num_fakes=len(fakes), num_images=len(read), max_bits=max_bits),
        *about_method(
            read,
            by_source=by_source,
            unreadable=unreadable,
            without_score=detector["without_score"] if detector else 0,
        ),
    ]
    return Audit(
        name=name,
        n_real=counts[0],
        n_fake=counts[1],
        unreadable=unreadable,
        by_source=by_source,
        interval_unit=unit,
        max_bits=max_bits,
        traits=predicted,
        detector=detector,
        correlations=of_scores,
        re_encoded=re_encoded,
        false_positives=wrong,
        across_classes=across,
        with_train=with_train,
        verdict=tuple(verdict),
    )


def audit_benchmarks(
    benchmarks: Sequence[Benchmark],
    *,
    scores: ScoreTable | None = None,
    model: str | None = None,
    train: Sequence[Record] = (),
    num_workers: int = 2,
) -> dict[str, Audit]:
    """Read every image of the benchmarks, and of the training images, and audit each benchmark: name -> audit.

    model   whose scores; None means the first of the table
    """
    of_train = read_traits(train, num_workers=num_workers) if train else None
    of_scores: dict[str, Any] = {}
    if scores is not None:
        name = model or scores.models[0]
        of_scores = {"scores": scores.frame, "model": name, "threshold": scores.threshold(name)}
    audits = {}
    for each in benchmarks:
        traits = read_traits(each.images().records, shards=each.shards, num_workers=num_workers)
        audits[each.name] = audit_benchmark(traits, name=each.name, train=of_train, **of_scores)
    return audits


def _require_columns(table: pd.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{what} has no column {', '.join(missing)}; expected {', '.join(columns)}")


def _join(traits: pd.DataFrame, scores: pd.DataFrame, *, model: str | None, name: str) -> dict[str, pd.DataFrame]:
    """degradation -> the traits of the images that have a score for it, with that in a column `score`."""
    models = list(dict.fromkeys(scores["model"]))
    if model is None and len(models) > 1:
        raise ValueError(f"{name}: scores of {len(models)} models ({', '.join(models)}); name one of them")
    model = models[0] if model is None and models else model
    if model not in models:
        raise ValueError(f"{name}: no scores of model {model!r}; there are some of {', '.join(models) or 'none'}")
    wanted = scores[(scores["model"] == model) & (scores["error"].fillna("") == "")]
    uri_of_content = traits.drop_duplicates("content_sha256").set_index("content_sha256")["uri"]
    is_here = wanted["uri"].isin(traits["uri"])
    uris = wanted["uri"].where(is_here, wanted["content_sha256"].map(uri_of_content))
    # An image may be in several benchmarks of the table; its score is the same.
    matched = wanted.assign(uri=uris).dropna(subset=["uri", "score"]).drop_duplicates(["uri", "degradation"])
    joined = traits.merge(matched[["uri", "model", "degradation", "score"]], on="uri")
    by_degradation = {str(each): part for each, part in joined.groupby("degradation", sort=False)}
    if CLEAN not in by_degradation:
        raise ValueError(
            f"{name}: none of its {len(traits)} images has a score of {model!r} for degradation {CLEAN!r}; "
            f"the table has {', '.join(dict.fromkeys(scores['degradation'])) or 'no rows'}"
        )
    n_fake = int(by_degradation[CLEAN]["label"].sum())
    n_real = len(by_degradation[CLEAN]) - n_fake
    if not n_real or not n_fake:
        raise ValueError(
            f"{name}: {n_real} real and {n_fake} fake images have a score of {model!r}; both are needed"
        )
    return by_degradation


def _detector(clean: pd.DataFrame, *, threshold: float, seed: int, num_resamples: int) -> dict[str, Any]:
    within, share = auroc_within(clean)
    resampled = bootstrap(
        *(clean["label"].to_numpy(int), clean["score"].to_numpy(float)),
        threshold=threshold,
        sources_N=clean["source"].to_list(),
        uris_N=clean["uri"].to_list(),
        seed=seed,
        num_resamples=num_resamples,
    )
    low, high = resampled.intervals()["auroc"]
    return {
        "model": clean["model"].iloc[0],
        "threshold": threshold,
        "n_real": int((clean["label"] == 0).sum()),
        "n_fake": int((clean["label"] == 1).sum()),
        "auroc": auroc_of(clean),
        "low": low,
        "high": high,
        "auroc_within": within,
        "paired_share": share,
    }


def _re_encoded(by_degradation: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The degradations that do nothing but encode. The fall is from the clean AUROC of the same images."""
    clean = by_degradation[CLEAN]
    rows = []
    for name, part in by_degradation.items():
        if name.partition(":")[0].upper() in CODECS:
            before = auroc_of(clean[clean["uri"].isin(part["uri"])])
            after = auroc_of(part)
            rows.append({"degradation": name, "n": len(part), "auroc": after, "fall": before - after})
    return pd.DataFrame(rows, columns=["degradation", "n", "auroc", "fall"])


# ---------------------------------------------------------------------------------------------------------
# Shown


def to_text(audit: Audit) -> str:
    """For a terminal: the verdict, then the tables, of long ones the first SHOWN_ROWS rows."""
    lines = [f"{audit.name}: {audit.n_real} real, {audit.n_fake} fake images", ""]
    lines += [f"- {sentence}" for sentence in audit.verdict]
    drawn = f"intervals of 95 % over {audit.interval_unit}"
    for title, table in (
        (f"Label predicted from traits of the files ({drawn})", audit.traits),
        ("Scores of both classes encoded alike", audit.re_encoded),
        ("Rank correlation of scores and traits", audit.correlations),
        ("Photographs called fake", audit.false_positives),
        ("Fakes like a photograph", audit.across_classes),
        ("Images like one of the training", audit.with_train),
    ):
        if table is not None and len(table):
            shown = table.head(SHOWN_ROWS)
            lines += ["", title, shown.to_string(index=False, na_rep="", float_format=lambda x: f"{x:.3f}")]
            if len(table) > len(shown):
                lines.append(f"... and {len(table) - len(shown)} rows more")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
