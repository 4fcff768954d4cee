"""Traits of a benchmark's files, and a detector's scores -> what the scores owe to the traits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.images.degrade import CLEAN, CODECS, split_name
from evaluation.audit.shortcuts import auroc_interval, auroc_of, auroc_within, correlations, false_positives
from evaluation.tables.scores import ScoreTable


@dataclass(frozen=True)
class DetectorAudit:
    """What is found about a detector.

    detector          "model", "threshold", "n_real", "n_fake", "without_score", "auroc", "low", "high";
                      "auroc_within" pairs of one format and size bin, whose share of all pairs is "paired_share"
    correlations      of scores with traits
    re_encoded        degradation, n, auroc, fall: the scores after both classes were encoded alike
    false_positives   by source, camera, format and size
    """

    detector: dict[str, Any]
    correlations: pd.DataFrame
    re_encoded: pd.DataFrame
    false_positives: pd.DataFrame


def audit_detector(
    traits: pd.DataFrame, scores: ScoreTable, *, model: str, name: str, num_resamples: int
) -> DetectorAudit:
    """Compare a detector's scores with the traits of the same images.

    traits   rows of the readable images of the benchmark `name`
    model    whose scores

    Raises ValueError when the table has no such model, or one of the classes has no clean image with a score.
    """
    if model not in scores.models:
        raise ValueError(f"{name}: no scores of model {model!r}; there are some of {', '.join(scores.models)}")
    by_degradation = _match(traits, scores.frame[scores.frame["model"] == model])
    clean = by_degradation.get(CLEAN)
    if clean is None:
        raise ValueError(
            f"{name}: none of its {len(traits)} images has a score of {model!r} for degradation {CLEAN!r}; "
            f"the table has {', '.join(dict.fromkeys(scores.frame['degradation'])) or 'no rows'}"
        )
    n_fake = int(clean["label"].sum())
    n_real = len(clean) - n_fake
    if not n_real or not n_fake:
        raise ValueError(
            f"{name}: {n_real} real and {n_fake} fake images have a score of {model!r}; both are needed"
        )
    threshold = scores.threshold(model)
    figures, _unit = auroc_interval(clean, clean["score"].to_numpy(float), num_resamples=num_resamples)
    within, share = auroc_within(clean)
    detector = {
        "model": model,
        "threshold": threshold,
        "n_real": n_real,
        "n_fake": n_fake,
        "without_score": len(traits) - len(clean),
        **figures,
        "auroc_within": within,
        "paired_share": share,
    }
    wrong = false_positives(clean, threshold=threshold)
    return DetectorAudit(detector, correlations(clean), _re_encoded(by_degradation), wrong)


def _match(traits: pd.DataFrame, scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return degradation -> the traits of the images that have a score for it, with the score as a column.

    Images are found by their uri, and those that are not found so by their content.
    """
    scored = scores[scores["error"] == ""]
    uri_of_content = traits.drop_duplicates("content_sha256").set_index("content_sha256")["uri"]
    is_here = scored["uri"].isin(traits["uri"])
    uris = scored["uri"].where(is_here, scored["content_sha256"].map(uri_of_content))
    # An image may be in several benchmarks of the table; its score is the same.
    matched = scored.assign(uri=uris).dropna(subset=["uri", "score"]).drop_duplicates(["uri", "degradation"])
    joined = traits.merge(matched[["uri", "degradation", "score"]], on="uri")
    return {str(each): part for each, part in joined.groupby("degradation", sort=False)}


def _re_encoded(by_degradation: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the degradations that only encode; the fall is from the clean AUROC of the same images."""
    clean = by_degradation[CLEAN]
    rows = []
    for name, part in by_degradation.items():
        if split_name(name)[0].upper() in CODECS:
            before = auroc_of(clean[clean["uri"].isin(part["uri"])])
            after = auroc_of(part)
            rows.append({"degradation": name, "n": len(part), "auroc": after, "fall": before - after})
    return pd.DataFrame(rows, columns=["degradation", "n", "auroc", "fall"])
