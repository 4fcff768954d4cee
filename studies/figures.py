"""The figures of pretrained/README.md: the scores of a detector that is calibrated -> the terminal.

    python studies/figures.py FILE SCORES...     scores.parquet of benchmarks.py, of one detector each

Of each benchmark and degradation: metrics with 95 % intervals, of a bootstrap of sources, or of images where there
is one photo source; calibration error, both classes weighing the same; the share that is unsure; rates at each
operating point. Then, of images as they are, the errors of each source.

Shape suffixes: N images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from data.images.degrade import CLEAN
from evaluation.calibrate import class_weights
from evaluation.intervals import bootstrap
from evaluation.metrics import calibration_error, compute_metrics
from evaluation.tables.scores import read_scores
from gapl.calibration import BALANCED, Calibration
from gapl.verdict import decision_rule
from models.weights.checkpoint import read_checkpoint


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("file", type=Path, help="the detector")
    parser.add_argument("scores", type=Path, nargs="+")
    args = parser.parse_args()
    calibration = read_checkpoint(args.file).calibration
    if calibration is None:
        raise ValueError(f"{args.file} is not calibrated; `python benchmarks.py calibrate` does that")
    for path in args.scores:
        frame = read_scores(path).frame
        scored = frame[frame["score"].notna()]
        for (benchmark, degradation), part in scored.groupby(["benchmark", "degradation"], sort=False):
            if part["label"].nunique() < 2:
                raise ValueError(f"{path}: {benchmark} has one class only; expected photographs and fakes")
            print(f"\n{benchmark}, {degradation}")
            show(part, calibration)
            if degradation == CLEAN:
                show_errors(part, calibration.threshold(BALANCED))


def show(part: pd.DataFrame, calibration: Calibration) -> None:
    label_N, score_N = part["label"].to_numpy(int), part["score"].to_numpy(float)
    threshold = calibration.threshold(BALANCED)
    sources = part["source"].tolist() if part.loc[label_N == 0, "source"].nunique() > 1 else None
    found = compute_metrics(label_N, score_N, threshold=threshold)
    drawn = bootstrap(label_N, score_N, threshold=threshold, sources_N=sources)
    print(f"{(label_N == 0).sum()} photographs, {label_N.sum()} fakes")
    for name, (low, high) in drawn.intervals().items():
        print(f"{name:18s} {getattr(found, name):.3f} [{low:.3f}, {high:.3f}]")
    print(f"calibration error  {calibration_error(label_N, score_N, weights_N=class_weights(label_N)):.3f}")
    print(f"unsure             {decision_rule(calibration).unsure(score_N).mean():.3f}")
    for name, point in calibration.operating_points.items():
        real, fake = ((score_N[label_N == label] >= point).mean() for label in (0, 1))
        print(f"{name:10s} {point:.3f}: {real:.3f} of photographs called fake, {fake:.3f} of fakes found")


def show_errors(part: pd.DataFrame, threshold: float) -> None:
    wrong = part.assign(wrong=(part["score"] >= threshold) != (part["label"] == 1))
    for label, title in ((0, "photographs called fake"), (1, "fakes missed")):
        column = "source" if label == 0 else "generator"
        counts = wrong[wrong["label"] == label].groupby(column)["wrong"].agg(["sum", "count"])
        counts = counts.sort_values("sum", ascending=False)
        print(
            f"{title}: " + ", ".join(f"{name} {row['sum']} of {row['count']}" for name, row in counts.iterrows())
        )


if __name__ == "__main__":
    cli.run(main)
