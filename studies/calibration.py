"""Does a calibration hold on generators and photo sources that it has not seen? Both ways, from scores alone.

    python studies/calibration.py runs/benchmarks/scores.parquet

The sources of a table are halved; a calibration is fitted to one half and judged on the other, and the other way
round, for --splits seeds. Of each: the calibration error before and after, both classes weighing the same; false
alarms and fakes found at each operating point; and of the band, the share of images that it calls unsure, and the
errors outside of it. What was promised stands beside what was met.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import cli
from evaluation.calibrate import calibrate, class_weights, split_by_source
from evaluation.metrics import calibration_error
from evaluation.scores import CLEAN, read_scores
from models.calibration import Calibration


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="which detector of the table; default: the first")
    parser.add_argument("--benchmark", help="which benchmark of the table; default: all together")
    parser.add_argument("--method", choices=("platt", "temperature"), default="platt")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--splits", type=int, default=5)
    args = parser.parse_args()
    scores = read_scores(args.table)
    frame = scores.frame[scores.frame["degradation"] == CLEAN]
    frame = frame[frame["model"] == (args.model or scores.models[0])]
    if args.benchmark:
        frame = frame[frame["benchmark"] == args.benchmark]
    rows = []
    for seed in range(args.splits):
        halves = split_by_source(frame, seed=seed)
        for way, (fitted_on, judged_on) in enumerate((halves, halves[::-1])):
            calibration = calibrate(fitted_on, method=args.method, alpha=args.alpha, fprs=(0.05,))
            rows.append({"split": seed, "way": "ab"[way], **judge(calibration, judged_on)})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    numbers = table.drop(columns=["split", "way"])
    print("\nmean and spread over all:")
    spread = pd.DataFrame({"mean": numbers.mean(), "min": numbers.min(), "max": numbers.max()}).T
    print(spread.to_string(float_format=lambda value: f"{value:.3f}"))
    print(f"promised: fpr5 at most .05; errors outside of the band at most {args.alpha} of each class")


def judge(calibration: Calibration, frame: pd.DataFrame) -> dict[str, float]:
    read = frame[frame["error"] == ""]
    label_N, logit_N = read["label"].to_numpy(int), read["logit"].to_numpy(float)
    score_N = calibration.apply(logit_N)
    weight_N = class_weights(label_N)
    verdict_N = np.array([calibration.decide(score) for score in score_N])
    real_N, fake_N = label_N == 0, label_N == 1
    return {
        "ece_before": calibration_error(label_N, expit(logit_N), weights_N=weight_N),
        "ece_after": calibration_error(label_N, score_N, weights_N=weight_N),
        "bal_at_0.5": balanced(expit(logit_N) >= 0.5, label_N),
        "bal_after": balanced(score_N >= calibration.threshold("balanced"), label_N),
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
