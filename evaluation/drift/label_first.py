"""A stream -> the images whose labels would tell most: unsure, far, perhaps of a new kind, and unlike each other.

No detector is run: the choice is made from what the tables hold.

Shape suffixes: N images with a verdict, E numbers of each.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.drift.newness import new_shares
from evaluation.drift.properties import NAMES, NUMBERS
from evaluation.drift.stream import Stream
from gapl.files.atomic import replacing
from gapl.results import encodable
from gapl.verdict import DecisionRule

COUNT = 50
FAR = 0.9  # of the images before are nearer to training
NEW = 0.2  # at least this share of the images like it is new
COLUMNS = ("filename", "label", "score", "verdict", "reason")


@dataclass(frozen=True)
class Chosen:
    """An image to label, and why."""

    path: str
    score: float
    verdict: str
    reason: str


def choose(before: Stream, now: Stream, *, count: int = COUNT) -> list[Chosen]:
    """Return at most so many images of now, those that tell most first.

    Each image has a worth: how near its score is to the unsure band, plus the share of the images before that are
    nearer to training. Greedily, the next one has the greatest worth times distance from those that are chosen.
    Where there are images of a kind that there was less of before, the likeliest of them takes every second place.
    """
    rule, images = now.judgement.rule, now.readable
    score_N = images["score"].to_numpy(float)
    unsure_N, far_N, new_N = nearness(score_N, rule), _farther(before, now), new_shares(before, now)
    count = min(count, len(images))
    likeliest = [int(row) for row in np.argsort(-new_N, kind="stable") if new_N[row] > 0]
    order = _alternating(_greedy(unsure_N + far_N, _vectors(now), count=count), likeliest)[:count]
    verdict_N, paths = rule.labels(score_N), images["path"].tolist()
    reasons = [_reason(rule, verdict=verdict_N[i], unsure=unsure_N[i], far=far_N[i], new=new_N[i]) for i in order]
    return [
        Chosen(paths[i], float(score_N[i]), str(verdict_N[i]), reason)
        for i, reason in zip(order, reasons, strict=True)
    ]


def nearness(score_N: np.ndarray, rule: DecisionRule) -> np.ndarray:
    """Return 1 for scores in the unsure band, or at the threshold, falling to 0 for scores of 0 and 1."""
    below_N = score_N / max(rule.real_below, 1e-12)
    above_N = (1 - score_N) / max(1 - rule.threshold, 1e-12)
    return np.clip(np.minimum(below_N, above_N), 0, 1)


def _farther(before: Stream, now: Stream) -> np.ndarray:
    """Return for each image which share of those before is nearer to training; 0 where a table does not tell."""
    if "distance" not in before.images or "distance" not in now.images:
        return np.zeros(len(now.readable))
    known = np.sort(before.readable["distance"].to_numpy(float))
    return np.searchsorted(known, now.readable["distance"].to_numpy(float)) / len(known)


def _vectors(now: Stream) -> np.ndarray:
    """Return vectors_NE by which images are alike: embeddings, else all else that the table holds of an image."""
    if (vectors_NE := now.readable_vectors) is not None:
        return vectors_NE
    images = now.readable
    numbers = [name for name in ("score", *NUMBERS) if name in images]
    ranks = images[numbers].rank(pct=True)
    names = [name for name in NAMES if name in images]
    return np.hstack([ranks.to_numpy(float), *(pd.get_dummies(images[name]).to_numpy(float) for name in names)])


def _greedy(worth_N: np.ndarray, vectors_NE: np.ndarray, *, count: int) -> list[int]:
    """Return the rows in the order of the choice; the worth alone decides where all others are as those chosen."""
    chosen: list[int] = []
    apart_N = np.ones(len(worth_N))
    left_N = np.ones(len(worth_N), dtype=bool)
    for _ in range(count):
        gain_N = worth_N * (apart_N + 1e-6)
        chosen.append(int(np.argmax(np.where(left_N, gain_N, -1))))
        left_N[chosen[-1]] = False
        distance_N = np.linalg.norm(vectors_NE - vectors_NE[chosen[-1]], axis=1)
        apart_N = distance_N if len(chosen) == 1 else np.minimum(apart_N, distance_N)
    return chosen


def _alternating(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return the numbers of both lists in turn, each once, and then what is left of the longer one."""
    both = chain.from_iterable(zip_longest(first, second))
    return list(dict.fromkeys(each for each in both if each is not None))


def _reason(rule: DecisionRule, *, verdict: str, unsure: float, far: float, new: float) -> str:
    found = []
    if verdict == "unsure":
        found.append("unsure")
    if far >= FAR:
        found.append(f"farther from training than {far:.0%} of the images before")
    if new >= NEW:
        found.append("of a kind that there was less of before")
    if not found:
        edge = "the unsure band" if rule.has_band else "the threshold"
        found.append(f"near {edge}" if unsure >= 0.5 else "unlike those before it in this list")
    return "; ".join(found)


def write_csv(path: Path, chosen: Sequence[Chosen]) -> None:
    """Write a list of images with an empty column `label`, whole or not at all."""
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(
            [encodable(each.path), "", f"{each.score:.4f}", each.verdict, each.reason] for each in chosen
        )
