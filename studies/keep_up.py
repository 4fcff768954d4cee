"""Leave generators and photo sources out of training, add them back from a few images, and see what it does.

    python studies/keep_up.py --corpus DIR --out runs/keep-up

DIR is the open corpus. Twenty generators with enough images, and ten real sources, are dealt to folds. For each
fold a detector is trained without them as scripts/train_mini.sh does it, but for LoRA: a head on the frozen tower,
which has never been shown a generator. Then 10, 30 or 100 images of one are added, in several draws, by

    nothing     the detector as it is
    nearest     new prototypes; an image is what its nearest prototype is. Nothing is refitted
    classifier  the linear classifier alone is refitted, with the memory
    head        what prototype/add_generator.py does
    attention   the same, with the attention refitted, too (30 images)
    wrong       the same as head, with a tenth of the new images real ones that are called fakes (30 images)
    retrained   stage 1, prototypes and head trained anew with the images, for two generators (30 images)

and, with a detector that has seen none of the twenty, ten generators one after the other. Judged are other images
of the same generator, of other repositories where it has some, and images of sources that training held out. What
is finished is kept, so that the same command continues. Writes OUT/results.csv and OUT/row.csv, and prints tables.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.open_corpus.collection import Collection
from gapl import cli
from gapl.files.strict_json import strict_json
from gapl.labels import Label
from models.precision import PRECISIONS

if TYPE_CHECKING:
    import pandas as pd

    from studies.keep_up_lab import Lab

NUM_GENERATORS, NUM_PHOTOS, IN_A_ROW = 20, 10, 10
LEAST_IMAGES, LEAST_JUDGED, MOST_PHOTOS = 20, 6, 100
SIZES = (10, 30, 100)
LEAST_CASES = 5  # for an interval
OPTIONS = "options.json"  # in --out
RETRAINED, RETRAINED_SIZE = 2, 30  # folds, images
RELATED = (  # generators that are left out together, by what their names have in common
    ("banana", "nano banana"), ("gpt_image_2", "gpt image 2"), ("gptimage2", "gpt image 2"),
    ("gpt_image_1", "gpt image 1"), ("imagen_3", "imagen 3"), ("imagen3", "imagen 3"), ("dalle3", "dalle3"),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A generator or a real source that is left out and added back: its images by repository."""

    name: str
    label: Label
    rows: Mapping[str, Sequence[int]]

    def split(self, size: int, *, draw: int) -> tuple[list[int], list[int]] | None:
        """Draw images to add, and those to judge by, of other repositories if there are several; None: too few."""
        generator = random.Random(f"{self.name}:{draw}")
        sources = sorted(self.rows)
        generator.shuffle(sources)
        every = [row for source in sources for row in self.rows[source]]
        if len(sources) == 1:
            generator.shuffle(every)
            added, judged = every[:size], every[size:]
        else:
            added = []
            while len(sources) > 1 and len(added) < size:
                added += self.rows[sources.pop(0)]
            judged = [row for source in sources for row in self.rows[source]]
            generator.shuffle(added)
            added = added[:size]
        return (added, judged) if len(added) == size and len(judged) >= LEAST_JUDGED else None


def main() -> None:
    args = parse_arguments()
    check_same(args)
    import pandas as pd

    from studies.keep_up_lab import open_lab

    mix = "" if args.all_images else "open"
    with open_lab(args.corpus, args.out, mix=mix, seed=args.seed, precision=args.precision) as lab:
        (args.out / OPTIONS).write_text(json.dumps(stated_options(args), indent=1) + "\n", encoding="utf-8")
        cases = find_cases(lab, args.corpus)
        parts = [cases[number :: args.folds] for number in range(args.folds)]
        results = []
        for number, part in enumerate(parts):
            folder = args.out / f"fold{number}"
            results.append(run_fold(lab, part, folder, draws=args.draws, retrain=number < RETRAINED))
        pd.concat(results, ignore_index=True).to_csv(args.out / "results.csv", index=False, float_format="%.4f")
        show(pd.read_csv(args.out / "results.csv"))
        row = run_in_a_row(lab, cases, args.out / "row")
        row.to_csv(args.out / "row.csv", index=False, float_format="%.4f")
        print(row.to_string(index=False, float_format="{:.3f}".format))


def check_same(args: argparse.Namespace) -> None:
    """Raise ValueError when --out holds what was finished with other options, which would be taken for this."""
    kept = args.out / OPTIONS
    if kept.is_file() and strict_json(kept.read_text(encoding="utf-8")) != stated_options(args):
        raise ValueError(f"{args.out} holds a study with other options; name another --out")


def stated_options(args: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(args).items() if name != "out"}


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of python -m data.collect")
    parser.add_argument("--out", type=Path, default=Path("runs/keep-up"), help="default: runs/keep-up")
    parser.add_argument("--folds", type=int, default=6)
    parser.add_argument("--draws", type=int, default=5)
    text = "take all of DIR/train, where the detector that ships was trained on a draw of it"
    parser.add_argument("--all-images", action="store_true", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the held-out sources, and of training")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the tower (default: auto)")
    args = parser.parse_args()
    if min(args.folds, args.draws) < 1:
        raise ValueError("--folds and --draws must be at least 1")
    return args


def kin(generator: str) -> str:
    """Return what a generator and its relatives are called together."""
    return next((name for part, name in RELATED if part in generator), generator)


def find_cases(lab: Lab, corpus: Path) -> list[Case]:
    """Return what is left out: the generators and the real sources with the most images."""
    rows_of: dict[tuple[Label, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    made_by = {str(corpus / row["filename"]): row["generator"] for row in Collection(corpus).rows("train")}
    for row, record in enumerate(lab.images):
        name = kin(made_by[record.uri]) if record.label == Label.FAKE else record.generator
        if not name.startswith("unknown:"):
            rows_of[record.label, name][record.generator].append(row)
    sizes = Counter({key: sum(map(len, rows.values())) for key, rows in rows_of.items()})
    found = [(key, size) for key, size in sizes.most_common() if size >= LEAST_IMAGES or key[0] == Label.REAL]
    fakes = [key for key, _ in found if key[0] == Label.FAKE][:NUM_GENERATORS]
    photos = [key for key, size in found if key[0] == Label.REAL and size <= MOST_PHOTOS][:NUM_PHOTOS]
    return [Case(name, label, rows_of[label, name]) for label, name in sorted((*fakes, *photos), reverse=True)]


def run_fold(lab: Lab, cases: Sequence[Case], folder: Path, *, draws: int, retrain: bool) -> pd.DataFrame:
    """Train the detector of a fold, and add each of its cases in all sizes and draws; retrain with the first."""
    import pandas as pd

    kept = folder / "results.csv"
    if kept.is_file():
        return pd.read_csv(kept)
    base = lab.train(cases, folder)
    rows = []
    for number, case in enumerate(cases):
        for size in SIZES:
            for draw in range(draws):
                if (drawn := case.split(size, draw=draw)) is None:
                    continue
                again = retrain and number == draw == 0 and size == RETRAINED_SIZE
                for result in base.try_ways(case, *drawn, draw=draw, again=folder if again else None):
                    rows.append(
                        {"name": case.name, "label": case.label.word, "size": size, "draw": draw} | asdict(result)
                    )
        print(f"{folder.name}: {case.label.word} {case.name} done", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(kept, index=False)
    return table


def run_in_a_row(lab: Lab, cases: Sequence[Case], folder: Path) -> pd.DataFrame:
    """Add ten generators one after the other to a detector that has seen none of the cases."""
    import pandas as pd

    base = lab.train(cases, folder)
    chosen = [case for case in cases if case.label == Label.FAKE and case.split(RETRAINED_SIZE, draw=0)][:IN_A_ROW]
    return pd.DataFrame(base.add_in_a_row([(case, *case.split(RETRAINED_SIZE, draw=0)) for case in chosen]))  # type: ignore[misc]


def show(results: pd.DataFrame) -> None:
    """Print, for each class and size, what each way does: means over cases of means over draws, with intervals.

    Where some ways were tried in the first draw alone, it has a table of its own.
    """
    for (label, size), of_size in results.groupby(["label", "size"]):
        first = of_size[of_size["draw"] == 0]
        others = of_size[of_size["draw"] != 0]
        some = set(first["way"]) - set(others["way"]) if len(others) else set()
        print(f"\n{label}, {size} images, {of_size['name'].nunique()} left out")
        print(_means(of_size[~of_size["way"].isin(some)]).to_string())
        if some:
            print(f"\nthe first draw alone, {first['name'].nunique()} left out")
            print(_means(first).to_string())


def _means(results: pd.DataFrame) -> pd.DataFrame:
    """Return for each way the means over cases, with intervals by drawing cases anew."""
    import numpy as np

    figures = ["new_right", "new_auroc", "old_auroc", "old_real_right", "old_fakes_right"]
    means = results.groupby(["way", "name"], sort=False)[figures].mean()
    lines = {}
    for way, of_way in means.groupby(level="way", sort=False):
        drawn = np.random.default_rng(0).integers(len(of_way), size=(1000, len(of_way)))
        low, high = np.quantile(of_way.to_numpy()[drawn].mean(axis=1), [0.025, 0.975], axis=0)
        cells = [f"{mean:.3f}" for mean in of_way.mean()]
        if len(of_way) >= LEAST_CASES:
            cells = [f"{cell} [{a:.3f}, {b:.3f}]" for cell, a, b in zip(cells, low, high, strict=True)]
        lines[way] = dict(zip(["left out", *figures], [str(len(of_way)), *cells], strict=True))
    return type(results)(lines).T


if __name__ == "__main__":
    cli.run(main)
