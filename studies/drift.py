"""Measure how often `benchmarks.py drift` raises a false alarm, and how soon it finds a new generator.

    python studies/drift.py scores.parquet --out DIR

The table holds the scores of one detector, with the generators of the fakes. DIR/drift.md has two tables:

- false alarms: the images of the table are dealt into two halves at random, --pairs times; then whole sources are,
  where images do not come independently, and are compared as images and as clusters
- delay: --images images are drawn before, with replacement, without one generator that has at least MIN_IMAGES
  images; a stream in which this generator makes a share of the images grows, and is looked at after 100, 300,
  1,000, 3,000 and 10,000 images, each time at alpha divided by the number of looks. --draws draws for each
  share. Its last column: of the 50 images to label first of 1,000, how many are of that generator

Size and format of the files are left out: in a collection, each source has its own, and they would tell at once.
Brackets: 95 % intervals, Wilson's of shares, those of a bootstrap over draws of means.

Shape suffix: R draws.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.files.atomic import replacing

if TYPE_CHECKING:
    from evaluation.drift.stream import Stream

SHARES = (0.01, 0.05, 0.2)  # of the new generator
LOOKS = (100, 300, 1000, 3000, 10_000)  # images
MIN_IMAGES = 10
LISTED, LISTED_OF = 50, 1000


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="which detector of the table; default: the only one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=1000, help="before")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from evaluation.drift.stream import read_stream

    stream = read_stream(args.table, model=args.model)
    images = stream.images.drop(columns=["format", "side"], errors="ignore")
    stream = replace(stream, images=images)
    alarms = false_alarm_table(stream, pairs=args.pairs, alpha=args.alpha, seed=args.seed)
    print(alarms, flush=True)
    found = delay_table(stream, draws=args.draws, num_before=args.images, alpha=args.alpha, seed=args.seed)
    print(found)
    with replacing(args.out / "drift.md") as scratch:
        scratch.write_text(f"{alarms}\n\n{found}\n", encoding="utf-8")


def part(stream: Stream, rows: np.ndarray) -> Stream:
    """Return the stream of these rows, which may be there several times."""
    vectors = None if stream.vectors_NE is None else stream.vectors_NE[rows]
    return replace(stream, images=stream.images.iloc[rows].reset_index(drop=True), vectors_NE=vectors)


def is_changed(before: Stream, now: Stream, *, level: float) -> bool:
    """Return whether two streams differ, by the tests of `benchmarks.py drift`."""
    from evaluation.drift.drift import compare_properties
    from evaluation.drift.properties import properties

    return any(each.changed for each in compare_properties(list(properties(before, now)), level=level))


# ---------------------------------------------------------------------------------------------------------
# False alarms


def false_alarm_table(stream: Stream, *, pairs: int, alpha: float, seed: int) -> str:
    """Return how often two halves of a table differ."""
    from reporting.markdown import share, to_table

    by_source = replace(stream, images=stream.images.assign(cluster=stream.images["source"]))
    ways = (
        ("images", "images", halves_of_images, stream),
        ("whole sources", "images", halves_of_sources, stream),
        ("whole sources", "clusters", halves_of_sources, by_source),
    )
    lines = []
    for dealt, compared, halves, of_stream in ways:
        drawn = tqdm(halves(stream, pairs, seed), total=pairs, desc=f"{dealt}, {compared}", dynamic_ncols=True)
        alarms = [
            is_changed(part(of_stream, first), part(of_stream, second), level=alpha) for first, second in drawn
        ]
        lines.append([dealt, compared, str(len(alarms)), share(float(np.mean(alarms)), len(alarms))])
    return to_table(["dealt at random", "compared as", "pairs", "alarms"], lines, num_texts=2)


def halves_of_images(stream: Stream, pairs: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)
    for _ in range(pairs):
        order = generator.permutation(len(stream.images))
        yield order[: len(order) // 2], order[len(order) // 2 :]


def halves_of_sources(stream: Stream, pairs: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)
    source_N = stream.images["source"].to_numpy()
    for _ in range(pairs):
        order = generator.permutation(np.unique(source_N))
        is_first_N = np.isin(source_N, order[: len(order) // 2])
        yield np.flatnonzero(is_first_N), np.flatnonzero(~is_first_N)


# ---------------------------------------------------------------------------------------------------------
# Delay


def delay_table(stream: Stream, *, draws: int, num_before: int, alpha: float, seed: int) -> str:
    """Return after how many images a new generator is found, and how many of the images to label are of it."""
    from reporting.markdown import share, to_table

    lines = []
    for rate in SHARES:
        delay_R, listed_R = np.empty(draws), np.empty(draws)
        drawn = streams(stream, draws, num_before=num_before, rate=rate, seed=seed)
        for i, (before, now, is_new_N) in enumerate(
            tqdm(drawn, total=draws, desc=f"{rate:.0%}", dynamic_ncols=True)
        ):
            delay_R[i] = delay(before, now, alpha=alpha)
            listed_R[i] = listed(before, now, is_new_N)
        found = [share(float((delay_R <= look).mean()), draws) for look in LOOKS]
        lines.append([f"{rate:.0%}", *found, mean_cell(listed_R, seed=seed)])
        tqdm.write(" | ".join(lines[-1]))
    header = ["share of the new generator", *(f"found by {look:,}" for look in LOOKS)]
    return to_table([*header, f"new, of {LISTED} to label first"], lines, num_texts=1)


def streams(
    stream: Stream, draws: int, *, num_before: int, rate: float, seed: int
) -> Iterator[tuple[Stream, Stream, np.ndarray]]:
    """Yield images before, without a generator, images of now with it, and which of them are of it."""
    generator = np.random.default_rng([seed, round(1000 * rate)])
    made_by_N = stream.images["generator"].to_numpy()
    names, counts = np.unique(made_by_N[made_by_N != ""], return_counts=True)
    if not (counts >= MIN_IMAGES).any():
        raise ValueError(f"{stream.path}: no generator has {MIN_IMAGES} images")
    for _ in range(draws):
        name = generator.choice(names[counts >= MIN_IMAGES])
        new, old = (np.flatnonzero(each) for each in (made_by_N == name, made_by_N != name))
        is_new_N = generator.random(LOOKS[-1]) < rate
        rows_N = np.where(is_new_N, generator.choice(new, LOOKS[-1]), generator.choice(old, LOOKS[-1]))
        yield part(stream, generator.choice(old, num_before)), part(stream, rows_N), is_new_N


def delay(before: Stream, now: Stream, *, alpha: float) -> float:
    """Return after how many images the change is found; infinity where it is not."""
    before, now = (replace(each, vectors_NE=None) for each in (before, now))  # which no test looks at
    for count in LOOKS:
        if is_changed(before, part(now, np.arange(count)), level=alpha / len(LOOKS)):
            return count
    return np.inf


def listed(before: Stream, now: Stream, is_new_N: np.ndarray) -> float:
    """Return how many of the images to label first are of the new generator."""
    from evaluation.drift.label_first import choose

    first = part(now, np.arange(LISTED_OF))
    places = first.images.assign(path=np.arange(LISTED_OF).astype(str))
    chosen = choose(before, replace(first, images=places), count=LISTED)
    return float(sum(is_new_N[int(each.path)] for each in chosen))


def mean_cell(values_R: np.ndarray, *, seed: int) -> str:
    """Return the mean of some draws with its interval."""
    from studies import trial

    means = np.array([values_R[rows].mean() for rows in trial.resampled(len(values_R), seed=seed)])
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values_R.mean():.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    cli.run(main)
