"""Judge every source of the training images by a detector that has not seen it: folds of whole sources.

    python studies/leave_out.py --corpus DIR --out runs/leave-out
    python studies/leave_out.py --corpus DIR --out runs/leave-out-lora --lora

Sources whose names begin with the same letters (sdnext_hades, sdnext_xl) are related, and are left out together.
The detectors are a row of studies/ablation.py: heads on the frozen tower, or LoRA trained from there. Writes
OUT/scores.parquet and OUT/sources.csv. Prints AUROC and balanced accuracy at .5 of all images, each judged in its
own fold, and the worst sources. Results are kept, so the same command continues where it stopped.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.holdout import split_images
from data.records import Manifest
from gapl import cli
from gapl.calibration import score_of
from studies.ablation import add_lab_arguments, lab_options
from studies.rows import HELDOUT, ROWS

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 25  # sources of a class, the worst ones
MIN_IMAGES = 10  # of a source that is shown


def main() -> None:
    parser = cli.Parser(__doc__)
    add_lab_arguments(parser, out=Path("runs/leave-out"))
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--row", choices=tuple(ROWS), metavar="NAME", default="mini", help=", ".join(ROWS))
    parser.add_argument("--lora", action="store_true", help="also train LoRA, from each head")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folds < 2:
        raise ValueError(f"--folds must be at least 2, not {args.folds}")

    import pandas as pd  # this and torch take seconds to import

    from studies.lab import open_lab

    parts = []
    with open_lab(args.corpus, **lab_options(args)) as lab:
        for number, names in enumerate(folds(lab.images, args.folds)):
            split = split_images(lab.images, fraction=0.0, holdout=0.0, names=names, max_images=0, seed=args.seed)
            print(
                f"fold {number + 1} of {args.folds}: {len(names)} sources, {len(split.heldout)} images", flush=True
            )
            tower = lab.fit(ROWS[args.row], split, args.out / str(number), seed=args.seed, with_lora=args.lora)
            parts.append(pd.read_csv(tower / f"scores_{HELDOUT}.csv").assign(fold=number))
            lab.firsts.clear()
    scores = pd.concat(parts, ignore_index=True)
    scores.to_parquet(args.out / "scores.parquet")
    show(scores, args.out / "sources.csv")


def folds(images: Manifest, count: int) -> list[list[str]]:
    """Return the names of all sources in `count` lists, relatives together, with about as many images in each."""
    sizes = Counter(kin(record.generator) for record in images)
    fold_of: dict[str, int] = {}
    filled = [0] * count
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[name] = filled.index(min(filled))
        filled[fold_of[name]] += size
    names = sorted({record.generator for record in images})
    return [[name for name in names if fold_of[kin(name)] == number] for number in range(count)]


def kin(source: str) -> str:
    """Return the letters that a name begins with, in lower case; or the name, if it begins with something else."""
    letters = re.match("[a-z]+", source.lower())
    return letters[0] if letters else source


def show(scores: pd.DataFrame, path: Path) -> None:
    """Print the figures of all images, and write and print those of each source."""
    from evaluation.intervals import bootstrap
    from evaluation.metrics import compute_metrics

    label_N, score_N = scores["label"].to_numpy(int), score_of(scores["logit"].to_numpy(float))
    figures = compute_metrics(label_N, score_N, threshold=0.5)
    drawn = bootstrap(label_N, score_N, threshold=0.5, sources_N=scores["generator"].tolist())
    for name, (low, high) in drawn.intervals().items():
        print(f"{name:18s} {getattr(figures, name):.3f} [{low:.3f}, {high:.3f}]")
    right = scores.assign(images=1, accuracy=(score_N >= 0.5) == (label_N == 1))
    sources = right.groupby(["label", "generator"], as_index=False).agg({"images": "sum", "accuracy": "mean"})
    sources = sources.rename(columns={"generator": "source"}).sort_values(["label", "accuracy", "source"])
    sources.to_csv(path, index=False, float_format="%.3f")
    for label, title in ((0, "real images"), (1, "fakes")):
        of_class = sources[sources["label"] == label]
        worst = of_class[of_class["images"] >= MIN_IMAGES].head(SHOWN)
        mean = of_class["accuracy"].mean()
        print(f"\n{title}: {len(of_class)} sources, mean accuracy {mean:.3f}; the worst ones:")
        print(worst[["source", "images", "accuracy"]].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    cli.run(main)
