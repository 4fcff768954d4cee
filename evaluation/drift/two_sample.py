"""Tests of whether two sets of images differ in one property, how much, and what they could find.

A test permutes which images are of now. It is exact for any sample size: when nothing has changed, p is at most
any level with at most that chance. Values are counted in groups that depend on both sets together, never on which
image is of which, so a permutation is a draw of counts, however many images there are.

Shape suffixes: K groups, R permutations, N images before, M images now.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata

from evaluation.intervals import LEVEL, wilson

MAX_GROUPS = 40  # of images with neighbouring values, or of names: rarer names are one group
PER_LEVEL = 5  # permutations: so many of them are as extreme as a p at the level is
ENOUGH = 20  # permutations as extreme as the data: then p is known well enough
BATCH = 2000
POWER = 0.8

Statistic = Callable[[np.ndarray], np.ndarray]  # counts_RK of now -> statistic_R


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its interval of 95 %."""

    value: float
    low: float
    high: float


# ---------------------------------------------------------------------------------------------------------
# The test


def permutation_p(before_K: np.ndarray, now_K: np.ndarray, *, is_ordered: bool, level: float, seed: int) -> float:
    """Return the p of the counts of two sets in the same groups.

    is_ordered   groups of neighbouring values; else names
    level        the p that matters: the smallest that can be told is a fifth of it

    It draws permutations until enough are as extreme as the data (Besag & Clifford 1991).
    """
    both_K = before_K + now_K
    statistic = (ordered if is_ordered else named)(both_K, int(now_K.sum()))
    least = statistic(now_K[None])[0] * (1 - 1e-9)  # of equal statistics, rounding makes none smaller
    generator = np.random.default_rng(seed)
    most = math.ceil(PER_LEVEL / level)
    drawn = extreme = 0
    while drawn < most:
        size = min(most - drawn, BATCH if drawn else 5 * ENOUGH)
        counts_RK = generator.multivariate_hypergeometric(both_K, int(now_K.sum()), size, method="marginals")
        extreme_R = extreme + np.cumsum(statistic(counts_RK) >= least)
        if extreme_R[-1] >= ENOUGH:
            return ENOUGH / (drawn + int(np.searchsorted(extreme_R, ENOUGH)) + 1)
        drawn, extreme = drawn + size, int(extreme_R[-1])
    return (extreme + 1) / (most + 1)


def ordered(both_K: np.ndarray, num_now: int) -> Statistic:
    """Return the statistic of ordered groups: the mean over all cuts between them of the squared difference below
    the cut, over its variance under permutation (Anderson & Darling 1952, in the form for two samples).
    """
    num = both_K.sum()
    share_K = both_K.cumsum()[:-1] / num
    variance_K = num_now * share_K * (1 - share_K) * (num - num_now) / (num - 1)

    def statistic(counts_RK: np.ndarray) -> np.ndarray:
        below_RK = counts_RK.cumsum(axis=1)[:, :-1] - num_now * share_K
        squares_R: np.ndarray = (below_RK**2 / variance_K).mean(axis=1)
        return squares_R

    return statistic


def named(both_K: np.ndarray, num_now: int) -> Statistic:
    """Return the statistic of groups without an order: Pearson's chi-square."""
    expected_K = both_K * num_now / both_K.sum()

    def statistic(counts_RK: np.ndarray) -> np.ndarray:
        squares_R: np.ndarray = ((counts_RK - expected_K) ** 2 / expected_K).sum(axis=1)
        return squares_R

    return statistic


def holm(p_T: np.ndarray) -> np.ndarray:
    """Return the p of each test, adjusted for all of them (Holm 1979)."""
    order_T = np.argsort(p_T, kind="stable")
    factor_T = np.arange(len(p_T), 0, -1)
    adjusted_T = np.empty(len(p_T))
    adjusted_T[order_T] = np.maximum.accumulate(np.minimum(1.0, p_T[order_T] * factor_T))
    return adjusted_T


# ---------------------------------------------------------------------------------------------------------
# How much


def higher_now(before_N: np.ndarray, now_M: np.ndarray) -> Estimate:
    """Return the chance that an image of now has the higher value than one of before; an equal one counts half.

    The interval is Wilson's, for as many independent images as would give the variance of DeLong et al. 1988.
    """
    num_before, num_now = len(before_N), len(now_M)
    rank = rankdata(np.concatenate([before_N, now_M]))
    of_before_N = 1 - (rank[:num_before] - rankdata(before_N)) / num_now
    of_now_M = (rank[num_before:] - rankdata(now_M)) / num_before
    chance = float(of_now_M.mean())
    variance = of_before_N.var() / num_before + of_now_M.var() / num_now
    effective = chance * (1 - chance) / variance if variance > 0 else min(num_before, num_now)
    low, high = wilson(chance * effective, effective, level=LEVEL)
    return Estimate(chance, float(low), float(high))


def more_now(count_before: int, count_now: int, *, num_before: int, num_now: int) -> Estimate:
    """Return the share of now minus that of before, with the interval of Newcombe 1998 (his method 10)."""
    share_K = np.array([count_before / num_before, count_now / num_now])
    low_K, high_K = wilson([count_before, count_now], [num_before, num_now], level=LEVEL)
    below_K, above_K = share_K - low_K, high_K - share_K
    value = float(share_K[1] - share_K[0])
    return Estimate(value, value - math.hypot(below_K[1], above_K[0]), value + math.hypot(above_K[1], below_K[0]))


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
