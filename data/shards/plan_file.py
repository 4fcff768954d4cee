"""A plan's file: chosen rows of shards, and what the shards were when they were chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.shards.index import ShardIndex
from data.shards.scan import index_files
from gapl.files.atomic import replacing
from gapl.files.strict_json import strict_json
from gapl.labels import Label
from gapl.schema import build_spec
from gapl.shards.files import as_url

FORMAT = "gapl-plan-1"


@dataclass(frozen=True)
class PlannedShard:
    """A shard of a plan.

    url        path or URL; a relative path is relative to the plan's folder
    num_bytes  of the shard when the plan was made
    rows       [first, last] of each run of chosen rows, ascending
    """

    url: str
    num_bytes: int
    rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        before = [-1, *(last for _, last in self.rows)][:-1]
        ascending = all(end < first <= last for end, (first, last) in zip(before, self.rows, strict=True))
        if not self.url or not self.rows or not ascending:
            raise ValueError(f"shard {self.url!r}: expected a url, and rows as ascending ranges")


@dataclass(frozen=True)
class Plan:
    """The content of a plan's file.

    roots   that the plan was made of
    seed    of the draw of the rows
    counts  chosen images of each class, by "real" and "fake"
    """

    format: str
    name: str
    roots: tuple[str, ...]
    seed: int
    counts: Mapping[str, int]
    shards: tuple[PlannedShard, ...]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"its format is {self.format!r}, not {FORMAT}")
        if not self.name or not self.shards:
            raise ValueError("it has no name" if self.shards else "it lists no shards")


def write_plan(path: Path, chosen: ShardIndex, *, roots: Sequence[str], seed: int) -> None:
    """Replace `path` once the new plan is complete. Relative local paths become relative to its folder."""
    shards = [
        PlannedShard(
            _relative_to(path.parent, chosen.shards[number].url),
            chosen.shards[number].num_bytes,
            _ranges(chosen.row_N[chosen.shard_N == number]),
        )
        for number in np.unique(chosen.shard_N)
    ]
    from_roots = tuple(_relative_to(path.parent, root) for root in roots)
    plan = Plan(FORMAT, chosen.name, from_roots, seed, _counts(chosen), tuple(shards))
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(asdict(plan)) + "\n", encoding="utf-8")


def _relative_to(folder: Path, url: str) -> str:
    return url if as_url(url) or Path(url).is_absolute() else Path(os.path.relpath(url, folder)).as_posix()


def _ranges(rows: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return (first, last) of each run of ascending rows."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return tuple((int(run[0]), int(run[-1])) for run in runs)


def _counts(index: ShardIndex) -> dict[str, int]:
    return {label.word: index.count(label) for label in Label}


def read_plan(path: Path) -> ShardIndex:
    """Return the rows of a plan.

    Raises ValueError when the file is no plan, or a shard is not there or not what it was when the plan was made.
    """
    plan = _parse(path)
    planned = {each.url if as_url(each.url) else str(path.parent / each.url): each for each in plan.shards}
    index = index_files(plan.name, sorted(planned))
    positions, start = [], 0
    for shard in index.shards:
        each = planned[shard.url]
        if shard.num_bytes != each.num_bytes or each.rows[-1][1] >= shard.num_rows:
            raise ValueError(
                f"{shard.url} has {shard.num_bytes} bytes and {shard.num_rows} rows; {path} was made for another "
                f"of {each.num_bytes} bytes; download it again, or make the plan anew"
            )
        positions += [np.arange(start + first, start + last + 1) for first, last in each.rows]
        start += shard.num_rows
    chosen = index.take(np.concatenate(positions))
    if (counts := _counts(chosen)) != plan.counts:
        raise ValueError(f"{path}: its rows are now {counts}, expected {plan.counts}; make the plan anew")
    return chosen


def _parse(path: Path) -> Plan:
    try:
        plan: Plan = build_spec(Plan, strict_json(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is no plan: {reason}; make one with python -m data.shards.plan") from error
    return plan
