"""Estimate how far figures would scatter over other images: bootstrap intervals, and Wilson's for plain shares.

Percentile intervals (Efron & Tibshirani 1993, chapter 13) of resamples drawn within each class. Images of one
source, a generator or a set of real images, are alike: where a class has enough sources they are drawn whole
(cluster bootstrap: Field & Welsh 2007), because an interval over images says nothing about the next source.

Shape suffixes: N images, n images of a class, R resamples, S clusters, K shares.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

NUM_RESAMPLES = 1000
LEVEL = 0.95
MIN_SOURCES = 5  # of every class that is there; with fewer, images are drawn
FIGURES = ("auroc", "ap", "balanced_accuracy", "accuracy", "real_accuracy", "fake_accuracy")


@dataclass(frozen=True)
class Replicates:
    """The figures of resamples of some images.

    values   name of FIGURES -> values_R; a figure is left out when a missing class leaves it undefined
    unit     what was drawn: "images" or "sources"; "images, sources" of a mean over both kinds
    """

    values: dict[str, np.ndarray]
    unit: str

    def intervals(self, *, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Return name -> (low, high): the percentiles that leave out equal shares at either end."""
        tail = (1 - level) / 2
        return {
            name: (float(np.quantile(values_R, tail)), float(np.quantile(values_R, 1 - tail)))
            for name, values_R in self.values.items()
        }


def bootstrap(
    labels_N: np.ndarray,
    scores_N: np.ndarray,
    *,
    threshold: float,
    sources_N: Sequence[str] | None = None,
    uris_N: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Replicates:
    """Compute the figures of resamples of these images.

    The draws depend on labels, sources, uris and seed, never on scores: two detectors on the same images get the
    same draws, and their figures can be subtracted resample by resample.

    sources_N   what an image comes from. Drawn whole, within its class, if every class has at least MIN_SOURCES
    uris_N      with them, a class that consists of the same images is drawn alike wherever it is, such as the
                real images that subsets share; otherwise draws of the same seed do not depend on each other
    """
    labels_N = np.asarray(labels_N, dtype=int)
    if len(labels_N) == 0:
        return Replicates({}, "images")
    clusters_N, unit = _choose_clusters(labels_N, sources_N)
    reals_N, fakes_N = labels_N == 0, labels_N == 1
    ranking = _Ranking(scores_N[reals_N], scores_N[fakes_N], threshold=threshold)
    draws = [
        _draw(clusters_N[of_class_N], seed=_seed_of(of_class_N, uris_N, label=label, seed=seed), num=num_resamples)
        for label, of_class_N in enumerate((reals_N, fakes_N))
    ]
    resamples = [ranking.figures(reals_n, fakes_n) for reals_n, fakes_n in zip(*draws, strict=True)]
    return Replicates({name: np.array([each[name] for each in resamples]) for name in resamples[0]}, unit)


def wilson(count_K: Any, n_K: Any, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends, low_K and high_K, of Wilson's interval (1927) of the shares count / n, or of one share."""
    count_K, n_K = np.asarray(count_K, dtype=float), np.asarray(n_K, dtype=float)
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre_K = (count_K + z**2 / 2) / (n_K + z**2)
    half_K = z * np.sqrt(count_K * (1 - count_K / n_K) + z**2 / 4) / (n_K + z**2)
    # At shares of 0 and 1 an end is exact, but for rounding.
    low_K = np.where(count_K == 0, 0.0, centre_K - half_K)
    return low_K, np.where(count_K == n_K, 1.0, centre_K + half_K)


def mean_replicates(parts: Sequence[Replicates]) -> Replicates:
    """Return the unweighted mean over parts, for each resample. Figures that a part does not have are left out."""
    if not parts:
        return Replicates({}, "images")
    shared = [name for name in FIGURES if all(name in part.values for part in parts)]
    units = sorted({unit for part in parts for unit in part.unit.split(", ") if unit})
    return Replicates(
        {name: np.mean([part.values[name] for part in parts], axis=0) for name in shared}, ", ".join(units)
    )


def _choose_clusters(labels_N: np.ndarray, sources_N: Sequence[str] | None) -> tuple[np.ndarray, str]:
    """Return the number of the cluster that each image is drawn with, and what the clusters are."""
    images = np.arange(len(labels_N)), "images"
    if sources_N is None:
        return images
    cluster_N = np.unique(np.asarray(sources_N, dtype=str), return_inverse=True)[1]
    present = [label for label in (0, 1) if (labels_N == label).any()]
    counts = [len(np.unique(cluster_N[labels_N == label])) for label in present]
    return (cluster_N, "sources") if min(counts) >= MIN_SOURCES else images


def _seed_of(of_class_N: np.ndarray, uris_N: Sequence[str] | None, *, label: int, seed: int) -> list[int]:
    if uris_N is None:
        return [seed, label]
    uris = np.asarray(uris_N, dtype=object)[of_class_N]
    return [seed, label, zlib.crc32("\n".join(uris).encode())]


def _draw(clusters_n: np.ndarray, *, seed: list[int], num: int) -> Iterator[np.ndarray]:
    """Yield how often each image of a class is in a resample: as often as its cluster was drawn."""
    generator = np.random.default_rng(seed)
    cluster_n = np.unique(clusters_n, return_inverse=True)[1]
    num_clusters = len(np.unique(clusters_n))
    for _ in range(num):
        if num_clusters == 0:
            yield np.zeros(0, dtype=np.int64)
            continue
        drawn_S = generator.integers(num_clusters, size=num_clusters)
        times_S = np.bincount(drawn_S, minlength=num_clusters)
        yield times_S if num_clusters == len(cluster_n) else times_S[cluster_n]


class _Ranking:
    """The scores of real images and fakes, sorted once; then the figures for any numbers of copies of them."""

    def __init__(self, reals_n: np.ndarray, fakes_n: np.ndarray, *, threshold: float) -> None:
        self._order = np.argsort(-reals_n, kind="stable"), np.argsort(-fakes_n, kind="stable")
        reals_n, fakes_n = reals_n[self._order[0]], fakes_n[self._order[1]]
        # For each fake, how many real images score higher, how many at least as high, and how many fakes.
        self._reals_above = np.searchsorted(-reals_n, -fakes_n, side="left")
        self._reals_from = np.searchsorted(-reals_n, -fakes_n, side="right")
        self._fakes_from = np.searchsorted(-fakes_n, -fakes_n, side="right")
        self._called = int((reals_n >= threshold).sum()), int((fakes_n >= threshold).sum())

    def figures(self, reals_n: np.ndarray, fakes_n: np.ndarray) -> dict[str, float]:
        """Return the figures when each image is there so many times, in the order of the scores given before."""
        fakes_n = fakes_n[self._order[1]]
        sums_reals, sums_fakes = _sums(reals_n[self._order[0]]), _sums(fakes_n)
        num_real, num_fake = float(sums_reals[-1]), float(sums_fakes[-1])
        right_real = num_real - float(sums_reals[self._called[0]])
        right_fake = float(sums_fakes[self._called[1]])
        values = {"accuracy": (right_real + right_fake) / (num_real + num_fake)}
        if num_real:
            values["real_accuracy"] = right_real / num_real
        if num_fake:
            values["fake_accuracy"] = right_fake / num_fake
        if num_real and num_fake:
            values["balanced_accuracy"] = (values["real_accuracy"] + values["fake_accuracy"]) / 2
            reals_from, fakes_from = sums_reals[self._reals_from], sums_fakes[self._fakes_from]
            # A real image of the same score counts half.
            beaten_by = ((sums_reals[self._reals_above] + reals_from) * fakes_n).sum() / 2
            values["auroc"] = 1 - float(beaten_by) / (num_real * num_fake)
            precision_n = fakes_from / np.maximum(fakes_from + reals_from, 1)
            values["ap"] = float((precision_n * fakes_n).sum()) / num_fake
        return values


def _sums(counts_n: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, 2, ... counts."""
    return np.concatenate([[0], np.cumsum(counts_n)]).astype(np.float64)
