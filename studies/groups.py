"""Scores on the open corpus -> figures by benchmark, of fakes by generator, and of real pictures by style.

Shape suffix: N images.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.images.degrade import CLEAN, DELIVERIES, described, split_name
from data.open_corpus.collection import image_name
from data.open_corpus.kinds import style_of
from data.open_corpus.listing import Picture
from evaluation.calibrate import class_weights
from evaluation.intervals import NUM_RESAMPLES, bootstrap
from evaluation.metrics import calibration_error, compute_metrics
from evaluation.robustness import robustness_table
from evaluation.tables.scores import ScoreTable
from gapl.labels import Label

# The first words of sources whose pictures people made in other ways than with a camera.
NO_PHOTOGRAPHS = ("screenshot", "chart", "drawing", "composite", "document", "render", "texture")
ALIGNED = ("aligned", "square")  # families of degradations
GROUP = ["model", "benchmark", "degradation"]
FORM_FIGURES = ("auroc", "flips", "flips_sure", "unsure")


def judge(scores: ScoreTable) -> pd.DataFrame:
    """Return the images that have a score, with what the detector makes of each.

    To the columns of a table of scores come: right, by the stored threshold; unsure and sure_right, by the rule
    that gives verdicts; style; photograph, which is true for real pictures of a style outside of NO_PHOTOGRAPHS.
    """
    read = scores.frame[scores.frame["error"] == ""]
    style = read["source"].map(style_of)
    read = read.assign(style=style, photograph=(read["label"] == Label.REAL) & ~style.isin(NO_PHOTOGRAPHS))
    parts = []
    for name, part in read.groupby("model", sort=False):
        model, score_N, is_fake_N = str(name), part["score"].to_numpy(float), part["label"] == Label.FAKE
        rule = scores.rule(model)
        called_N = rule.labels(score_N)
        right_N = (score_N >= scores.threshold(model)) == is_fake_N
        sure_right_N = called_N == np.where(is_fake_N, Label.FAKE.word, Label.REAL.word)
        parts.append(part.assign(right=right_N, unsure=rule.unsure(score_N), sure_right=sure_right_N))
    return pd.concat(parts) if parts else read.assign(right=False, unsure=False, sure_right=False)


def figures(scores: ScoreTable, *, num_resamples: int = NUM_RESAMPLES) -> pd.DataFrame:
    """Return a row for each model, benchmark and degradation, in the order of the table.

    n_...          images with a score: photographs, non-photographs, fakes; unreadable: those without one
    auroc, auroc_low, auroc_high   with its 95 % interval; interval_of: what was drawn, "sources" or "images"
    balanced_accuracy   at the stored threshold, of fakes against all real pictures
    photographs, non_photographs, fakes   shares that are right at the stored threshold
    ece            calibration error, with both classes weighing the same
    unsure         share of all images with the verdict "unsure"
    sure_accuracy, sure_balanced   share of the other verdicts that are right: of all, and the mean of the classes

    A figure of images that are not there is NaN.
    """
    images, frame = judge(scores), scores.frame
    lost = frame[frame["error"] != ""].groupby(GROUP).size().to_dict()
    rows = []
    for key, part in images.groupby(GROUP, sort=False):
        numbers = _figures(part, threshold=scores.threshold(str(key[0])), num_resamples=num_resamples)
        rows.append({**dict(zip(GROUP, key, strict=True)), "unreadable": lost.get(key, 0), **numbers})
    return pd.DataFrame(rows)


def _figures(part: pd.DataFrame, *, threshold: float, num_resamples: int) -> dict[str, float | int | str]:
    label_N, score_N = part["label"].to_numpy(int), part["score"].to_numpy(float)
    found = compute_metrics(label_N, score_N, threshold=threshold)
    drawn = bootstrap(
        label_N,
        score_N,
        threshold=threshold,
        sources_N=part["source"].to_list(),
        uris_N=part["uri"].to_list(),
        num_resamples=num_resamples,
    )
    low, high = drawn.intervals().get("auroc", (math.nan, math.nan))
    photographs, fakes = part[part["photograph"]], part[part["label"] == Label.FAKE]
    others = part[~part["photograph"] & (part["label"] == Label.REAL)]
    sure = part[~part["unsure"]]
    return {
        "n_photographs": len(photographs),
        "n_non_photographs": len(others),
        "n_fakes": len(fakes),
        "auroc": math.nan if found.auroc is None else found.auroc,
        "auroc_low": low,
        "auroc_high": high,
        "interval_of": drawn.unit,
        "balanced_accuracy": math.nan if found.balanced_accuracy is None else found.balanced_accuracy,
        "photographs": photographs["right"].mean(),
        "non_photographs": others["right"].mean(),
        "fakes": fakes["right"].mean(),
        "ece": _weighted_error(label_N, score_N),
        "unsure": part["unsure"].mean(),
        "sure_accuracy": sure["sure_right"].mean(),
        "sure_balanced": sure.groupby("label")["sure_right"].mean().reindex(list(Label)).mean(skipna=False),
    }


def _weighted_error(label_N: np.ndarray, score_N: np.ndarray) -> float:
    if len(np.unique(label_N)) < len(Label):
        return math.nan
    return calibration_error(label_N, score_N, weights_N=class_weights(label_N))


# ---------------------------------------------------------------------------------------------------------
# Kinds of images: generators and styles


def plain_degradations(scores: ScoreTable) -> list[str]:
    """Return the degradations whose kinds of images are told: none, and pictures that are aligned."""
    names = dict.fromkeys(scores.frame["degradation"])
    return [name for name in names if name == CLEAN or split_name(name)[0] in ALIGNED]


def by_generator(scores: ScoreTable, pictures: Sequence[Picture]) -> pd.DataFrame:
    """Return for each benchmark and generator how its fakes are judged: the columns of `_by`, and mixed_sources.

    An image is found in the list of the open corpus by the name of its file. mixed_sources is the number of the
    sources that have pictures of other generators too.

    Raises ValueError when a fake is not in the list.
    """
    images = judge(scores)
    fakes = images[images["label"] == Label.FAKE]
    listed = {image_name(picture.sha256): picture for picture in pictures}
    found = [listed.get(Path(uri).name) for uri in fakes["uri"]]
    if missing := [uri for uri, picture in zip(fakes["uri"], found, strict=True) if picture is None]:
        raise ValueError(
            f"{missing[0]}, and {len(set(missing)) - 1} more fakes, are not in the list of the open corpus; "
            "expected scores of images that python -m data.collect wrote from this list"
        )
    generators_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for picture in pictures:
        generators_of[picture.part, picture.source].add(picture.generator)
    known = [picture for picture in found if picture is not None]
    is_mixed = [len(generators_of[picture.part, picture.source]) > 1 for picture in known]
    fakes = fakes.assign(
        generator=[picture.generator for picture in known], mixed_source=fakes["source"].where(is_mixed)
    )
    return _by("generator", fakes, scores, mixed_sources=("mixed_source", "nunique"))


def by_style(scores: ScoreTable) -> pd.DataFrame:
    """Return for each benchmark and style how its real pictures are judged: the columns of `_by`."""
    images = judge(scores)
    return _by("style", images[images["label"] == Label.REAL], scores)


def _by(kind: str, images: pd.DataFrame, scores: ScoreTable, **counts: tuple[str, str]) -> pd.DataFrame:
    """Return model, benchmark, degradation, the kind, images, sources, right, unsure and the other counts.

    right, unsure   shares of the images, by the stored threshold and by the verdict

    Within a benchmark the worst kinds come first. Only some degradations are told, see `plain_degradations`.
    """
    wanted = images[images["degradation"].isin(plain_degradations(scores))]
    table = wanted.groupby([*GROUP, kind], sort=False).agg(
        images=("uri", "size"),
        sources=("source", "nunique"),
        right=("right", "mean"),
        unsure=("unsure", "mean"),
        **counts,
    )
    table = table.reset_index()
    place = table.groupby(GROUP, sort=False).ngroup()
    order = (
        table.assign(place=place).sort_values(["place", "right", "images"], ascending=[True, True, False]).index
    )
    return table.loc[order].reset_index(drop=True)


# ---------------------------------------------------------------------------------------------------------
# Forms of delivery


def by_form(scores: ScoreTable) -> pd.DataFrame | None:
    """Return for each benchmark and form of delivery, in plain words: auroc, flips, flips_sure, unsure.

    The figures are those of evaluation.robustness. None when the table has no form but "as it is".
    """
    place = {degradation.name: number for number, degradation in enumerate(DELIVERIES.values())}
    frame = scores.frame[scores.frame["degradation"].isin(place)]
    if set(frame["degradation"]) <= {CLEAN}:
        return None
    table = robustness_table(ScoreTable(frame, scores.about, scores.detectors))
    table["form"] = table["degradation"].map(described(table["degradation"]))
    table["group"] = table.groupby(["model", "benchmark"], sort=False).ngroup()
    table["place"] = table["degradation"].map(place)
    return table.sort_values(["group", "place"], ignore_index=True)[["model", "benchmark", "form", *FORM_FIGURES]]
