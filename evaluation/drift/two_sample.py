"""Tests of whether two sets of images differ in one property, how much, and what they could find.

A test permutes which images are of now, or which clusters of images that belong together. It is exact for any
number of them: when nothing has changed, p is at most any level with at most that chance. Values are counted in
groups that depend on both sets together, never on which image is of which. So a permutation of images is a draw of
counts, however many images there are.

Shape suffixes: K groups, R permutations, N images before, M images now, C clusters before and then now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata

from evaluation.intervals import LEVEL, wilson

MAX_GROUPS = 40  # of images with neighbouring values, or of names: rarer names are one group
PER_LEVEL = 5  # permutations: so many of them are as extreme as a p at the level is
ENOUGH = 20  # permutations as extreme as the data: then p is known well enough
BATCH = 2000  # permutations,
MAX_CELLS = 10_000_000  # of clusters in permutations: fewer of them where there are many
POWER = 0.8

Clusters = tuple[np.ndarray, np.ndarray] | None  # of the images before and now, numbered from 0 in each


@dataclass(frozen=True)
class Groups:
    """How many images have which values.

    names_K     of the groups: the name, or the least value of the images in it
    is_ordered  groups of neighbouring values; else names
    counts_CK   the same of each cluster, those before first; None: each image stands for itself
    num_before  clusters before
    """

    names_K: Sequence[str] | np.ndarray
    before_K: np.ndarray
    now_K: np.ndarray
    is_ordered: bool
    counts_CK: np.ndarray | None = None
    num_before: int = 0


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its interval of 95 %."""

    value: float
    low: float
    high: float


# ---------------------------------------------------------------------------------------------------------
# The test


def permutation_p(groups: Groups, *, level: float, seed: int) -> float:
    """Return the p of what was counted.

    level   the p that matters: the smallest that can be told is a fifth of it

    It draws permutations until enough are as extreme as the data (Besag & Clifford 1991).
    """
    both_K = groups.before_K + groups.now_K
    statistic = ordered if groups.is_ordered else named
    least = statistic(groups.now_K[None], both_K)[0] * (
        1 - 1e-9
    )  # of equal statistics, rounding makes none smaller
    most = math.ceil(PER_LEVEL / level)
    drawn = extreme = 0
    for counts_RK in _permutations(groups, np.random.default_rng(seed), most=most):
        extreme_R = extreme + np.cumsum(statistic(counts_RK, both_K) >= least)
        if extreme_R[-1] >= ENOUGH:
            return ENOUGH / (drawn + int(np.searchsorted(extreme_R, ENOUGH)) + 1)
        drawn, extreme = drawn + len(counts_RK), int(extreme_R[-1])
    return (extreme + 1) / (most + 1)


def _permutations(groups: Groups, generator: np.random.Generator, *, most: int) -> Iterator[np.ndarray]:
    """Yield counts_RK of now, so many permutations in all."""
    size = 5 * ENOUGH  # twice as many in each next batch: most tests end early
    while most > 0:
        if groups.counts_CK is None:
            both_K, num_now = groups.before_K + groups.now_K, int(groups.now_K.sum())
            size = min(most, size)
            yield generator.multivariate_hypergeometric(both_K, num_now, size, method="marginals")
        else:
            size = min(most, size, max(1, MAX_CELLS // len(groups.counts_CK)))
            is_now_C = np.arange(len(groups.counts_CK)) >= groups.num_before
            is_now_RC = generator.permuted(np.tile(is_now_C, (size, 1)), axis=1)
            yield is_now_RC.astype(np.float64) @ groups.counts_CK
        most, size = most - size, min(2 * size, BATCH)


def ordered(counts_RK: np.ndarray, both_K: np.ndarray) -> np.ndarray:
    """Return the statistic of ordered groups: the mean over all cuts between them of the squared difference of the
    shares below the cut, over its variance (Anderson & Darling 1952, in the form for two samples).
    """
    share_K = both_K.cumsum()[:-1] / both_K.sum()
    num_R, weight_R = _sizes(counts_RK, both_K)
    differences_RK = counts_RK.cumsum(axis=1)[:, :-1] / num_R[:, None] - share_K
    statistic_R: np.ndarray = weight_R * (differences_RK**2 / (share_K * (1 - share_K))).mean(axis=1)
    return statistic_R


def named(counts_RK: np.ndarray, both_K: np.ndarray) -> np.ndarray:
    """Return the statistic of groups without an order: Pearson's chi-square."""
    share_K = both_K / both_K.sum()
    num_R, weight_R = _sizes(counts_RK, both_K)
    statistic_R: np.ndarray = weight_R * ((counts_RK / num_R[:, None] - share_K) ** 2 / share_K).sum(axis=1)
    return statistic_R


def _sizes(counts_RK: np.ndarray, both_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many images are of now, and the weight of squared differences of shares between them and all."""
    num, num_R = both_K.sum(), counts_RK.sum(axis=1)
    return num_R, num_R * num / (num - num_R)


def holm(p_T: np.ndarray) -> np.ndarray:
    """Return the p of each test, adjusted for all of them (Holm 1979)."""
    order_T = np.argsort(p_T, kind="stable")
    factor_T = np.arange(len(p_T), 0, -1)
    adjusted_T = np.empty(len(p_T))
    adjusted_T[order_T] = np.maximum.accumulate(np.minimum(1.0, p_T[order_T] * factor_T))
    return adjusted_T


# ---------------------------------------------------------------------------------------------------------
# How much


def higher_now(before_N: np.ndarray, now_M: np.ndarray, *, clusters: Clusters = None) -> Estimate:
    """Return the chance that an image of now has the higher value than one of before; an equal one counts half.

    The interval is Wilson's, for as many independent images as would give the variance of DeLong et al. 1988.
    """
    num_before, num_now = len(before_N), len(now_M)
    rank = rankdata(np.concatenate([before_N, now_M]))
    of_before_N = 1 - (rank[:num_before] - rankdata(before_N)) / num_now
    of_now_M = (rank[num_before:] - rankdata(now_M)) / num_before
    chance = float(of_now_M.mean())
    of_both = zip((of_before_N, of_now_M), clusters or (None, None), strict=True)
    variance = sum(_variance_of_mean(values, each) for values, each in of_both)
    effective = _effective(chance, variance, most=min(num_before, num_now))
    low, high = wilson(chance * effective, effective, level=LEVEL)
    return Estimate(chance, float(low), float(high))


def more_now(is_before_N: np.ndarray, is_now_M: np.ndarray, *, clusters: Clusters = None) -> Estimate:
    """Return the share of now minus that of before, with the interval of Newcombe 1998 (his method 10).

    is_before_N, is_now_M   which images count
    """
    shares, below, above = [], [], []
    for is_n, cluster_n in zip((is_before_N, is_now_M), clusters or (None, None), strict=True):
        share = float(is_n.mean())
        effective = _effective(share, _variance_of_mean(is_n, cluster_n), most=len(is_n))
        low, high = wilson(share * effective, effective, level=LEVEL)
        shares.append(share)
        below.append(share - float(low))
        above.append(float(high) - share)
    value = shares[1] - shares[0]
    return Estimate(value, value - math.hypot(below[1], above[0]), value + math.hypot(above[1], below[0]))


def _effective(share: float, variance: float, *, most: float) -> float:
    """Return how many independent images would give a share this variance."""
    return share * (1 - share) / variance if variance > 0 else most


def _variance_of_mean(values_n: np.ndarray, cluster_n: np.ndarray | None) -> float:
    """Return the variance of a mean, over clusters where there are any."""
    around_n = values_n - values_n.mean()
    if cluster_n is not None:
        around_n = np.bincount(cluster_n, weights=around_n)
    return float((around_n**2).sum()) / len(values_n) ** 2


# ---------------------------------------------------------------------------------------------------------
# What could be found


def can_be_found(num_before: int, num_now: int, *, level: float) -> bool:
    """Return whether the largest change of all could have a p at the level."""
    log_chance = math.log(2) - _log_choices(num_before + num_now, num_now)
    return log_chance <= math.log(level)


def _log_choices(num: int, chosen: int) -> float:
    return math.lgamma(num + 1) - math.lgamma(chosen + 1) - math.lgamma(num - chosen + 1)


def found_share(share: float, *, num_before: int, num_now: int, level: float) -> float | None:
    """Return the share to which one must rise to be found with a chance of POWER; None: not even all would be."""
    for rise in np.arange(0.001, 1 - share, 0.001):
        variance = share * (1 - share) / num_before + (share + rise) * (1 - share - rise) / num_now
        if rise >= _spreads(level) * math.sqrt(variance):
            return float(share + rise)
    return None


def found_chance(*, num_before: int, num_now: int, level: float) -> float | None:
    """Return the `higher_now` above .5 that is found with a chance of POWER; None: not even 1 would be."""
    chance = 0.5 + _spreads(level) * math.sqrt((num_before + num_now + 1) / (12 * num_before * num_now))
    return chance if chance < 1 else None


def images_needed(share: float, then: float, *, level: float) -> int:
    """Return how many images each of two tables needs, to find with a chance of POWER that a share has changed."""
    variance = share * (1 - share) + then * (1 - then)
    return math.ceil(variance * (_spreads(level) / (then - share)) ** 2)


def _spreads(level: float) -> float:
    """Return how many standard deviations a change must have, to be found with a chance of POWER, two-sided."""
    return NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(POWER)
