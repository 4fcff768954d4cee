"""What a refit changed: figures of the images kept for judging and of held-out images, before and after.

Shape suffix: N images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from evaluation.calibrate import calibrate
from evaluation.intervals import wilson
from gapl.calibration import Calibration, score_of
from gapl.labels import Label
from gapl.verdict import decision_rule
from prototype.rehearsal import Seen

FEW = 5  # images: of fewer, a family or style has no row of its own
NEW, OLD = "new", "old"


@dataclass(frozen=True)
class Judge:
    """Logits of a detector for images, and what its file says of logits."""

    logit_N: np.ndarray
    calibration: Calibration | None
    threshold: float

    def labels(self) -> np.ndarray:
        """Return for each image what a user is told: "real", "fake" or "unsure"."""
        rule = decision_rule(self.calibration, threshold=self.threshold)
        return rule.labels(score_of(self.logit_N, self.calibration))


@dataclass(frozen=True)
class Row:
    """How many of some images were right.

    group         "new" images, which were kept for judging; or "old" ones, which training held out
    low, high     95 % interval of `after` (Wilson)
    """

    group: str
    name: str
    label: str
    images: int
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True)
class Changes:
    """All that a refit changed.

    overall  name of a figure of the held-out images -> before, after
    flips    the share of held-out images of which a user is told something else: real, unsure or fake
    unsure   the share of held-out images that are unsure, before and after
    """

    rows: tuple[Row, ...]
    overall: dict[str, tuple[float, float]]
    flips: float
    unsure: tuple[float, float]

    @property
    def loss(self) -> float:
        """Return the largest fall of AUROC, of real images that are right, and of fakes that are right."""
        return max(0.0, *(before - after for before, after in self.overall.values()))

    def text(self) -> str:
        """Return it as a table for a terminal."""
        lines = [f"{'':46s} images  before  after"]
        for row in self.rows:
            name = (
                f"{row.label} {row.name}, kept for judging"
                if row.group == NEW
                else f"held-out {row.label}: {row.name}"
            )
            interval = f"  [{row.low:.2f}, {row.high:.2f}]" if row.group == NEW else ""
            lines.append(f"{name[:46]:46s} {row.images:6d} {row.before:7.2f} {row.after:6.2f}{interval}")
        for name, (before, after) in self.overall.items():
            lines.append(f"{f'all held-out images, {name}':46s} {'':6s} {before:7.3f} {after:6.3f}")
        lines.append(f"{'all held-out images, unsure':46s} {'':6s} {self.unsure[0]:7.3f} {self.unsure[1]:6.3f}")
        if all(row.after <= row.before for row in self.rows if row.group == NEW):
            lines.append("of the new images kept for judging, none is right that was not before")
        return "\n".join([*lines, f"verdicts of held-out images that change: {self.flips:.1%}"])

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        overall = {name: {"before": before, "after": after} for name, (before, after) in self.overall.items()}
        return {
            "rows": [asdict(row) for row in self.rows],
            "overall": overall,
            "flips": self.flips,
            "unsure": {"before": self.unsure[0], "after": self.unsure[1]},
            "loss": self.loss,
        }


def compare(
    held_out: Seen, new: Seen, *, before: Callable[[Seen], Judge], after: Callable[[Seen], Judge]
) -> Changes:
    """Compare two detectors on the images that training held out, and on new ones."""
    right_new, right_old = ([_right(judge(seen), seen) for judge in (before, after)] for seen in (new, held_out))
    label_N = held_out.labels_N.numpy()
    kinds = [kind or "not known" for kind in held_out.kinds]
    rows = [
        *_rows(NEW, new.names, new.labels_N.numpy(), right_new, least=1),
        *_rows(OLD, kinds, label_N, right_old, least=FEW),
    ]
    aurocs = [float(roc_auc_score(label_N, judge(held_out).logit_N)) for judge in (before, after)]
    overall = {"AUROC": (aurocs[0], aurocs[1])}
    for label, what in ((Label.REAL, "real images right"), (Label.FAKE, "fakes right")):
        shares = [float(right_N[label_N == label].mean()) for right_N in right_old]
        overall[what] = (shares[0], shares[1])
    told = [judge(held_out).labels() for judge in (before, after)]
    unsure = [float((labels_N == "unsure").mean()) for labels_N in told]
    return Changes(tuple(rows), overall, float((told[0] != told[1]).mean()), (unsure[0], unsure[1]))


def _right(judge: Judge, seen: Seen) -> np.ndarray:
    """Return for each image whether its label is found, where none may be unsure."""
    called_fake_N = score_of(judge.logit_N, judge.calibration) >= judge.threshold
    return np.asarray(called_fake_N == (seen.labels_N.numpy() == Label.FAKE))


def _rows(
    group: str, names: Sequence[str], label_N: np.ndarray, right: Sequence[np.ndarray], *, least: int
) -> list[Row]:
    """Return a row for each name of either class that has enough images, fakes first."""
    rows, name_N = [], np.array(names)
    for label in (Label.FAKE, Label.REAL):
        for name in sorted(set(name_N[label_N == label])):
            chosen_N = (label_N == label) & (name_N == name)
            if (count := int(chosen_N.sum())) < least:
                continue
            before, after = (float(right_N[chosen_N].mean()) for right_N in right)
            low, high = (float(end) for end in wilson(int(right[1][chosen_N].sum()), count))
            rows.append(Row(group, str(name), label.word, count, before, after, low, high))
    return rows


def recalibrate(logit_N: np.ndarray, held_out: Seen) -> Calibration:
    """Fit a calibration to the logits of held-out images. Raises ValueError when they are too few."""
    sums = [f"{each & (1 << 64) - 1:016x}" for each in held_out.hashes_N.tolist()]
    labels = held_out.labels_N.numpy()
    frame = pd.DataFrame({"uri": sums, "content_sha256": sums, "label": labels, "logit": logit_N, "error": ""})
    return calibrate(frame)
