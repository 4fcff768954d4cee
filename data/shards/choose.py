"""Choose rows of shards: few shards, as many images of each class or generator as are wanted.

Shape suffixes: N rows of the index, S shards, G groups of rows (a class, or a generator) with a quota each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.shards.index import ShardIndex
from gapl.labels import Label

_MAX_SHOWN = 20  # names that a message lists
_REAL = 0  # the group of all real images


@dataclass(frozen=True)
class Quotas:
    """How many images are wanted of each group; real images are one group, the first.

    group_N  the group of each row, -1 for a row that is not to be taken
    quota_G  images wanted
    names    of the groups
    """

    group_N: np.ndarray
    quota_G: np.ndarray
    names: tuple[str, ...]


def class_quotas(index: ShardIndex, allowed_N: np.ndarray, *, real: int, fake: int) -> Quotas:
    """Ask for so many real images and so many fakes, whatever made them."""
    group_N = np.where(allowed_N, index.label_N.astype(np.int64), -1)
    return Quotas(group_N, np.array([real, fake]), ("real images", "fakes"))


def generator_quotas(index: ShardIndex, allowed_N: np.ndarray, *, each: int) -> Quotas:
    """Ask for so many fakes of each generator, and for as many real images as that makes."""
    fake_N = allowed_N & (index.label_N == Label.FAKE)
    numbers, counts = np.unique(index.generators.number_N[fake_N], return_counts=True)
    group_N = np.where(allowed_N, _REAL, -1)
    group_N[fake_N] = 1 + np.searchsorted(numbers, index.generators.number_N[fake_N])
    quota_G = np.array([np.minimum(counts, each).sum(), *[each] * len(numbers)])
    return Quotas(group_N, quota_G, ("real images", *(f"fakes of {index.generators.names[n]}" for n in numbers)))


def allowed_rows(index: ShardIndex, *, only: Sequence[str], without: Sequence[str]) -> np.ndarray:
    """Mark (N, bool) real images, and fakes of `only` these generators if any are named; nothing of `without`.

    `without` may name real sources too. Raises ValueError for a name that is not there.
    """
    fakes = {source.name for source in index.sources() if source.label is Label.FAKE}
    for option, names, known in (("only", only, fakes), ("without", without, set(index.generators.names))):
        if unknown := sorted(set(names) - known):
            there = [*sorted(known)[:_MAX_SHOWN], *["..."] * (len(known) > _MAX_SHOWN)]
            raise ValueError(f"--{option}-generators {unknown[0]}: not in {index.name}, only {', '.join(there)}")
    unwanted_N = np.isin(index.generators.number_N, _numbers(index, without))
    if only:
        unwanted_N |= (index.label_N == Label.FAKE) & ~np.isin(index.generators.number_N, _numbers(index, only))
    return ~unwanted_N


def _numbers(index: ShardIndex, names: Sequence[str]) -> list[int]:
    return [index.generators.names.index(name) for name in names]


def choose_rows(index: ShardIndex, quotas: Quotas, *, max_bytes: float, seed: int) -> np.ndarray:
    """Choose few shards, together not above max_bytes, and return positions of a seeded draw from them.

    Raises ValueError when no wanted image fits in max_bytes.
    """
    wanted_N = quotas.group_N >= 0
    count_SG = np.zeros((len(index.shards), len(quotas.quota_G)), np.int64)
    np.add.at(count_SG, (index.shard_N[wanted_N], quotas.group_N[wanted_N]), 1)
    bytes_S = np.array([shard.num_bytes for shard in index.shards])
    shards = _choose_shards(count_SG, bytes_S, quotas.quota_G, max_bytes=max_bytes)
    if not shards:
        raise ValueError(f"{index.name}: no shard with a wanted image fits in {max_bytes / 1e9:g} GB")
    generator = np.random.default_rng(seed)
    drawn = []
    for group, quota in enumerate(quotas.quota_G):
        rows = np.flatnonzero(np.isin(index.shard_N, shards) & (quotas.group_N == group))
        drawn.append(generator.choice(rows, min(quota, len(rows)), replace=False))
    return np.sort(np.concatenate(drawn))


def _choose_shards(
    count_SG: np.ndarray, bytes_S: np.ndarray, quota_G: np.ndarray, *, max_bytes: float
) -> list[int]:
    """Choose greedily the shard with most missing images per byte, for the class that lacks more of its quota."""
    chosen: list[int] = []
    need_G, room = quota_G.copy(), max_bytes
    while True:
        gain_SG = np.minimum(count_SG, need_G)
        gain_SG[(bytes_S > room) | np.isin(np.arange(len(bytes_S)), chosen)] = 0
        classes = sorted(
            (slice(_REAL, 1), slice(1, None)), key=lambda groups: -_lack(need_G[groups], quota_G[groups])
        )
        useful = next((s for groups in classes if (s := gain_SG[:, groups].any(axis=1)).any()), None)
        if useful is None:
            return _drop_needless(chosen, count_SG, bytes_S, quota_G)
        best = int(np.argmax(np.where(useful, gain_SG.sum(axis=1) / bytes_S, 0)))
        chosen.append(best)
        need_G = need_G - gain_SG[best]
        room -= bytes_S[best]


def _lack(need_G: np.ndarray, quota_G: np.ndarray) -> float:
    return float(need_G.sum() / max(1, quota_G.sum()))


def _drop_needless(chosen: list[int], count_SG: np.ndarray, bytes_S: np.ndarray, quota_G: np.ndarray) -> list[int]:
    """Drop the shards, large ones first, without which the quotas are met as well."""
    kept = list(chosen)
    for shard in sorted(chosen, key=lambda shard: -bytes_S[shard]):
        others = [each for each in kept if each != shard]
        with_it, without_it = (np.minimum(count_SG[shards].sum(axis=0), quota_G) for shards in (kept, others))
        if np.array_equal(with_it, without_it):
            kept = others
    return kept


def shortfalls(index: ShardIndex, rows_M: np.ndarray, quotas: Quotas) -> Iterator[str]:
    """Yield lines: which quotas could not be met, and why."""
    have_G, got_G = (
        np.bincount(group_N[group_N >= 0], minlength=len(quotas.quota_G))
        for group_N in (quotas.group_N, quotas.group_N[rows_M])
    )
    short = np.flatnonzero(got_G < quotas.quota_G)
    for group in short[:_MAX_SHOWN]:
        why = (
            f"--max-gb has no room for more of {have_G[group]}"
            if got_G[group] < have_G[group]
            else "there are no more"
        )
        yield f"wanted {quotas.quota_G[group]} {quotas.names[group]}, got {got_G[group]}: {why}"
    if len(short) > _MAX_SHOWN:
        yield f"and so for {len(short) - _MAX_SHOWN} more of {len(quotas.names) - 1} generators"
