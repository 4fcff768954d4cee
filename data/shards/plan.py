"""Parquet shards -> a plan of which images to use and which shards to download for them, chosen by footers alone.

    python -m data.shards.plan --data hf://datasets/OwensLab/CommunityForensics-Small --per-class 5000 \\
        --max-gb 20 --out plan.json

Expected output: what was chosen of each class, what could not be had, and how to download it. A plan is a source
of images like the shards themselves.

Shape suffixes: N rows of the index, S shards, G groups of rows (a class, or a generator) with a quota each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cli
from data.shards.files import as_url
from data.shards.index import ShardIndex, join_indexes
from data.shards.rows import Shard
from data.shards.scan import index_files, read_index
from files.atomic import replacing
from files.strict_json import strict_json
from gapl.labels import Label

FORMAT = "gapl-plan-1"
_KEYS = {"format", "name", "roots", "seed", "counts", "shards"}
_SHARD_KEYS = {"url", "num_bytes", "rows"}
_HUB = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
_REAL = 0  # the group of all photographs
_MAX_SHOWN = 20  # names that a message lists


def main() -> None:
    args = parse_arguments()
    indexes = [read_index(root) for root in args.data]
    index = join_indexes(" + ".join(each.name for each in indexes), indexes)
    quotas = quotas_of(index, args)
    rows_M = choose_rows(index, quotas, max_bytes=args.max_gb * 1e9, seed=args.seed)
    chosen = index.take(rows_M)
    write_plan(args.out, chosen, roots=args.data, seed=args.seed)
    for line in (*report(chosen), *shortfalls(index, rows_M, quotas), f"saved {args.out}"):
        print(line)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__, prog="python -m data.shards.plan")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="ROOT", help="folders, files or URLs of shards"
    )
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--images", type=_positive, metavar="N", help="in all, half of them of each class")
    how_many.add_argument("--per-class", type=_positive, metavar="N")
    how_many.add_argument(
        "--per-generator", type=_positive, metavar="N", help="fakes of each, and as many photographs as that makes"
    )
    parser.add_argument(
        "--max-gb", type=float, default=math.inf, metavar="G", help="of shards, in units of 10^9 bytes"
    )
    parser.add_argument("--only-generators", type=_names, default=[], metavar="A,B", help="no other fakes")
    parser.add_argument(
        "--without-generators",
        type=_names,
        default=[],
        metavar="C,D",
        help="no images of these, photo sources included",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images from the shards")
    parser.add_argument("--out", type=Path, required=True, help="the plan, a .json")
    args = parser.parse_args()
    if not args.max_gb > 0:
        parser.error(f"--max-gb {args.max_gb:g}: expected a number above 0")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: expected 0 or more")
    if args.out.suffix.lower() != ".json":
        parser.error(f"--out {args.out}: expected a file name that ends in .json")
    return args


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more images")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def quotas_of(index: ShardIndex, args: argparse.Namespace) -> Quotas:
    """What the options ask for."""
    allowed_N = allowed_rows(index, only=args.only_generators, without=args.without_generators)
    if args.per_generator:
        return generator_quotas(index, allowed_N, each=args.per_generator)
    num_real = args.per_class or args.images // 2
    return class_quotas(index, allowed_N, real=num_real, fake=args.per_class or args.images - num_real)


@dataclass(frozen=True)
class Quotas:
    """How many images are wanted of each group; photographs are one group, the first.

    group_N  the group of each row, -1 for a row that is not to be taken
    quota_G  images wanted
    names    of the groups
    """

    group_N: np.ndarray
    quota_G: np.ndarray
    names: tuple[str, ...]


def class_quotas(index: ShardIndex, allowed_N: np.ndarray, *, real: int, fake: int) -> Quotas:
    """So many photographs and so many fakes, whatever made them."""
    group_N = np.where(allowed_N, index.label_N.astype(np.int64), -1)
    return Quotas(group_N, np.array([real, fake]), ("real images", "fakes"))


def generator_quotas(index: ShardIndex, allowed_N: np.ndarray, *, each: int) -> Quotas:
    """So many fakes of each generator, and as many photographs as that makes."""
    fake_N = allowed_N & (index.label_N == Label.FAKE)
    numbers, counts = np.unique(index.generator_N[fake_N], return_counts=True)
    group_N = np.where(allowed_N, _REAL, -1)
    group_N[fake_N] = 1 + np.searchsorted(numbers, index.generator_N[fake_N])
    quota_G = np.array([np.minimum(counts, each).sum(), *[each] * len(numbers)])
    return Quotas(group_N, quota_G, ("real images", *(f"fakes of {index.generators[n]}" for n in numbers)))


def allowed_rows(index: ShardIndex, *, only: Sequence[str], without: Sequence[str]) -> np.ndarray:
    """bool (N): photographs, and fakes of `only` these generators if any are named; nothing of `without`.

    `without` may name photo sources too. Raises ValueError for a name that is not there.
    """
    fakes = {index.generators[number] for number in np.unique(index.generator_N[index.label_N == Label.FAKE])}
    for option, names, known in (("only", only, fakes), ("without", without, set(index.generators))):
        if unknown := sorted(set(names) - known):
            there = [*sorted(known)[:_MAX_SHOWN], *["..."] * (len(known) > _MAX_SHOWN)]
            raise ValueError(f"--{option}-generators {unknown[0]}: not in {index.name}, only {', '.join(there)}")
    unwanted_N = np.isin(index.generator_N, _numbers(index, without))
    if only:
        unwanted_N |= (index.label_N == Label.FAKE) & ~np.isin(index.generator_N, _numbers(index, only))
    return ~unwanted_N


def _numbers(index: ShardIndex, names: Sequence[str]) -> list[int]:
    return [index.generators.index(name) for name in names]


def choose_rows(index: ShardIndex, quotas: Quotas, *, max_bytes: float, seed: int) -> np.ndarray:
    """Positions of rows: few shards, together not above max_bytes, then a seeded draw of the quotas from them.

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
    """Greedily the shard with most of what is missing per byte, for the class that lacks more of its quota."""
    chosen: list[int] = []
    need_G, room = quota_G.copy(), max_bytes
    while True:
        gain_SG = np.minimum(count_SG, need_G)
        gain_SG[(bytes_S > room) | np.isin(np.arange(len(bytes_S)), chosen)] = 0
        classes = sorted((slice(_REAL, 1), slice(1, None)), key=lambda part: -_lack(need_G[part], quota_G[part]))
        useful = next((s for part in classes if (s := gain_SG[:, part].any(axis=1)).any()), None)
        if useful is None:
            return _drop_needless(chosen, count_SG, bytes_S, quota_G)
        best = int(np.argmax(np.where(useful, gain_SG.sum(axis=1) / bytes_S, 0)))
        chosen.append(best)
        need_G = need_G - gain_SG[best]
        room -= bytes_S[best]


def _lack(need_G: np.ndarray, quota_G: np.ndarray) -> float:
    return float(need_G.sum() / max(1, quota_G.sum()))


def _drop_needless(chosen: list[int], count_SG: np.ndarray, bytes_S: np.ndarray, quota_G: np.ndarray) -> list[int]:
    """Without the shards, large ones first, whose part the others that were chosen later can give."""
    kept = list(chosen)
    for shard in sorted(chosen, key=lambda shard: -bytes_S[shard]):
        others = [each for each in kept if each != shard]
        with_it, without_it = (np.minimum(count_SG[shards].sum(axis=0), quota_G) for shards in (kept, others))
        if np.array_equal(with_it, without_it):
            kept = others
    return kept


def report(chosen: ShardIndex) -> Iterator[str]:
    """Lines: the images of each class, the shards that hold them, and how to download these."""
    shards = used_shards(chosen)
    num_bytes, all_bytes = (sum(shard.num_bytes for shard in some) for some in (shards, chosen.shards))
    sizes = f"{num_bytes / 1e9:,.2f} of {all_bytes / 1e9:,.2f} GB"
    n_sources, n_generators = (len(np.unique(chosen.generator_N[chosen.label_N == label])) for label in Label)
    yield (
        f"{chosen.name}: {chosen.count(Label.REAL)} real images of {n_sources} sources, "
        f"{chosen.count(Label.FAKE)} fakes of {n_generators} generators"
    )
    yield f"in {len(shards)} of {len(chosen.shards)} shards, {sizes}:"
    yield from download_lines([shard.url for shard in shards])


def shortfalls(index: ShardIndex, rows_M: np.ndarray, quotas: Quotas) -> Iterator[str]:
    """Lines: which quotas could not be met, and why."""
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


def used_shards(chosen: ShardIndex) -> list[Shard]:
    """Those that hold a chosen row."""
    return [chosen.shards[number] for number in np.unique(chosen.shard_N)]


def download_lines(urls: Sequence[str]) -> Iterator[str]:
    """Commands that download what is on the hub of data sets; other files as they are."""
    files_of: dict[tuple[str, str | None], list[str]] = {}
    for url in urls:
        if match := _HUB.fullmatch(url):
            files_of.setdefault((match["repository"], match["revision"]), []).append(match["file"])
        else:
            yield f"  {url}"
    for (repository, revision), files in files_of.items():
        command = ["hf", "download", repository, "--repo-type", "dataset"]
        command += ["--revision", revision] if revision else []
        command += [word for file in files for word in ("--include", file)]
        yield f"  {shlex.join([*command, '--local-dir', repository.partition('/')[2]])}"


def write_plan(path: Path, chosen: ShardIndex, *, roots: Sequence[str], seed: int) -> None:
    """Replaces `path` once the new plan is complete. Relative local paths become relative to its folder."""
    shards = [
        {
            "url": _relative_to(path.parent, chosen.shards[number].url),
            "num_bytes": chosen.shards[number].num_bytes,
            "rows": _ranges(chosen.row_N[chosen.shard_N == number]),
        }
        for number in np.unique(chosen.shard_N)
    ]
    plan = {
        "format": FORMAT,
        "name": chosen.name,
        "roots": [_relative_to(path.parent, root) for root in roots],
        "seed": seed,
        "counts": {label.name.lower(): chosen.count(label) for label in Label},
        "shards": shards,
    }
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(plan) + "\n", encoding="utf-8")


def _relative_to(folder: Path, url: str) -> str:
    return url if as_url(url) or Path(url).is_absolute() else Path(os.path.relpath(url, folder)).as_posix()


def _ranges(rows: np.ndarray) -> list[list[int]]:
    """Ascending rows as [first, last] of each run."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]


def read_plan(path: Path, *, root: Path | None = None) -> ShardIndex:
    """The rows of a plan. With `root`, its shards are taken by name from this folder or its folder `data`, where
    they were downloaded to.

    Raises ValueError when the file is no plan, or a shard is not there or not what it was when the plan was made.
    """
    plan = _parse(path)
    entries = {_locate(path, entry["url"], root): entry for entry in plan["shards"]}
    if len(entries) < len(plan["shards"]):
        raise ValueError(f"{path}: two of its shards have the same name; they cannot be in one folder")
    index = index_files(plan["name"], sorted(entries))
    positions, start = [], 0
    for shard in index.shards:
        entry = entries[shard.url]
        if shard.num_bytes != entry["num_bytes"] or entry["rows"][-1][1] >= shard.num_rows:
            raise ValueError(
                f"{shard.url} has {shard.num_bytes} bytes and {shard.num_rows} rows; {path} was made for another "
                f"of {entry['num_bytes']} bytes; download it again, or make the plan anew"
            )
        positions += [np.arange(start + first, start + last + 1) for first, last in entry["rows"]]
        start += shard.num_rows
    chosen = index.take(np.concatenate(positions))
    if (counts := {label.name.lower(): chosen.count(label) for label in Label}) != plan["counts"]:
        raise ValueError(f"{path}: its rows are now {counts}, expected {plan['counts']}; make the plan anew")
    return chosen


def _locate(path: Path, url: str, root: Path | None) -> str:
    if root is None:
        return url if as_url(url) else str(path.parent / url)
    name = url.rpartition("/")[2]
    found = next((file for file in (root / name, root / "data" / name) if file.is_file()), None)
    if found is None:
        raise ValueError(f"{path}: its shard {name} is neither in {root} nor in {root / 'data'}; download {url}")
    return str(found)


def _parse(path: Path) -> dict[str, Any]:
    try:
        plan = strict_json(path.read_text(encoding="utf-8"))
        _require(isinstance(plan, dict) and plan.get("format") == FORMAT, f"its format is not {FORMAT}")
        _require(plan.keys() == _KEYS, f"it does not have just {', '.join(sorted(_KEYS))}")
        _require(isinstance(plan["name"], str) and bool(plan["name"]), "its name is no text")
        _require(_all(plan["roots"], str), "its roots are no list of texts")
        _require(type(plan["seed"]) is int, "its seed is no number")
        _require(
            isinstance(plan["counts"], dict) and _all(list(plan["counts"].values()), int),
            "its counts are no numbers",
        )
        _require(_all(plan["shards"], dict) and plan["shards"], "it lists no shards")
        for number, shard in enumerate(plan["shards"]):
            _require(
                _is_shard_entry(shard), f"its shard {number} is not url, num_bytes, and rows as ascending ranges"
            )
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is no plan: {reason}; make one with python -m data.shards.plan") from error
    return plan


def _require(fine: Any, complaint: str) -> None:
    if not fine:
        raise ValueError(complaint)


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_shard_entry(entry: dict[str, Any]) -> bool:
    if entry.keys() != _SHARD_KEYS or type(entry["url"]) is not str or type(entry["num_bytes"]) is not int:
        return False
    rows = entry["rows"]
    if not _all(rows, list) or not rows or not all(len(pair) == 2 and _all(pair, int) for pair in rows):
        return False
    before = [-1, *(last for _, last in rows[:-1])]
    return bool(entry["url"]) and all(end < first <= last for end, (first, last) in zip(before, rows, strict=True))


if __name__ == "__main__":
    cli.run(main)
