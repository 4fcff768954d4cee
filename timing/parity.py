"""Compare two tables of scores of the same images, such as one of a GPU with one of the CPU.

    python timing/parity.py cpu/scores.parquet gpu/scores.parquet --tolerance 0.02

    mini, none: 90 images, largest difference of P(fake) 0.0004, mean 0.0001; 0 on the other side of 0.5

A line for each detector and degradation. The command fails when a score differs by more than the tolerance, or
when one of the tables lacks an image.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

if TYPE_CHECKING:
    import pandas as pd

KEY = ["model", "degradation", "benchmark", "uri"]


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("expected", type=Path, help="table of scores that is right by definition")
    parser.add_argument("found", type=Path, help="table of scores that is compared with it")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="largest difference of P(fake) (default: 0.02)"
    )
    args = parser.parse_args()
    from evaluation.tables.scores import read_scores

    expected, found = (read_scores(path).frame for path in (args.expected, args.found))
    pairs = pair_scores(expected, found)
    for (model, degradation), part in pairs.groupby(["model", "degradation"], sort=False):
        print(describe(f"{model}, {degradation}", part))
    worst = pairs.loc[difference(pairs).idxmax()]
    if abs(worst["found"] - worst["expected"]) > args.tolerance:
        raise ValueError(
            f"{worst['uri']} has P(fake) {worst['found']:.4f} by {worst['model']}, where {args.expected} has "
            f"{worst['expected']:.4f}; the tolerance is {args.tolerance}"
        )


def pair_scores(expected: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of both tables side by side: KEY, `expected` and `found`.

    Raises ValueError when an image was scored in one of the tables only, or none in either.
    """
    sides = [
        frame.loc[frame["score"].notna(), [*KEY, "score"]].rename(columns={"score": name})
        for name, frame in (("expected", expected), ("found", found))
    ]
    pairs = sides[0].merge(sides[1], on=KEY, how="outer", indicator=True)
    alone = pairs[pairs["_merge"] != "both"]
    if pairs.empty:
        raise ValueError("neither table has a score")
    if not alone.empty:
        raise ValueError(f"{len(alone)} images have a score in one table only, such as {alone['uri'].iloc[0]}")
    return pairs.drop(columns="_merge")


def difference(pairs: pd.DataFrame) -> pd.Series[float]:
    return (pairs["found"] - pairs["expected"]).abs()


def describe(name: str, pairs: pd.DataFrame) -> str:
    """Return one line on the scores of one detector."""
    apart = difference(pairs)
    crossed = ((pairs["found"] >= 0.5) != (pairs["expected"] >= 0.5)).sum()
    return (
        f"{name}: {len(pairs)} images, largest difference of P(fake) {apart.max():.4f}, mean {apart.mean():.4f}; "
        f"{crossed} on the other side of 0.5"
    )


if __name__ == "__main__":
    cli.run(main)
