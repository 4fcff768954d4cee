"""Measure whether a calibration holds on generators and real sources that it has not seen, from scores alone.

    python studies/calibration.py runs/benchmarks/scores.parquet
    python studies/calibration.py runs/leave-out/scores.parquet --share 0.1 --splits 200

The sources of a table are halved; a calibration is fitted to one half and judged on the other, and the other way
round, for --splits seeds. With --share, it is fitted to that share of the sources and judged on the others.

Each row shows the calibration error before and after, with both classes weighing the same; balanced accuracy at a
logit of 0, at the fitted threshold "balanced", and at the threshold that was best on the images of the fit; false
alarms and fakes found at the operating point fpr5; the share of unsure images, and the errors outside of the band.
The last line says what was promised. Draws with too few images for a calibration are left out, and counted.

Shape suffixes: N images, T thresholds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from data.images.degrade import CLEAN
from gapl import cli
from gapl.calibration import BALANCED, METHODS, Calibration, score_of
from gapl.labels import Label
from gapl.verdict import decision_rule

if TYPE_CHECKING:
    import pandas as pd

FPR = 0.05


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", help="which detector of the table; default: the first")
    parser.add_argument("--benchmark", help="which benchmark of the table; default: all together")
    parser.add_argument("--method", choices=METHODS, default="platt")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--share", type=float, help="of the sources to fit to; default: halves, both ways")
    parser.add_argument("--splits", type=int, default=5)
    args = parser.parse_args()
    frame = read_clean(args.table, model=args.model, benchmark=args.benchmark)
    rows, too_few = [], 0
    for seed, way, fitted_on, judged_on in splits(frame, share=args.share, count=args.splits):
        if args.share is not None and not is_enough(fitted_on, rate=min(FPR, args.alpha)):
            too_few += 1
            continue
        numbers = fit_and_judge(fitted_on, judged_on, method=args.method, alpha=args.alpha)
        rows.append({"split": seed, "way": way, **numbers})
    if not rows:
        raise ValueError(f"{args.table}: no draw has enough images to fit to; pass a larger --share")
    show(rows, too_few=too_few)
    print(f"promised: fpr5 at most .05; errors outside of the band at most {args.alpha} of each class")


def read_clean(path: Path, *, model: str | None, benchmark: str | None) -> pd.DataFrame:
    """Return the rows of one detector without degradation, of one benchmark or all."""
    from evaluation.tables.scores import read_scores

    scores = read_scores(path)
    frame = scores.frame[scores.frame["degradation"] == CLEAN]
    frame = frame[frame["model"] == (model or scores.models[0])]
    return frame[frame["benchmark"] == benchmark] if benchmark else frame


def splits(
    frame: pd.DataFrame, *, share: float | None, count: int
) -> Iterator[tuple[int, str, pd.DataFrame, pd.DataFrame]]:
    """Yield (seed, "a" or "b", images to fit to, images to judge on); halves are used both ways."""
    from evaluation.calibrate import split_by_source

    for seed in range(count):
        first, second = split_by_source(frame, seed=seed, share=0.5 if share is None else share)
        yield seed, "a", first, second
        if share is None:
            yield seed, "b", second, first


def is_enough(frame: pd.DataFrame, *, rate: float) -> bool:
    """Return whether each class has enough images for a calibration that promises this error rate."""
    from evaluation.calibrate import MIN_IMAGES, images_needed

    counts = frame.loc[frame["error"] == "", "label"].value_counts().reindex(list(Label), fill_value=0)
    return int(counts.min()) >= max(MIN_IMAGES, images_needed(rate))


def fit_and_judge(
    fitted_on: pd.DataFrame, judged_on: pd.DataFrame, *, method: str, alpha: float
) -> dict[str, float]:
    """Calibrate on some images, and return the figures of a row on the others."""
    from evaluation.calibrate import calibrate

    calibration = calibrate(fitted_on, method=method, alpha=alpha, fprs=(FPR,))
    logit_N, label_N = logits_of(fitted_on)
    best = best_threshold(calibration.apply(logit_N), label_N)
    logit_N, label_N = logits_of(judged_on)
    return judge(calibration, logit_N, label_N, best=best)


def logits_of(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return logit_N and label_N of the images that could be read."""
    read = frame[frame["error"] == ""]
    return read["logit"].to_numpy(float), read["label"].to_numpy(int)


def best_threshold(score_N: np.ndarray, label_N: np.ndarray) -> float:
    """Return the middle between the two neighbouring scores where balanced accuracy is best."""
    from sklearn.metrics import roc_curve

    fpr_T, tpr_T, lowest_fake_T = roc_curve(label_N, score_N, drop_intermediate=False)
    best = int((tpr_T - fpr_T)[:-1].argmax())  # the last: all called fake
    return float((lowest_fake_T[best] + lowest_fake_T[best + 1]) / 2)


def judge(calibration: Calibration, logit_N: np.ndarray, label_N: np.ndarray, *, best: float) -> dict[str, float]:
    """Return the figures of a row."""
    from evaluation.calibrate import class_weights
    from evaluation.metrics import calibration_error

    before_N, score_N = score_of(logit_N), calibration.apply(logit_N)
    weight_N = class_weights(label_N)
    verdict_N = decision_rule(calibration).labels(score_N)
    real_N, fake_N = label_N == Label.REAL, label_N == Label.FAKE
    above_N = score_N >= calibration.threshold("fpr5")
    return {
        "ece_before": calibration_error(label_N, before_N, weights_N=weight_N),
        "ece_after": calibration_error(label_N, score_N, weights_N=weight_N),
        "bal_at_0.5": balanced(before_N >= 0.5, label_N),
        "bal_after": balanced(score_N >= calibration.threshold(BALANCED), label_N),
        "bal_at_best": balanced(score_N >= best, label_N),
        "fpr5": float(above_N[real_N].mean()),
        "tpr_at_fpr5": float(above_N[fake_N].mean()),
        "unsure": float((verdict_N == "unsure").mean()),
        "real_as_fake": float((verdict_N[real_N] == "fake").mean()),
        "fake_as_real": float((verdict_N[fake_N] == "real").mean()),
    }


def balanced(called_N: np.ndarray, label_N: np.ndarray) -> float:
    """Return the balanced accuracy of images that are called fake or not."""
    return float((called_N[label_N == Label.FAKE].mean() + (~called_N[label_N == Label.REAL]).mean()) / 2)


def show(rows: list[dict[str, Any]], *, too_few: int) -> None:
    """Print a row for each draw, and the mean and spread of each figure over all draws."""
    import pandas as pd

    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    numbers = table.drop(columns=["split", "way"])
    left_out = f", {too_few} with too few images left out" if too_few else ""
    print(f"\nmean and spread over all {len(table)}{left_out}:")
    columns = {"mean": numbers.mean(), "sd": numbers.std(), "min": numbers.min(), "max": numbers.max()}
    print(pd.DataFrame(columns).to_string(float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    cli.run(main)
