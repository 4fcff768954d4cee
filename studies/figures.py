"""Print the figures of pretrained/README.md, from tables of scores of a calibrated detector.

    python studies/figures.py FILE SCORES...     scores.parquet files of benchmarks.py, of one detector each

For each benchmark and degradation: metrics with 95 % intervals, from a bootstrap of sources, or of images where
there is one real source; the calibration error with both classes weighing the same; the share of unsure images;
rates at each operating point. For images without degradation, also the errors of each source.

Shape suffix: N images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from data.images.degrade import CLEAN
from gapl.calibration import BALANCED, Calibration
from gapl.labels import Label
from gapl.verdict import decision_rule

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("file", type=Path, help="the detector")
    parser.add_argument("scores", type=Path, nargs="+")
    args = parser.parse_args()
    calibration = read_calibration(args.file)
    from evaluation.tables.scores import read_scores

    for path in args.scores:
        frame = read_scores(path).frame
        scored = frame[frame["score"].notna()]
        for (benchmark, degradation), part in scored.groupby(["benchmark", "degradation"], sort=False):
            if part["label"].nunique() < 2:
                raise ValueError(f"{path}: {benchmark} has one class only; expected real images and fakes")
            print(f"\n{benchmark}, {degradation}")
            show(part, calibration)
            if degradation == CLEAN:
                show_errors(part, calibration.threshold(BALANCED))


def read_calibration(file: Path) -> Calibration:
    """Return the calibration of a detector file. Raises ValueError when it has none."""
    from models.weights.checkpoint import read_info

    calibration = read_info(file).calibration
    if calibration is None:
        raise ValueError(f"{file} is not calibrated; `python benchmarks.py calibrate` does that")
    return calibration


def show(part: pd.DataFrame, calibration: Calibration) -> None:
    """Print the metrics and rates of one benchmark under one degradation."""
    from evaluation.calibrate import class_weights
    from evaluation.intervals import bootstrap
    from evaluation.metrics import calibration_error, compute_metrics

    label_N, score_N = part["label"].to_numpy(int), part["score"].to_numpy(float)
    threshold = calibration.threshold(BALANCED)
    sources = part["source"].tolist() if part.loc[label_N == Label.REAL, "source"].nunique() > 1 else None
    found = compute_metrics(label_N, score_N, threshold=threshold)
    drawn = bootstrap(label_N, score_N, threshold=threshold, sources_N=sources)
    print(f"{(label_N == Label.REAL).sum()} real images, {(label_N == Label.FAKE).sum()} fakes")
    for name, (low, high) in drawn.intervals().items():
        print(f"{name:18s} {getattr(found, name):.3f} [{low:.3f}, {high:.3f}]")
    print(f"calibration error  {calibration_error(label_N, score_N, weights_N=class_weights(label_N)):.3f}")
    print(f"unsure             {decision_rule(calibration).unsure(score_N).mean():.3f}")
    for name, point in calibration.operating_points.items():
        real, fake = ((score_N[label_N == label] >= point).mean() for label in Label)
        print(f"{name:10s} {point:.3f}: {real:.3f} of real images called fake, {fake:.3f} of fakes found")


def show_errors(part: pd.DataFrame, threshold: float) -> None:
    """Print how many images of each source are called the wrong class, the most first."""
    wrong = part.assign(wrong=(part["score"] >= threshold) != (part["label"] == Label.FAKE))
    for label, column, title in (
        (Label.REAL, "source", "real images called fake"),
        (Label.FAKE, "generator", "fakes missed"),
    ):
        counts = wrong[wrong["label"] == label].groupby(column)["wrong"].agg(["sum", "count"])
        counts = counts.sort_values("sum", ascending=False)
        told = (f"{name} {row['sum']} of {row['count']}" for name, row in counts.iterrows())
        print(f"{title}: {', '.join(told)}")


if __name__ == "__main__":
    cli.run(main)
