"""Measure whether a verdict that holds when the image is saved anew is right more often.

    python studies/stability.py FOLDER --out DIR

Each image is judged as it is, and after the re-saves of gapl/explain/stability.py, by all views. DIR/stability.csv
has a row for each image; DIR/stability.md two tables:

- AURC, the area under the risk-coverage curve: the share of errors among the images that are surest, averaged over
  how many of all images these are. Less is better. Images are sorted by the distance of their scores from .5; with
  a rule, those whose verdicts hold in too few re-saves come last; or by the number of re-saves, then by the score
- errors where the verdict holds in so many re-saves, beside those of as many images with the surest scores

An unsure verdict is an error where the class that it leans to is wrong. FOLDER holds class folders; images are
taken from each source in turn. Brackets: 95 % intervals of a bootstrap over images, and Wilson's of shares.

Shape suffixes: N images, R resamples.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.explain.stability import LEAST_HOLDING, RESAVES, check_stability
from gapl.labels import Label
from studies import trial

if TYPE_CHECKING:
    from data.records import Record
    from gapl.detector import Detector

SCORE_ALONE = "score alone"


def main() -> None:
    parser = cli.Parser(__doc__)
    trial.add_options(parser)
    args = parser.parse_args()
    records = trial.in_turn(args, *Label)[: args.images]
    detector = trial.load_detector(args)
    rows = [
        trial.about(each, args) | judged(detector, each)
        for each in tqdm(records, unit="image", dynamic_ncols=True)
    ]
    error_N, sure_N, holds_N = (np.array([row[name] for row in rows]) for name in ("error", "sure", "holds"))
    tables = (
        f"{len(rows)} images, {error_N.sum()} errors",
        aurc_table(error_N, orders_of(sure_N, holds_N), seed=args.seed),
        error_table(error_N, sure_N, holds_N),
    )
    trial.write("stability", rows, "\n\n".join(tables), out=args.out)


def judged(detector: Detector, record: Record) -> dict[str, Any]:
    """Return what a row says of an image."""
    image = trial.read(record)
    verdict = detector(image)
    found = check_stability(detector, image, verdict)
    return {
        "score": verdict.score,
        "label": verdict.label,
        "error": verdict.leaning != record.label.word,
        "sure": abs(verdict.score - 0.5),
        "holds": found.holds,
        **{each.name: each.score for each in found.resaves},
    }


# ---------------------------------------------------------------------------------------------------------
# Risk and coverage


def orders_of(sure_N: np.ndarray, holds_N: np.ndarray) -> dict[str, np.ndarray]:
    """Return, by what images are sorted by, the keys of each image, the first of them last: keys_KN."""
    by_rule = {rule_of(least): np.stack([sure_N, holds_N >= least]) for least in range(1, len(RESAVES) + 1)}
    return {SCORE_ALONE: sure_N[None], **by_rule, "re-saves that hold, then score": np.stack([sure_N, holds_N])}


def rule_of(least: int) -> str:
    """Return the name of the order in which verdicts that hold in fewer re-saves come last."""
    name = f"{least} of {len(RESAVES)} must hold, then score"
    return f"{name} (the rule)" if least == LEAST_HOLDING else name


def aurc(error_N: np.ndarray, keys_KN: np.ndarray) -> float:
    """Return the area under the risk-coverage curve of images that are sorted by the last key first, downwards."""
    surest_first_N = np.lexsort(-keys_KN.astype(float))
    return float((error_N[surest_first_N].cumsum() / np.arange(1, len(error_N) + 1)).mean())


def aurc_table(error_N: np.ndarray, orders: Mapping[str, np.ndarray], *, seed: int) -> str:
    """Return the AURC of each order, and the difference to that of the score alone."""
    from reporting.markdown import to_table

    rows_RN = trial.resampled(len(error_N), seed=seed)
    drawn = {
        name: np.array([aurc(error_N[rows_N], keys_KN[:, rows_N]) for rows_N in rows_RN])
        for name, keys_KN in orders.items()
    }
    own = {name: aurc(error_N, keys_KN) for name, keys_KN in orders.items()}
    lines = [
        [
            name,
            trial.cell(own[name], drawn[name]),
            trial.cell(own[name] - own[SCORE_ALONE], drawn[name] - drawn[SCORE_ALONE], signed=True),
        ]
        for name in orders
    ]
    return to_table(["sorted by", "AURC (less is better)", "against the score alone"], lines, num_texts=1)


def error_table(error_N: np.ndarray, sure_N: np.ndarray, holds_N: np.ndarray) -> str:
    """Return the share of errors by the number of re-saves in which the verdict holds."""
    from reporting.markdown import share, to_table

    surest_first_N = error_N[np.argsort(-sure_N, kind="stable")]
    lines: list[Sequence[str]] = []
    for least in (len(RESAVES), len(RESAVES) - 1):
        num = int((holds_N >= least).sum())
        groups = {
            f"in {least} or more": (error_N[holds_N >= least], surest_first_N[:num]),
            f"in fewer than {least}": (error_N[holds_N < least], surest_first_N[num:]),
        }
        for name, both in groups.items():
            errors = [share(float(each.mean()), len(each)) if len(each) else "" for each in both]
            lines.append([name, str(len(both[0])), *errors])
    return to_table(["the verdict holds", "images", "errors", "of as many by the score"], lines, num_texts=1)


if __name__ == "__main__":
    cli.run(main)
