"""The scores of validation sets, and what is made of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from data.loading.batches import Batch, Failure
from data.records import Record
from evaluation.metrics import Metrics
from gapl.labels import Label
from gapl.names import TINY
from models.detector import Output, Stage1Detector
from models.weights.backbone import load_backbone
from training.validation import ScoreRow, metrics_of, rates_by_source, score_batch


def row(uri: str, label: int, score: float, error: str = "", generator: str = "generator") -> ScoreRow:
    if error:
        return ScoreRow(uri, label, generator, math.nan, math.nan, error=error)
    return ScoreRow(uri, label, generator, math.log(score / (1 - score)), score, 64, 48)


class Constant(Stage1Detector):
    """The mean of an image's pixels is its logit."""

    def __init__(self) -> None:
        super().__init__(load_backbone(TINY).tower)

    def feature(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(1, 2, 3))[:, None]

    def head(self, feature_BD: Tensor) -> Output:
        return Output(feature_BD[:, 0], torch.empty(0), None)


def test_every_image_is_a_row_whether_it_could_be_read_or_not() -> None:
    records = [Record(str(i), Label(i % 2), f"made by {i}") for i in range(4)]
    pixels_BCHW = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    labels_B = torch.tensor([0.0, 1.0])
    batches = [
        Batch(pixels_BCHW, labels_B, records[:2], [(5, 6), (7, 8)], [Failure(records[2], "damaged image")]),
        Batch(torch.empty(0), torch.empty(0), [], [], [Failure(records[3], "empty")]),
    ]
    scored = [each for batch in batches for each in score_batch(Constant(), batch, device="cpu", precision="fp32")]
    assert all(set(each) == {""} for each in scored), "a detector with one view has no fast scores"
    rows = [each[""] for each in scored]
    assert rows[0] == ScoreRow("0", 0, "made by 0", 0.0, 0.5, 5, 6)
    assert rows[1].score == pytest.approx(1 / (1 + math.exp(-2)))
    assert [(r.uri, r.error) for r in rows[2:]] == [("2", "damaged image"), ("3", "empty")]
    assert all(math.isnan(r.score) and math.isnan(r.logit) for r in rows[2:])


def test_unreadable_images_are_not_counted() -> None:
    rows = [row("a", 0, 0.2), row("b", 1, 0.7), row("c", 1, 0, "damaged")]
    found = metrics_of(rows)
    assert (found.n_real, found.n_fake, found.accuracy) == (1, 1, 1)
    assert metrics_of(rows[2:]) == Metrics(0, 0, *[None] * 6)


def test_sources_of_both_classes_have_their_own_accuracy() -> None:
    rows = [
        row("a", 1, 0.9, generator="sd"),
        row("b", 1, 0.5, generator="sd"),
        row("c", 1, 0.4, generator="sd"),
        row("d", 1, 0.4, generator="mj"),
        row("e", 1, 0, "damaged", generator="mj"),
        row("f", 0, 0.5, generator="sd"),
    ]
    assert rates_by_source(rows) == {
        "real": {"sd": {"images": 1, "accuracy": 0.0}},
        "fake": {"mj": {"images": 1, "accuracy": 0.0}, "sd": {"images": 3, "accuracy": pytest.approx(2 / 3)}},
    }
