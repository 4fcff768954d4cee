"""Two streams -> what is compared of them: the values of one property after the other, in groups.

Shape suffixes: N images before, M images now, K groups, C clusters before and then now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from evaluation.drift.stream import Stream
from evaluation.drift.two_sample import MAX_GROUPS, Clusters, Groups

SCORE, UNSURE, UNREADABLE = "score", "unsure", "unreadable"
NUMBERS = {"distance": "distance from training", "side": "short side in px"}  # columns of a stream -> their names
NAMES = {"family": "family of generators", "format": "format", "warnings": "warnings"}
YES, NO = "yes", "no"
OTHERS, NONE = "others", "none"


@dataclass(frozen=True)
class Property:
    """The values of both streams, as numbers or as names, and the clusters of the images if there are any."""

    name: str
    before_N: np.ndarray
    now_M: np.ndarray
    clusters: Clusters = None

    @property
    def is_number(self) -> bool:
        return bool(self.before_N.dtype.kind == "f")

    @property
    def varies(self) -> bool:
        """Whether there is anything to compare: not all images have the same value."""
        return len(np.unique(np.concatenate([self.before_N, self.now_M]))) > 1


def properties(before: Stream, now: Stream) -> Iterator[Property]:
    """Yield what both tables hold for all of their images and what is not the same for all."""
    for each in (
        _of_scores(before, now),
        _of_unsure(before, now),
        *_of_columns(before, now),
        _errors(before, now),
    ):
        if each.varies:
            yield each


def left_out(before: Stream, now: Stream) -> list[str]:
    """Return the names of the properties that one of the tables lacks, or has for some images only."""
    columns = set(before.images) & set(now.images)
    return [name for column, name in (NUMBERS | NAMES).items() if column not in columns]


def _of_scores(before: Stream, now: Stream) -> Property:
    return _of_readable(SCORE, before, now, partial(_numbers, column="score"))


def _of_unsure(before: Stream, now: Stream) -> Property:
    rule = before.judgement.rule
    return _of_readable(UNSURE, before, now, lambda images: np.where(rule.unsure(images["score"]), YES, NO))


def _of_columns(before: Stream, now: Stream) -> Iterator[Property]:
    for columns, values in ((NUMBERS, _numbers), (NAMES, _texts)):
        for column, name in columns.items():
            if column in before.images and column in now.images:
                yield _of_readable(name, before, now, partial(values, column=column))


def _numbers(images: pd.DataFrame, *, column: str) -> np.ndarray:
    return images[column].to_numpy(float)


def _texts(images: pd.DataFrame, *, column: str) -> np.ndarray:
    return images[column].where(images[column] != "", NONE).to_numpy().astype(str)


def _of_readable(name: str, before: Stream, now: Stream, values: Callable[[pd.DataFrame], np.ndarray]) -> Property:
    first, second = before.readable, now.readable
    return Property(name, values(first), values(second), _clusters(first, second))


def _errors(before: Stream, now: Stream) -> Property:
    first, second = (np.where(each.images["error"] != "", YES, NO) for each in (before, now))
    return Property(UNREADABLE, first, second, _clusters(before.images, now.images))


def _clusters(before: pd.DataFrame, now: pd.DataFrame) -> Clusters:
    if "cluster" not in before:
        return None
    first, second = (np.unique(each["cluster"].to_numpy(str), return_inverse=True)[1] for each in (before, now))
    return first, second


def grouped(given: Property) -> Groups:
    """Count the values in at most MAX_GROUPS groups, which depend on both streams together alone."""
    values = np.concatenate([given.before_N, given.now_M])
    names_K, group = (_neighbours if given.is_number else _most_frequent)(values)
    num = len(given.before_N)
    before_K, now_K = (np.bincount(each, minlength=len(names_K)) for each in (group[:num], group[num:]))
    if given.clusters is None:
        return Groups(names_K, before_K, now_K, given.is_number)
    first, second = given.clusters
    num_before = int(first.max()) + 1
    counts_CK = np.zeros((num_before + int(second.max()) + 1, len(names_K)))
    np.add.at(counts_CK, (np.concatenate([first, num_before + second]), group), 1)
    return Groups(names_K, before_K, now_K, given.is_number, counts_CK, num_before)


def _neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least values of groups of about equally many images, and the group of each image."""
    ranked = np.sort(values)
    firsts = np.linspace(0, len(ranked), min(MAX_GROUPS, len(ranked)), endpoint=False).astype(int)
    least_K = np.unique(np.append(ranked[firsts], ranked[-1]))  # the greatest value has a group of its own
    return least_K, np.searchsorted(least_K, values, side="right") - 1


def _most_frequent(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the names, the most frequent first and rare ones together, and the number of each image's name."""
    names, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")
    place = np.empty(len(names), dtype=int)
    place[frequent] = np.minimum(np.arange(len(names)), MAX_GROUPS - 1)
    kept = [str(names[i]) for i in frequent[:MAX_GROUPS]]
    if len(names) > MAX_GROUPS:
        kept[-1] = OTHERS
    return np.array(kept), place[group]
