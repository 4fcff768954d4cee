"""A detector that has not seen some generators, and the ways to add these.

Shape suffixes: N images, M judged ones, K of the other class, D width of a feature, P prototypes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from data.records import Manifest
from gapl.labels import Label
from models.detector import PrototypeDetector, build_detector
from models.weights.checkpoint import Checkpoint
from prototype.before_after import recalibrate
from prototype.refit import Head, Refitting, refit, tensors_of
from prototype.rehearsal import Seen, find_directions, parts_of, see

if TYPE_CHECKING:
    from studies.keep_up import Case
    from studies.keep_up_lab import Lab

PER_SOURCE, DIRECTIONS = 4, 128  # of the rehearsal memory
WRONG = 0.1  # of the images that are added
MAX_LOSS = 0.02  # of prototype/add_generator.py
SOME_SIZE = 30  # images of the first draw, which are added in more ways


@dataclass(frozen=True)
class Result:
    """What a way of adding images gave.

    new_right   share of the judged images of the case that are right, at the threshold of the new calibration
    new_auroc   of these against the held-out images of the other class
    old_*       of all held-out images
    """

    way: str
    added: int
    judged: int
    new_right: float
    new_auroc: float
    old_auroc: float
    old_real_right: float
    old_fakes_right: float
    seconds: float


class Base:
    """A detector without some cases, its rehearsal memory, and the ways to add these.

    rows   of the images that it was trained on
    """

    def __init__(self, lab: Lab, checkpoint: Checkpoint, rows: Sequence[int]) -> None:
        self.lab, self.rows = lab, rows
        assert isinstance(checkpoint.detector, PrototypeDetector)
        self.detector, self.config = checkpoint.detector.requires_grad_(False), checkpoint.config
        self.remembered_rows = self._remembered()
        parts = parts_of(self.detector, lab.delivered_ND[0][torch.tensor(self.remembered_rows)])
        self.directions_KD = [find_directions(part_ND, seed=lab.seed, num=DIRECTIONS) for part_ND in parts]
        self.remembered = self.see(self.remembered_rows)
        self.held_out = self._seen(lab.held_out_ND, lab.held_out)
        self.num_real = len(self.detector.prototypes_PE) // 2

    def _remembered(self) -> list[int]:
        """Draw at most PER_SOURCE images of each source."""
        taken: dict[str, int] = {}
        chosen = []
        for row in torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self.lab.seed)).tolist():
            source = str(self.lab.images.records[self.rows[row]].source)
            taken[source] = taken.get(source, 0) + 1
            if taken[source] <= PER_SOURCE:
                chosen.append(self.rows[row])
        return sorted(chosen)

    def see(self, rows: Sequence[int], *, view: int = 0, label: Label | None = None) -> Seen:
        """Return what the detector sees of training images, all of them of a `label` if it is given."""
        chosen = Manifest("some", tuple(self.lab.images.records[row] for row in rows))
        seen = self._seen(self.lab.delivered_ND[view][torch.tensor(rows)], chosen)
        return seen if label is None else replace(seen, labels_N=torch.full((len(rows),), int(label)))

    def _seen(self, features_ND: Tensor, images: Manifest) -> Seen:
        labels_N = torch.tensor([int(record.label) for record in images])
        num = len(images)
        return Seen(
            see(self.detector, features_ND, self.directions_KD), labels_N, torch.zeros(num, dtype=torch.bool),
            torch.arange(num), tuple(record.generator for record in images), ("",) * num,
        )  # fmt: skip

    def try_ways(
        self, case: Case, added: Sequence[int], judged: Sequence[int], *, draw: int, again: Path | None
    ) -> Iterator[Result]:
        """Add images in each way, and judge by others; retrain in `again` where it is a folder."""
        new, others = self.see(added, label=case.label), self.see(judged, label=case.label)
        how = Refitting(seed=draw)

        def judge(way: str, logits: Callable[[Seen], np.ndarray], start: float) -> Result:
            return self.judge(way, logits, others, added=len(added), seconds=time.monotonic() - start)

        start = time.monotonic()
        yield judge("nothing", self._base_head().logits, start)
        yield judge("nearest", self._nearest(new, how), start)
        for way, changed in (
            ("classifier", replace(how, fitted=("classifier",), prototypes=0, steps=30)),
            ("head", how),
        ):
            start = time.monotonic()
            yield judge(way, self.refit(new, how=changed).logits, start)
        if case.label == Label.FAKE and len(added) == SOME_SIZE and not draw:
            start = time.monotonic()
            fitted = ("attention", "classifier", "change_EK")
            yield judge("attention", self.refit(new, how=replace(how, fitted=fitted)).logits, start)
            start = time.monotonic()
            yield judge("wrong", self.refit(self._mislabelled(added, draw=draw), how=how).logits, start)
        if again is not None:
            start = time.monotonic()
            base = self.lab.retrain(self, added, again / f"with-{case.name.replace(' ', '-')}")
            yield base.judge(
                "retrained", base._base_head().logits, base.see(judged, label=case.label), added=len(added),
                seconds=time.monotonic() - start,
            )  # fmt: skip

    def refit(self, new: Seen, *, how: Refitting) -> Head:
        return refit(self.detector, self.remembered, new, num_real=self.num_real, how=how)

    def _base_head(self) -> Head:
        units = [torch.ones(len(each_KD)) for each_KD in self.directions_KD]
        return Head(self.detector, self.detector.prototypes_PE, num_real=self.num_real, units=units)

    def _nearest(self, new: Seen, how: Refitting) -> Callable[[Seen], np.ndarray]:
        """Return by how much the nearest prototype of a fake is nearer than the nearest one of a real image."""
        head = self.refit(new, how=replace(how, steps=0))

        def logits(seen: Seen) -> np.ndarray:
            similarity_NP = head.embed(seen) @ head.prototypes_PE.T
            real_N, fake_N = (part.amax(dim=1) for part in similarity_NP.tensor_split([head.num_real], dim=1))
            return (fake_N - real_N).double().numpy()

        return logits

    def _mislabelled(self, added: Sequence[int], *, draw: int) -> Seen:
        """Return the new images with a tenth of them replaced by remembered real ones, which are called fakes."""
        generator = torch.Generator().manual_seed(draw)
        real = [row for row in self.rows if self.lab.images.records[row].label == Label.REAL]
        count = max(1, round(WRONG * len(added)))
        wrong = [real[place] for place in torch.randperm(len(real), generator=generator)[:count].tolist()]
        return self.see([*added[count:], *wrong], label=Label.FAKE)

    def judge(
        self, way: str, logits: Callable[[Seen], np.ndarray], others: Seen, *, added: int, seconds: float
    ) -> Result:
        """Judge held-out images and others, at the threshold of a calibration to the former; "nearest" has 0."""
        old_N, new_M = logits(self.held_out), logits(others)
        threshold = 0.0
        if way != "nearest":
            calibration = recalibrate(old_N, self.held_out)
            threshold = -calibration.b / calibration.a  # of logits, where the score is .5
        labels_N, label = self.held_out.labels_N.numpy(), int(others.labels_N[0])
        old_right_N = (old_N >= threshold) == (labels_N == 1)
        opposite_K = old_N[labels_N != label]
        truth = np.r_[np.full(len(new_M), label), np.full(len(opposite_K), 1 - label)]
        return Result(
            way,
            added,
            len(others),
            new_right=float(((new_M >= threshold) == (label == 1)).mean()),
            new_auroc=float(roc_auc_score(truth, np.r_[new_M, opposite_K])),
            old_auroc=float(roc_auc_score(labels_N, old_N)),
            old_real_right=float(old_right_N[labels_N == 0].mean()),
            old_fakes_right=float(old_right_N[labels_N == 1].mean()),
            seconds=seconds,
        )

    def add_in_a_row(
        self, drawn: Sequence[tuple[Case, Sequence[int], Sequence[int]]]
    ) -> Iterator[dict[str, object]]:
        """Add one case after the other, and each time judge all of them, and the held-out images.

        What loses more than MAX_LOSS is refused, as prototype/add_generator.py does.
        """
        base, taken, right_C, old = self, np.zeros(len(drawn), dtype=bool), *self._judge_all(drawn)
        yield {"name": "nothing", "refused": False} | _in_row(right_C, taken) | old
        for number, (case, added, _) in enumerate(drawn):
            new = base.taught(base.refit(base.see(added, label=case.label), how=Refitting()), added)
            right_C, now = new._judge_all(drawn)
            refused = max(old[name] - now[name] for name in old) > MAX_LOSS
            if not refused:
                base, old, taken[number] = new, now, True
            yield {"name": case.name, "refused": refused} | _in_row(right_C, taken) | now

    def _judge_all(
        self, drawn: Sequence[tuple[Case, Sequence[int], Sequence[int]]]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Return the share of each of C cases that is right, and figures of the held-out images."""
        logits = self._base_head().logits
        results = [
            self.judge("head", logits, self.see(rows, label=case.label), added=0, seconds=0.0)
            for case, _, rows in drawn
        ]
        names = ("old_auroc", "old_real_right", "old_fakes_right")
        return np.array([each.new_right for each in results]), {name: getattr(results[0], name) for name in names}

    def taught(self, head: Head, added: Sequence[int]) -> Base:
        """Return the detector with a refitted head; it remembers the added images."""
        tensors = tensors_of(head, self.detector, self.directions_KD)
        config = replace(self.config, num_prototypes=len(head.prototypes_PE))
        detector = build_detector(config, self.detector.tower)
        assert isinstance(detector, PrototypeDetector)
        detector.load_state_dict({**detector.state_dict(), **tensors})
        base = copy.copy(self)
        base.config, base.detector, base.num_real = config, detector.eval().requires_grad_(False), head.num_real
        base.remembered_rows = [*self.remembered_rows, *added]
        base.remembered = base.see(base.remembered_rows)
        base.held_out = base._seen(self.lab.held_out_ND, self.lab.held_out)
        return base


def _in_row(right_C: np.ndarray, taken_C: np.ndarray) -> dict[str, float]:
    """Return the mean share that is right, of the cases that were added and of the others."""
    means = {"added": right_C[taken_C], "others": right_C[~taken_C]}
    return {f"{name} right": float(each.mean()) if len(each) else float("nan") for name, each in means.items()}
