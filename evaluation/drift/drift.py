"""Two streams of one detector's verdicts -> whether they differ, in what, by how much, and what could be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.drift import two_sample
from evaluation.drift.properties import NONE, OTHERS, YES, Property, grouped, left_out, properties
from evaluation.drift.stream import Stream, check_comparable
from evaluation.drift.two_sample import Estimate, Groups

ALPHA, LOOKS = 0.01, 1


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
    def is_clustered(self) -> bool:
        """Whether clusters of images are drawn, instead of images."""
        return "cluster" in self.before.images

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
    level_of_one = level / max(1, len(found))
    p_T = np.array([two_sample.permutation_p(each, level=level_of_one, seed=i) for i, each in enumerate(groups)])
    told = zip(found, groups, two_sample.holm(p_T), strict=True)
    changes = [_change(each, of_each, p=float(p), level=level) for each, of_each, p in told]
    return sorted(changes, key=lambda change: change.p)


def _change(given: Property, groups: Groups, *, p: float, level: float) -> Change:
    before, now, clusters, moved = given.before_N, given.now_M, given.clusters, ""
    if given.is_number:
        effect = two_sample.higher_now(before, now, clusters=clusters)
        shown = float(np.median(before)), float(np.median(now))
    else:
        moved = str(groups.names_K[_moved_most(groups)])
        is_moved = [_is_named(values, moved, groups) for values in (before, now)]
        effect = two_sample.more_now(*is_moved, clusters=clusters)
        shown = float(is_moved[0].mean()), float(is_moved[1].mean())
    return Change(given, groups, p, effect, moved, *shown, changed=p <= level)


def _is_named(values: np.ndarray, name: str, groups: Groups) -> np.ndarray:
    return ~np.isin(values, groups.names_K[:-1]) if name == OTHERS else values == name


def _moved_most(groups: Groups) -> int:
    """Return the group whose share has moved by the most standard deviations: "yes", and never "none"."""
    if YES in groups.names_K:
        return list(groups.names_K).index(YES)
    both_K = groups.before_K + groups.now_K
    share_K = both_K / both_K.sum()
    moved_K = groups.now_K / groups.now_K.sum() - groups.before_K / groups.before_K.sum()
    spreads_K = np.abs(moved_K) / np.sqrt(share_K * (1 - share_K))
    return int(np.argmax(np.where(np.asarray(groups.names_K) == NONE, -1, spreads_K)))


def _check_enough(before: Stream, now: Stream, *, level: float) -> None:
    counts = before.num_drawn, now.num_drawn
    if two_sample.can_be_found(*counts, level=level):
        return
    needed = next(n for n in range(1, 1000) if two_sample.can_be_found(n, n, level=level))
    raise ValueError(
        f"{before.path} and {now.path} have {counts[0]} and {counts[1]} {before.drawn} with a verdict: too few to "
        f"find any change at this rate of false alarms; from {needed} in each on, the largest can be found"
    )
