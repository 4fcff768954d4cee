"""Two streams -> what is compared of them: the values of one property after the other, in groups.

Shape suffixes: N images before, M images now, K groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.drift.stream import Stream
from evaluation.drift.two_sample import MAX_GROUPS

SCORE, UNSURE, UNREADABLE = "score", "unsure", "unreadable"
NUMBERS = {"distance": "distance from training", "side": "short side in px"}  # columns of a stream -> their names
NAMES = {"family": "family of generators", "format": "format", "warnings": "warnings"}
YES, NO = "yes", "no"
OTHERS, NONE = "others", "none"


@dataclass(frozen=True)
class Property:
    """The values of both streams, as numbers or as names."""

    name: str
    before_N: np.ndarray
    now_M: np.ndarray

    @property
    def is_number(self) -> bool:
        return bool(self.before_N.dtype.kind == "f")

    @property
    def varies(self) -> bool:
        """Whether there is anything to compare: not all images have the same value."""
        return len(np.unique(np.concatenate([self.before_N, self.now_M]))) > 1


@dataclass(frozen=True)
class Groups:
    """How many images have which values.

    names_K   of the groups: the name, or the least value of the images in it
    """

    names_K: Sequence[str] | np.ndarray
    before_K: np.ndarray
    now_K: np.ndarray


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
    return Property(SCORE, *(each.readable["score"].to_numpy(float) for each in (before, now)))


def _of_unsure(before: Stream, now: Stream) -> Property:
    rule = before.judgement.rule
    unsure = (rule.unsure(each.readable["score"].to_numpy(float)) for each in (before, now))
    return Property(UNSURE, *(np.where(each, YES, NO) for each in unsure))


def _of_columns(before: Stream, now: Stream) -> Iterator[Property]:
    for column, name in (NUMBERS | NAMES).items():
        if column in before.images and column in now.images:
            kind = float if column in NUMBERS else str
            values = [each.readable[column].to_numpy().astype(kind) for each in (before, now)]
            yield Property(name, *(np.where(each == "", NONE, each) if kind is str else each for each in values))


def _errors(before: Stream, now: Stream) -> Property:
    return Property(UNREADABLE, *(np.where(each.images["error"] != "", YES, NO) for each in (before, now)))


def grouped(given: Property) -> Groups:
    """Count the values in at most MAX_GROUPS groups, which depend on both streams together alone."""
    values = np.concatenate([given.before_N, given.now_M])
    if given.is_number:
        ranked = np.sort(values)
        firsts = np.linspace(0, len(ranked), min(MAX_GROUPS, len(ranked)), endpoint=False).astype(int)
        names_K = np.unique(np.append(ranked[firsts], ranked[-1]))
        group = np.searchsorted(names_K, values, side="right") - 1
    else:
        names, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        frequent = np.argsort(-counts, kind="stable")
        place = np.empty(len(names), dtype=int)
        place[frequent] = np.minimum(np.arange(len(names)), MAX_GROUPS - 1)
        group = place[group]
        names_K = names[frequent[:MAX_GROUPS]]
        if len(names) > MAX_GROUPS:
            names_K[-1] = OTHERS
    num_before = len(given.before_N)
    counts_of = (np.bincount(each, minlength=len(names_K)) for each in (group[:num_before], group[num_before:]))
    return Groups(names_K, *counts_of)
