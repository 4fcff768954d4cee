"""Which images validate: a random part of each class, and generators and photo sources that are held out whole.

Shape suffix: N images.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from data.records import Manifest
from data.shards.index import ShardIndex
from gapl.labels import Label

Source = tuple[Label, str]
Images = TypeVar("Images", Manifest, ShardIndex)


@dataclass(frozen=True)
class Split(Generic[Images]):
    """Three parts without an image in common.

    training   what is trained on
    random     a part of each class
    heldout    all, or a capped number, of the images of the sources in `held`, of which `training` has none
    """

    training: Images
    random: Images
    heldout: Images
    held: tuple[Source, ...]


def split_manifest(
    manifest: Manifest, *, fraction: float, holdout: float, names: Sequence[str], max_images: int, seed: int
) -> Split[Manifest]:
    """A random `fraction` of each class, and the sources of `names`, or else a `holdout` fraction of all sources.

    max_images   of either validation part; 0: no limit
    """
    held = choose_sources(manifest.generators(), fraction=holdout, names=names, seed=seed)
    rest = manifest.where(lambda record: (record.label, record.generator) not in held)
    heldout = manifest.where(lambda record: (record.label, record.generator) in held)
    if max_images:
        fraction = min(fraction, max_images / max(1, len(rest)))
        heldout = heldout.draw(max_images, seed=seed)
    training, drawn = rest.split(fraction, seed=seed)
    return Split(training, drawn, heldout, held)


def split_index(
    index: ShardIndex, *, fraction: float, holdout: float, names: Sequence[str], max_images: int, seed: int
) -> Split[ShardIndex]:
    """As split_manifest, of rows in shards, where reading a row means to read those before it.

    So the random part is the first rows of every shard, and where held-out images are more than `max_images`,
    those that stand first in their shards validate, as many of each source as can be.
    """
    held = choose_sources(count_sources(index), fraction=holdout, names=names, seed=seed)
    held_N = _is_held(index, held)
    first_N = np.zeros(len(index), dtype=bool)
    for label in Label:
        rows = np.flatnonzero((index.label_N == label) & ~held_N)
        limit = round(fraction * len(rows)) if len(rows) > 1 else 0
        limit = max(1, limit) if fraction and len(rows) > 1 else limit
        limit = min(limit, max(1, max_images // 2)) if max_images else limit
        first_N[_first_in_shards(index, rows)[:limit]] = True
    heldout = np.flatnonzero(held_N)
    if max_images and len(heldout) > max_images:
        heldout = np.sort(_evenly(index, heldout)[:max_images])
    return Split(index.where(~held_N & ~first_N), index.where(first_N), index.take(heldout), held)


def choose_sources(
    counts: Mapping[Source, int], *, fraction: float, names: Sequence[str], seed: int
) -> tuple[Source, ...]:
    """The sources of these names; or a seeded draw of `fraction` of each class's, at least one when fraction > 0.

    names   "cats" are the photographs and the fakes of that name, where both have it; "real:cats" or "fake:cats"
            those of a class

    Raises ValueError for a name that no image has, and when the named ones leave a class nothing to train on.
    """
    forms = {each: {each[1], f"{each[0].name.lower()}:{each[1]}"} for each in counts}
    if unknown := sorted(set(names).difference(*forms.values())):
        known = ", ".join(sorted({name for _, name in counts}))
        raise ValueError(
            f"--holdout {unknown[0]}: no image is of that generator or photo source; there are {known}"
        )
    held: list[Source] = []
    for label in Label:
        of_class = sorted(name for each, name in counts if each == label)
        if names:
            chosen = [name for name in of_class if forms[label, name].intersection(names)]
        else:
            count = max(1, round(fraction * len(of_class))) if fraction else 0
            count = min(count, max(0, len(of_class) - 1))  # a class of one source keeps it
            chosen = random.Random(f"{seed}:{label}").sample(of_class, count)
        if chosen and len(chosen) == len(of_class):
            kind = "generators" if label is Label.FAKE else "photo sources"
            raise ValueError(f"to hold out {', '.join(chosen)} leaves no {kind} to train on")
        held += [(label, name) for name in sorted(chosen)]
    return tuple(held)


def count_sources(images: Manifest | ShardIndex) -> Counter[Source]:
    """Images of each (label, generator or photo source)."""
    if isinstance(images, Manifest):
        return images.generators()
    pairs, counts = np.unique(np.stack([images.label_N, images.generator_N]), axis=1, return_counts=True)
    named = [(Label(int(label)), images.generators[number]) for label, number in pairs.T]
    return Counter(dict(zip(named, counts.tolist(), strict=True)))


def _is_held(index: ShardIndex, held: tuple[Source, ...]) -> np.ndarray:
    number_of = {name: number for number, name in enumerate(index.generators)}
    held_N = np.zeros(len(index), dtype=bool)
    for label, name in held:
        held_N |= (index.label_N == label) & (index.generator_N == number_of[name])
    return held_N


def _first_in_shards(index: ShardIndex, rows: np.ndarray) -> np.ndarray:
    """The positions, those first in their shards before those further on."""
    return rows[np.lexsort((index.shard_N[rows], index.row_N[rows]))]


def _evenly(index: ShardIndex, rows: np.ndarray) -> np.ndarray:
    """The positions in rounds: one of each source, the one that stands first in its shard, then another."""
    ordered = _first_in_shards(index, rows)
    source_N = index.generator_N[ordered] * 2 + index.label_N[ordered]
    by_source = np.argsort(source_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(source_N[by_source]) != 0])
    lengths = np.diff(np.r_[starts, len(by_source)])
    turn_N = np.empty(len(ordered), dtype=np.int64)
    turn_N[by_source] = np.arange(len(by_source)) - np.repeat(starts, lengths)
    return ordered[np.argsort(turn_N, kind="stable")]
