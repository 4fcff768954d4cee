"""Traits of a benchmark's files, and a detector's scores if there are any -> an audit: is the label in the files?

A detector that has learnt JPEG against PNG, or one size against another, scores well on a benchmark whose classes
differ in that (Grommelt et al. 2024, "Fake or JPEG?"). An audit says how far that goes without looking at pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from data.benchmarks.benchmark import Benchmark
from data.benchmarks.traits import read_traits
from data.records import Record
from evaluation.audit.detector import DetectorAudit, audit_detector
from evaluation.audit.duplicates import MAX_BITS, find_duplicates
from evaluation.audit.findings import (
    about_detector,
    about_duplicates,
    about_false_positives,
    about_method,
    about_traits,
)
from evaluation.audit.shortcuts import NUM_FOLDS, is_by_source, predict_labels
from evaluation.intervals import NUM_RESAMPLES
from evaluation.tables.scores import ScoreTable

MIN_PER_CLASS = NUM_FOLDS  # images, one for each fold
SHOWN_ROWS = 12  # of a table in a terminal


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What is found; each table has the columns that its function in shortcuts.py or duplicates.py names.

    by_source         whether whole sources were held out to predict labels; otherwise single images were
    interval_unit     what the intervals were drawn from: "images" or "sources"
    traits            how well each trait, and all of them, predict the label
    detector          as in `DetectorAudit`, with the three tables after it; None without scores
    across_classes    fakes that look like a real image
    with_train        images that look like one of the training; None when no training images were given
    verdict           all of that in sentences
    """

    name: str
    n_real: int
    n_fake: int
    unreadable: int
    by_source: bool
    interval_unit: str
    max_bits: int = MAX_BITS
    traits: pd.DataFrame
    detector: dict[str, Any] | None = None
    correlations: pd.DataFrame | None = None
    re_encoded: pd.DataFrame | None = None
    false_positives: pd.DataFrame | None = None
    across_classes: pd.DataFrame
    with_train: pd.DataFrame | None
    verdict: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the audit for JSON: a table is a list of rows, an undefined figure None."""
        return {name: _plain(value) for name, value in vars(self).items()}


def audit_benchmarks(
    benchmarks: Sequence[Benchmark],
    *,
    scores: ScoreTable | None = None,
    model: str | None = None,
    train: Sequence[Record] = (),
    num_workers: int = 2,
) -> dict[str, Audit]:
    """Read every image of the benchmarks and of the training, and audit each benchmark: name -> audit.

    model   whose scores; None means the first of the table
    """
    of_train = read_traits(train, num_workers=num_workers) if train else None
    audits = {}
    for each in benchmarks:
        traits = read_traits(each.images().records, num_workers=num_workers)
        audits[each.name] = audit_benchmark(traits, name=each.name, scores=scores, model=model, train=of_train)
    return audits


def audit_benchmark(
    traits: pd.DataFrame,
    *,
    name: str,
    scores: ScoreTable | None = None,
    model: str | None = None,
    train: pd.DataFrame | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Audit:
    """Audit the benchmark `name` from the rows of `read_traits`, one for each of its images.

    scores   of these images or of more; images are found by their uri, or else by their content
    model    whose scores; None means the first of the table
    train    rows of read_traits of the training images

    Raises ValueError for a class with fewer images than folds, and for scores of other images.
    """
    read = traits[traits["error"] == ""].drop_duplicates("uri").reset_index(drop=True)
    fakes, reals = read[read["label"] == 1], read[read["label"] == 0]
    _require_enough(len(reals), len(fakes), name=name)
    found = None
    if scores is not None:
        model = model or scores.models[0]
        found = audit_detector(read, scores, model=model, name=name, num_resamples=num_resamples)
    predicted, unit = predict_labels(read, num_resamples=num_resamples)
    audit = Audit(
        name=name,
        n_real=len(reals),
        n_fake=len(fakes),
        unreadable=traits["uri"].nunique() - len(read),
        by_source=is_by_source(read),
        interval_unit=unit,
        traits=predicted,
        across_classes=find_duplicates(fakes, reals),
        with_train=None if train is None else find_duplicates(read, train[train["error"] == ""]),
        **(vars(found) if found else {}),
    )
    return replace(audit, verdict=tuple(_verdict(audit, read, found)))


def _require_enough(n_real: int, n_fake: int, *, name: str) -> None:
    if min(n_real, n_fake) < MIN_PER_CLASS:
        raise ValueError(
            f"{name}: {n_real} real and {n_fake} fake images could be read; "
            f"an audit takes at least {MIN_PER_CLASS} of each"
        )


def _verdict(audit: Audit, read: pd.DataFrame, found: DetectorAudit | None) -> list[str]:
    """Say what the tables of an audit mean; `read` are the traits of the images that could be read."""
    sentences = about_traits(audit.traits, read, detector=audit.detector)
    if found:
        sentences += about_detector(found.detector, found.re_encoded, found.correlations)
        sentences += about_false_positives(found.false_positives)
    sentences += about_duplicates(
        audit.across_classes,
        audit.with_train,
        num_fakes=audit.n_fake,
        num_images=audit.n_real + audit.n_fake,
    )
    without_score = found.detector["without_score"] if found else 0
    return sentences + about_method(
        read, by_source=audit.by_source, unreadable=audit.unreadable, without_score=without_score
    )


# ---------------------------------------------------------------------------------------------------------
# Shown


def to_text(audit: Audit) -> str:
    """Return the verdict and the tables for a terminal, with at most SHOWN_ROWS rows of each."""
    lines = [f"{audit.name}: {audit.n_real} real, {audit.n_fake} fake images", ""]
    lines += [f"- {sentence}" for sentence in audit.verdict]
    drawn = f"intervals of 95 % over {audit.interval_unit}"
    for title, table in (
        (f"Label predicted from traits of the files ({drawn})", audit.traits),
        ("Scores of both classes encoded alike", audit.re_encoded),
        ("Rank correlation of scores and traits", audit.correlations),
        ("Real images called fake", audit.false_positives),
        ("Fakes like a real image", audit.across_classes),
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
