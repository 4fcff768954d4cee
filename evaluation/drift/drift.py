"""Two streams of one detector's verdicts -> whether they differ, in what, by how much, and what could be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.drift import two_sample
from evaluation.drift.properties import YES, Groups, Property, grouped, left_out, properties
from evaluation.drift.stream import Stream, check_comparable
from evaluation.drift.two_sample import Estimate

ALPHA, LOOKS = 0.01, 1
SHARE, RISEN = 0.10, 0.15  # examples of what a table can find


@dataclass(frozen=True)
class Change:
    """What the test of one property says.

    p           adjusted by Holm for all properties: it has changed where this is at most `Drift.level`
    effect      of numbers, the chance that an image of now has the higher one than one of before; of names, how
                much the share of `moved` has risen
    moved       the name whose share has moved most, against chance; of numbers, empty
    before, now the medians of numbers, or the shares of `moved`
    """

    property: Property
    groups: Groups
    p: float
    effect: Estimate
    moved: str
    before: float
    now: float
    changed: bool


@dataclass(frozen=True)
class Drift:
    """Whether the stream of images has changed.

    level     the chance of an alarm where nothing has changed is at most this, in one comparison: alpha / looks
    changes   of all properties, those that have changed first
    left_out  properties that were not compared, since a table does not hold them for all its images
    shared    images that are in both streams
    """

    before: Stream
    now: Stream
    alpha: float
    looks: int
    changes: Sequence[Change]
    left_out: Sequence[str]
    shared: int

    @property
    def level(self) -> float:
        return self.alpha / self.looks

    @property
    def changed(self) -> bool:
        return any(each.changed for each in self.changes)

    @property
    def level_of_one(self) -> float:
        """The p, before it is adjusted, at which one property alone is an alarm."""
        return self.level / max(1, len(self.changes))


def compare_streams(before: Stream, now: Stream, *, alpha: float = ALPHA, looks: int = LOOKS) -> Drift:
    """Test each property that both tables hold, and join the tests.

    alpha   the chance of a false alarm in all looks together
    looks   how many times such a comparison is made: each has alpha / looks

    Raises ValueError for streams that were judged differently, and for too few images to find any change.
    """
    if not 0 < alpha < 1 or looks < 1:
        raise ValueError(
            f"alpha {alpha} in {looks} looks; alpha is above 0 and below 1, and there is a look or more"
        )
    check_comparable(before, now)
    found = list(properties(before, now))
    level = alpha / looks
    _check_enough(before, now, level=level / max(1, len(found)))
    changes = compare_properties(found, level=level)
    shared = len(set(before.images["sha256"]) & set(now.images["sha256"]) - {""})
    return Drift(before, now, alpha, looks, changes, left_out(before, now), shared)


def compare_properties(found: Sequence[Property], *, level: float) -> list[Change]:
    """Return what the tests say of the properties, the surest change first."""
    groups = [grouped(each) for each in found]
    p_T = np.array([_p(found[i], groups[i], level=level / len(found), seed=i) for i in range(len(found))])
    told = zip(found, groups, two_sample.holm(p_T), strict=True)
    changes = [_change(each, of_each, p=float(p), level=level) for each, of_each, p in told]
    return sorted(changes, key=lambda change: change.p)


def _p(given: Property, groups: Groups, *, level: float, seed: int) -> float:
    is_ordered = given.is_number
    return two_sample.permutation_p(groups.before_K, groups.now_K, is_ordered=is_ordered, level=level, seed=seed)


def _change(given: Property, groups: Groups, *, p: float, level: float) -> Change:
    if given.is_number:
        effect, moved = two_sample.higher_now(given.before_N, given.now_M), ""
        before, now = (float(np.median(each)) for each in (given.before_N, given.now_M))
    else:
        num_before, num_now = len(given.before_N), len(given.now_M)
        k = _moved_most(groups)
        counts = int(groups.before_K[k]), int(groups.now_K[k])
        effect = two_sample.more_now(*counts, num_before=num_before, num_now=num_now)
        moved, before, now = str(groups.names_K[k]), counts[0] / num_before, counts[1] / num_now
    return Change(given, groups, p, effect, moved, before, now, changed=p <= level)


def _moved_most(groups: Groups) -> int:
    """Return the group whose share has moved by the most standard deviations; of yes and no, yes."""
    both_K = groups.before_K + groups.now_K
    share_K = both_K / both_K.sum()
    moved_K = groups.now_K / groups.now_K.sum() - groups.before_K / groups.before_K.sum()
    spread_K = np.sqrt(share_K * (1 - share_K))
    if YES in groups.names_K:
        return list(groups.names_K).index(YES)
    return int(np.argmax(np.abs(moved_K) / spread_K))


def _check_enough(before: Stream, now: Stream, *, level: float) -> None:
    counts = len(before.readable), len(now.readable)
    if two_sample.can_be_found(*counts, level=level):
        return
    needed = next(n for n in range(1, 1000) if two_sample.can_be_found(n, n, level=level))
    raise ValueError(
        f"{before.path} and {now.path} have {counts[0]} and {counts[1]} different images with a verdict: too few "
        f"to find any change at this rate of false alarms; from {needed} in each on, the largest can be found"
    )
