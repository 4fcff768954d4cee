"""Does a calibration hold on generators and photo sources that it has not seen? From scores alone.

    python studies/calibration.py runs/benchmarks/scores.parquet
    python studies/calibration.py runs/leave-out/scores.parquet --share 0.1 --splits 200

The sources of a table are halved; a calibration is fitted to one half and judged on the other, and the other way
round, for --splits seeds. With --share: fitted to that share of the sources, judged on the others. Of each: the
calibration error before and after, both classes weighing the same; balanced accuracy at a logit of 0, at the
fitted threshold "balanced", and at the one that was best on the images of the fit; false alarms and fakes found at
each operating point; and of the band, the share of images that it calls unsure, and the errors outside of it. What
was promised stands beside what was met. Shares of too few images for a calibration are left out, and counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from evaluation.calibrate import MIN_IMAGES, calibrate, class_weights, images_needed, split_by_source
from evaluation.metrics import calibration_error
from evaluation.tables.scores import CLEAN, read_scores
from gapl.calibration import Calibration, score_of
from gapl.verdict import decision_rule


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="which detector of the table; default: the first")
    parser.add_argument("--benchmark", help="which benchmark of the table; default: all together")
    parser.add_argument("--method", choices=("platt", "temperature"), default="platt")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--share", type=float, help="of the sources to fit to; default: halves, both ways")
    parser.add_argument("--splits", type=int, default=5)
    args = parser.parse_args()
    scores = read_scores(args.table)
    frame = scores.frame[scores.frame["degradation"] == CLEAN]
    frame = frame[frame["model"] == (args.model or scores.models[0])]
    if args.benchmark:
        frame = frame[frame["benchmark"] == args.benchmark]
    halves = args.share is None
    rows, too_few = [], 0
    for seed in range(args.splits):
        parts = split_by_source(frame, seed=seed, share=0.5 if halves else args.share)
        for way, (fitted_on, judged_on) in enumerate([parts, parts[::-1]] if halves else [parts]):
            if not halves and not is_enough(fitted_on, rates=(0.05, args.alpha)):
                too_few += 1
                continue
            calibration = calibrate(fitted_on, method=args.method, alpha=args.alpha, fprs=(0.05,))
            best = best_threshold(*scores_of(calibration, fitted_on))
            rows.append({"split": seed, "way": "ab"[way], **judge(calibration, judged_on, best=best)})
    if not rows:
        raise ValueError(f"{args.table}: no draw has images enough to fit to; pass a larger --share")
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    numbers = table.drop(columns=["split", "way"])
    left_out = f", {too_few} of too few images left out" if too_few else ""
    print(f"\nmean and spread over all {len(table)}{left_out}:")
    columns = {"mean": numbers.mean(), "sd": numbers.std(), "min": numbers.min(), "max": numbers.max()}
    spread = pd.DataFrame(columns)
    print(spread.to_string(float_format=lambda value: f"{value:.3f}"))
    print(f"promised: fpr5 at most .05; errors outside of the band at most {args.alpha} of each class")


def is_enough(frame: pd.DataFrame, *, rates: tuple[float, ...]) -> bool:
    counts = frame.loc[frame["error"] == "", "label"].value_counts().reindex([0, 1], fill_value=0)
    return int(counts.min()) >= max(MIN_IMAGES, images_needed(min(rates)))


def scores_of(calibration: Calibration, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    read = frame[frame["error"] == ""]
    return calibration.apply(read["logit"].to_numpy(float)), read["label"].to_numpy(int)


def best_threshold(score_N: np.ndarray, label_N: np.ndarray) -> float:
    """The middle between the two neighbouring scores where balanced accuracy is best."""
    fpr_T, tpr_T, lowest_fake_T = roc_curve(label_N, score_N, drop_intermediate=False)
    best = int((tpr_T - fpr_T)[:-1].argmax())  # the last: all called fake
    return float((lowest_fake_T[best] + lowest_fake_T[best + 1]) / 2)


def judge(calibration: Calibration, frame: pd.DataFrame, *, best: float) -> dict[str, float]:
    score_N, label_N = scores_of(calibration, frame)
    uncalibrated_N = score_of(frame.loc[frame["error"] == "", "logit"].to_numpy(float))
    weight_N = class_weights(label_N)
    verdict_N = decision_rule(calibration).labels(score_N)
    real_N, fake_N = label_N == 0, label_N == 1
    return {
        "ece_before": calibration_error(label_N, uncalibrated_N, weights_N=weight_N),
        "ece_after": calibration_error(label_N, score_N, weights_N=weight_N),
        "bal_at_0.5": balanced(uncalibrated_N >= 0.5, label_N),
        "bal_after": balanced(score_N >= calibration.threshold("balanced"), label_N),
        "bal_at_best": balanced(score_N >= best, label_N),
        "fpr5": float((score_N[real_N] >= calibration.threshold("fpr5")).mean()),
        "tpr_at_fpr5": float((score_N[fake_N] >= calibration.threshold("fpr5")).mean()),
        "unsure": float((verdict_N == "unsure").mean()),
        "real_as_fake": float((verdict_N[real_N] == "fake").mean()),
        "fake_as_real": float((verdict_N[fake_N] == "real").mean()),
    }


def balanced(called_N: np.ndarray, label_N: np.ndarray) -> float:
    return float((called_N[label_N == 1].mean() + (~called_N[label_N == 0]).mean()) / 2)


if __name__ == "__main__":
    cli.run(main)
