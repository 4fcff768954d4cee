"""Train the preset mini with one thing changed at a time, and judge each row on sources that were held out whole.

    python studies/ablation.py --corpus DIR --out runs/ablation                 heads on the frozen tower, 5 seeds
    python studies/ablation.py --corpus DIR --out runs/ablation --lora --seeds 2     then LoRA, 100 steps of 16

A seed draws a fifth of the generators and of the real sources, which no stage sees; 500 of their images judge
(set "heldout"). It also draws a tenth of the other images, at most 500, which judge too (set "random"), the start
of the head, and the order of images. All rows of a seed share these. DIR/bench is not read.

Results are kept, so the same command continues where it stopped. The scores of all finished rows are then gathered
in OUT/scores.parquet, from which studies/report.py makes tables and plots. Scores of other rows that are already
there stay: to add to docs/study/scores.parquet, copy it there first. Rounding changes a row too, so rows that are
to be compared need the same --precision.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.names import BACKBONE_HELP
from models.precision import PRECISIONS
from studies.rows import HELDOUT, PARTS, ROWS, TOWERS
from training.recipe import MINI_1

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    parser = cli.Parser(__doc__)
    add_lab_arguments(parser, out=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it (default: 0)")
    parser.add_argument("--lora", action="store_true", help="also train LoRA, from each head")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), metavar="NAME", help=", ".join(ROWS))
    args = parser.parse_args()

    from studies.lab import open_lab  # torch takes seconds to import

    with open_lab(args.corpus, **lab_options(args)) as lab:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for name in args.rows or ROWS:
                lab.run(name, args.out, seed=seed, with_lora=args.lora)
            lab.firsts.clear()
    gather(args.out)


def add_lab_arguments(parser: argparse.ArgumentParser, *, out: Path) -> None:
    """Add the options that studies share."""
    parser.add_argument("--corpus", type=Path, required=True, help=f"folder of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=out, help=f"default: {out}")
    parser.add_argument("--backbone", default="clip-vit-b16-int8", help=BACKBONE_HELP)
    parser.add_argument(
        "--feature-layers", default=MINI_1.feature_layers, help="layers of the tower that are read"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the tower (default: auto)")
    parser.add_argument(
        "--feature-cache",
        type=Path,
        help="folder of the frozen tower's cached features (default: features in GAPL_CACHE)",
    )


def lab_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of add_lab_arguments that open_lab takes, besides the corpus."""
    names = ("backbone", "feature_layers", "precision", "feature_cache")
    return {name: getattr(args, name) for name in names}


def gather(out: Path) -> None:
    """Gather all results below `out` in one table: row, tower, seed, part, label, source, logit."""
    import pandas as pd

    path, tables = out / "scores.parquet", []
    for folder in sorted(path for tower in TOWERS for path in out.glob(f"*/*/{tower}")):
        row, seed = folder.parents[1].name.replace("-", " "), int(folder.parent.name)
        for part in (HELDOUT, "random"):
            if (folder / f"scores_{part}.csv").is_file():
                scores = read_scores(folder, part)
                tables.append(scores.assign(row=row, tower=folder.name, seed=seed, part=part))
    if not tables:
        raise ValueError(f"{out}: no row is finished")
    table = pd.concat(tables, ignore_index=True)
    if path.is_file():
        table = pd.concat([of_others(pd.read_parquet(path), table), table], ignore_index=True)
    table.to_parquet(path)
    print(f"{path}: {len(table)} scores of {table['row'].nunique()} rows")


def read_scores(folder: Path, part: str) -> pd.DataFrame:
    """Read label, source and logit of each image of a set that validated last."""
    import pandas as pd

    scores = pd.read_csv(folder / f"scores_{part}.csv", dtype={"error": str}, keep_default_na=False)
    kept = scores[["label", "generator", "logit"]].astype({"logit": "float32", "label": "int8"})
    return kept.rename(columns={"generator": "source"})


def of_others(before: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of `before` whose row, tower and seed are not in `table`."""
    import pandas as pd

    keys = ["row", "tower", "seed"]
    known = pd.MultiIndex.from_frame(table[keys])
    return before[~pd.MultiIndex.from_frame(before[keys]).isin(known)]


if __name__ == "__main__":
    cli.run(main)
