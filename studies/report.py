"""The scores of studies/ablation.py -> tables in Markdown on the terminal, and a plot of each.

    python studies/report.py docs/study/scores.parquet --out docs/study

A cell: AUROC on held-out sources, mean and standard deviation over seeds, the mean of balanced accuracy at .5, and
how many seeds; then the difference of AUROC to the preset mini on the same images, with the 95 % interval of a
bootstrap over sources; last, that of LoRA to the frozen tower.

Shape suffixes: N images, R resamples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.calibration import score_of
from studies.rows import HELDOUT, LORA

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "mini"
NUM_RESAMPLES = 300
TABLES = {
    "prototypes": ("no prototypes", "random prototypes", "class means", "PCA", REFERENCE),
    "number": ("8 prototypes", "16 prototypes", "32 prototypes", REFERENCE, "128 prototypes"),
    "sources": (*(f"prototypes of {n} generators" for n in (1, 2, 3, 8)), REFERENCE),
    "generators": (*(f"{n} generators" for n in (1, 2, 4, 16)), REFERENCE),
    "removed": (
        REFERENCE,
        "layers 7 to 10 and 12",
        "last layer alone",
        "head not fitted to its end",
        "never saved anew",
        "balanced by class",
        "all patches",
        "no average of weights",
        "preset paper",
        "preset release",
    ),
}
TOWERS = {"frozen": "frozen tower", "lora": f"LoRA, {LORA.max_steps} steps"}


@dataclass(frozen=True)
class Result:
    """A row on one kind of tower with one seed. auroc_R: of resampled sources, the same ones in every row."""

    auroc: float
    balanced: float
    auroc_R: np.ndarray


Results = dict[tuple[str, str], dict[int, Result]]  # (row, tower) -> seed -> result, of one part of the images


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("scores", type=Path, help="scores.parquet of studies/ablation.py")
    parser.add_argument("--out", type=Path, help="folder for the plots; without it, tables only")
    args = parser.parse_args()
    if not args.scores.is_file():
        raise ValueError(f"{args.scores}: no such file; studies/ablation.py writes it")
    import pandas as pd

    scores = pd.read_parquet(args.scores)
    results = measure(scores[scores["part"] == HELDOUT])
    for title, rows in TABLES.items():
        if not towers_of(rows, results):
            continue
        print(f"\n{title}\n\n{to_markdown(rows, results)}")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            draw(title, rows, results, args.out / f"{title}.png")
    of_themselves = measure(scores[scores["part"] != HELDOUT])
    if towers_of(TABLES["generators"], of_themselves):
        print("\ngenerators, on further images of themselves\n")
        print(to_markdown(TABLES["generators"], of_themselves))


def measure(scores: pd.DataFrame) -> Results:
    """Return AUROC, balanced accuracy and resampled AUROC of each row, tower and seed of a table."""
    from evaluation.intervals import bootstrap
    from evaluation.metrics import compute_metrics

    results: Results = {}
    for (row, tower, seed), part in scores.groupby(["row", "tower", "seed"]):
        label_N, score_N = part["label"].to_numpy(int), score_of(part["logit"].to_numpy(float))
        figures = compute_metrics(label_N, score_N, threshold=0.5)
        assert figures.auroc is not None
        assert figures.balanced_accuracy is not None
        drawn = bootstrap(
            label_N, score_N, threshold=0.5, sources_N=part["source"].tolist(), num_resamples=NUM_RESAMPLES
        )
        result = Result(figures.auroc, figures.balanced_accuracy, drawn.values["auroc"])
        results.setdefault((row, tower), {})[int(seed)] = result
    return results


def to_markdown(rows: Sequence[str], results: Results) -> str:
    """Return the table of these rows in Markdown."""
    towers = towers_of(rows, results)
    titles = [title for tower in towers for title in (TOWERS[tower], "difference")]
    if with_gain := towers == list(TOWERS):
        titles.append("LoRA's gain")
    lines = [" | ".join(("| row", *titles)) + " |", "|---|" + "---|" * len(titles)]
    for row in rows:
        cells = [cell for tower in towers for cell in cells_of(row, tower, results)]
        if with_gain:
            cells.append(difference(results.get((row, "lora"), {}), results.get((row, "frozen"), {})))
        if any(cells):
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def towers_of(rows: Sequence[str], results: Results) -> list[str]:
    """Return the towers on which some row can be compared with the reference."""
    others = [row for row in rows if row != REFERENCE]
    return [tower for tower in TOWERS if any((row, tower) in results for row in others)]


def cells_of(row: str, tower: str, results: Results) -> tuple[str, str]:
    """Return the figures of a row as text, and their difference to the reference."""
    of_row, of_reference = results.get((row, tower), {}), results.get((REFERENCE, tower), {})
    if not of_row:
        return "", ""
    auroc, balanced = [r.auroc for r in of_row.values()], [r.balanced for r in of_row.values()]
    spread = f" ± {np.std(auroc, ddof=1):.3f}" if len(of_row) > 1 else ""
    figures = f"{np.mean(auroc):.3f}{spread} / {np.mean(balanced):.3f} ({len(of_row)})"
    return figures, "" if row == REFERENCE else difference(of_row, of_reference)


def difference(of_row: dict[int, Result], of_other: dict[int, Result]) -> str:
    """Write the mean difference in AUROC over the seeds that both rows have, with its interval."""
    if not (shared := sorted(of_row.keys() & of_other.keys())):
        return ""
    mean = np.mean([of_row[seed].auroc - of_other[seed].auroc for seed in shared])
    low, high = interval([of_row[seed].auroc_R - of_other[seed].auroc_R for seed in shared])
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def interval(replicates: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds."""
    low, high = np.quantile(np.mean(replicates, axis=0), (0.025, 0.975))
    return float(low), float(high)


def draw(title: str, rows: Sequence[str], results: Results, path: Path) -> None:
    """Plot a point for each seed, the mean and its interval, a line for each row."""
    from matplotlib.figure import Figure  # a second to import

    rows = [row for row in rows if any((row, tower) in results for tower in TOWERS)]
    figure = Figure(figsize=(7, 0.5 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for number, tower in enumerate(towers_of(rows, results)):
        for place, row in enumerate(rows):
            if not (of_row := results.get((row, tower), {})):
                continue
            height, colour = place + 0.25 * number, f"C{number}"
            auroc = [result.auroc for result in of_row.values()]
            mean = float(np.mean(auroc))
            low, high = interval([result.auroc_R for result in of_row.values()])
            axes.plot([low, high], [height, height], color=colour, lw=1.5)
            axes.plot(auroc, [height] * len(auroc), ".", color=colour, alpha=0.4)
            axes.plot(mean, height, "o", color=colour, label=TOWERS[tower] if row == REFERENCE else None)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel("AUROC on held-out sources: seeds, mean, 95 % interval over sources")
    axes.grid(axis="x", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    cli.run(main)
