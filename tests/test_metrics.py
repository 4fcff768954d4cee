"""Labels and scores -> figures, scored benchmarks -> table, rows -> parquet and back."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.catalog import Absent, Benchmark, Subset
from data.loaders import Batch, Failure
from data.records import Label, Manifest, Record
from evaluation.metrics import RATES, Metrics, compute_metrics, mean_metrics, metrics_of
from evaluation.predict import ScoreRow, predict, write_scores
from evaluation.report import COLUMNS, make_table, to_text
from models.backbone import TINY, load_backbone
from models.detector import Output, Stage1Detector


def row(uri: str, label: int, score: float, error: str = "") -> ScoreRow:
    if error:
        return ScoreRow(uri, label, "generator", math.nan, math.nan, 0, 0, error)
    return ScoreRow(uri, label, "generator", math.log(score / (1 - score)), score, 64, 48)


# ---------------------------------------------------------------------------------------------------------
# Metrics


def test_by_hand() -> None:
    """Ranked: 0.9 fake, 0.8 real, 0.7 fake, 0.4 real, 0.3 fake, 0.1 real."""
    labels_N = np.array([1, 0, 1, 0, 1, 0])
    scores_N = np.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.1])
    found = compute_metrics(labels_N, scores_N, threshold=0.5)
    expected = Metrics(
        n_real=3,
        n_fake=3,
        accuracy=4 / 6,
        real_accuracy=2 / 3,
        fake_accuracy=2 / 3,
        balanced_accuracy=2 / 3,
        ap=(1 / 1 + 2 / 3 + 3 / 5) / 3,
        auroc=(3 + 2 + 1) / 9,
    )
    assert asdict(found) == pytest.approx(asdict(expected))


def test_as_scikit_learn_has_it() -> None:
    generator = np.random.default_rng(0)
    labels_N = (generator.random(200) < 0.3).astype(int)
    scores_N: NDArray[np.float64] = np.round(np.clip(generator.normal(0.4 + 0.2 * labels_N, 0.2), 0, 1), 2)
    found = compute_metrics(labels_N, scores_N, threshold=0.6)
    called_N = scores_N >= 0.6
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(labels_N, called_N))
    assert found.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels_N, called_N))
    assert found.ap == pytest.approx(sklearn.metrics.average_precision_score(labels_N, scores_N))
    assert found.auroc == pytest.approx(sklearn.metrics.roc_auc_score(labels_N, scores_N))
    assert found.accuracy != pytest.approx(found.balanced_accuracy, abs=0.01)
    assert (found.n_real, found.n_fake) == (int((labels_N == 0).sum()), int(labels_N.sum()))


def test_ranking_does_not_depend_on_the_threshold() -> None:
    labels_N, scores_N = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.15, 0.3])
    low, high = (compute_metrics(labels_N, scores_N, threshold=t) for t in (0.16, 0.5))
    assert low.ap == high.ap == 1
    assert low.auroc == high.auroc == 1
    assert (low.accuracy, high.accuracy) == (1, 0.5)


def test_score_at_the_threshold_is_fake() -> None:
    at = compute_metrics(np.array([0, 1]), np.array([0.5, 0.5]), threshold=0.5)
    above = compute_metrics(np.array([0, 1]), np.array([0.5, 0.5]), threshold=math.nextafter(0.5, 1))
    assert (at.real_accuracy, at.fake_accuracy) == (0, 1)
    assert (above.real_accuracy, above.fake_accuracy) == (1, 0)


@pytest.mark.parametrize(("label", "known"), [(0, "real_accuracy"), (1, "fake_accuracy")])
def test_single_class(label: int, known: str) -> None:
    found = asdict(compute_metrics(np.full(4, label), np.array([0.1, 0.4, 0.6, 0.9]), threshold=0.5))
    assert found.pop(known) == found.pop("accuracy") == 0.5
    assert {found.pop("n_real"), found.pop("n_fake")} == {0, 4}
    assert set(found.values()) == {None}


@pytest.mark.parametrize("label", [0, 1])
def test_single_class_that_is_all_right_or_all_wrong(label: int) -> None:
    for score in (0.0, 1.0):
        found = compute_metrics(np.full(3, label), np.full(3, score), threshold=0.5)
        assert found.accuracy == (1 if score == label else 0)


def test_no_images() -> None:
    found = compute_metrics(np.array([], dtype=int), np.array([]), threshold=0.5)
    assert found == Metrics(0, 0, *[None] * 6)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match="scores must be finite"):
        compute_metrics(np.array([0, 1]), np.array([0.5, score]), threshold=0.5)


def test_unreadable_images_are_not_counted() -> None:
    rows = [row("a", 0, 0.2), row("b", 1, 0.7), row("c", 1, 0, "damaged")]
    found = metrics_of(rows)
    assert (found.n_real, found.n_fake, found.accuracy) == (1, 1, 1)
    assert metrics_of(rows, threshold=0.8).accuracy == 0.5
    assert metrics_of(rows[2:]) == Metrics(0, 0, *[None] * 6)


def test_mean_leaves_out_what_has_one_class_only() -> None:
    both = [Metrics(10, 10, a, a, a, a, a, a) for a in (0.5, 0.9)]
    recall_only = Metrics(0, 50, 1.0, None, 1.0, None, None, None)
    mean = mean_metrics([both[0], recall_only, both[1]])
    assert [getattr(mean, name) for name in RATES] == pytest.approx([0.7] * 6)
    assert (mean.n_real, mean.n_fake) == (20, 70)


def test_mean_of_recalls_is_a_recall() -> None:
    parts = [Metrics(0, 10, a, None, a, None, None, None) for a in (0.2, 0.4)]
    mean = mean_metrics(parts)
    assert mean.fake_accuracy == mean.accuracy == pytest.approx(0.3)
    assert mean.balanced_accuracy is mean.ap is None


# ---------------------------------------------------------------------------------------------------------
# Predictions


class Constant(Stage1Detector):
    """The mean of an image's pixels is its logit."""

    def __init__(self) -> None:
        super().__init__(load_backbone(TINY).tower)
        self.unused = nn.Identity()

    def forward(self, pixels_BCHW: Tensor) -> Output:
        assert not self.training
        return Output(pixels_BCHW.mean(dim=(1, 2, 3)), torch.empty(0), None)


def test_every_image_is_a_row_whether_it_could_be_read_or_not() -> None:
    records = [Record(str(i), Label(i % 2), f"made by {i}") for i in range(4)]
    pixels_BCHW = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    labels_B = torch.tensor([0.0, 1.0])
    batches = [
        Batch(pixels_BCHW, labels_B, records[:2], [(5, 6), (7, 8)], [Failure(records[2], "damaged image")]),
        Batch(torch.empty(0), torch.empty(0), [], [], [Failure(records[3], "empty")]),
    ]
    rows = predict(Constant(), batches, device="cpu", total=4)
    assert rows[0] == ScoreRow("0", 0, "made by 0", 0.0, 0.5, 5, 6)
    assert rows[1].score == pytest.approx(1 / (1 + math.exp(-2)))
    assert [(r.uri, r.error) for r in rows[2:]] == [("2", "damaged image"), ("3", "empty")]
    assert all(math.isnan(r.score) and math.isnan(r.logit) for r in rows[2:])


def test_scores_come_back_from_parquet(tmp_path: Path) -> None:
    rows = [row("a", 0, 0.25), row("b", 1, 0, "damaged: \u00e9"), row("c", 1, 0.999999)]
    path = tmp_path / "new" / "scores.parquet"
    write_scores(path, rows, benchmark=["X", "X", "Y"])
    table = pq.read_table(path).to_pydict()
    assert table.pop("benchmark") == ["X", "X", "Y"]
    read = [ScoreRow(**dict(zip(table, values, strict=True))) for values in zip(*table.values(), strict=True)]
    assert [read[0], read[2]] == [rows[0], rows[2]]
    assert math.isnan(read[1].score)
    assert read[1].error == rows[1].error
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, [row("a", 0, 0.25)], benchmark=["X"])
    before = path.read_bytes()

    def interrupted(_table: object, where: Path) -> None:
        where.write_bytes(before[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(OSError, match="No space"):
        write_scores(path, [row("a", 0, 0.5)], benchmark=["X"])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------------------
# Report


def subset(name: str, uris: str, *, shared: bool = False) -> Subset:
    """Images called r... are photographs, f... are fakes."""
    records = [Record(uri, Label.FAKE if uri[0] == "f" else Label.REAL, name) for uri in uris.split()]
    return Subset(name, Manifest(name, tuple(records)), reals_shared=shared)


def scored(**scores: float | str) -> list[ScoreRow]:
    return [
        row(
            uri,
            int(uri[0] == "f"),
            0.5 if isinstance(value, str) else value,
            value if isinstance(value, str) else "",
        )
        for uri, value in scores.items()
    ]


@pytest.fixture
def table() -> pd.DataFrame:
    """A benchmark of two subsets that share photographs, a single one, one of fakes only, one that is absent."""
    found = [
        Benchmark("Two", (subset("a", "r1 r2 f1 f2"), subset("b", "r1 r2 f3 f4", shared=True)), ("c", "d")),
        Absent("Gone", "not found: no folder Gone with images in /data"),
        Benchmark("One", (subset("One", "r5 f5"),)),
        Benchmark("Fakes", (subset("x", "f6"), subset("y", "f7"))),
    ]
    scores = {
        "Two": scored(r1=0.1, r2=0.6, f1=0.9, f2=0.9, f3=0.2, f4="damaged"),
        "One": scored(r5=0.2, f5=0.9),
        "Fakes": scored(f6=0.9, f7=0.1),
    }
    return make_table(found, scores, threshold=0.5)


def test_rows_of_the_table(table: pd.DataFrame) -> None:
    assert list(table.columns) == list(COLUMNS)
    assert list(zip(table["benchmark"], table["subset"], strict=True)) == [
        ("Two", "a"),
        ("Two", "b"),
        ("Two", "mean"),
        ("Two", "all images"),
        ("Gone", "-"),
        ("One", "One"),
        ("Fakes", "x"),
        ("Fakes", "y"),
        ("Fakes", "mean"),
        ("Fakes", "all images"),
        ("MEAN", "mean"),
    ]


def test_figures_of_the_table(table: pd.DataFrame) -> None:
    def figures(benchmark: str, name: str, *columns: str) -> list[float]:
        of_row = table[(table["benchmark"] == benchmark) & (table["subset"] == name)]
        return [float(of_row[column].item()) for column in columns]

    counts_and_accuracy = ("n_real", "n_fake", "real_accuracy", "fake_accuracy", "balanced_accuracy")
    assert figures("Two", "a", *counts_and_accuracy) == [2, 2, 0.5, 1, 0.75]
    assert figures("Two", "b", *counts_and_accuracy) == [2, 1, 0.5, 0, 0.25]
    assert figures("Two", "mean", "balanced_accuracy", "accuracy") == pytest.approx([0.5, (3 / 4 + 1 / 3) / 2])
    # The photographs, which both subsets are scored against, count once.
    assert figures("Two", "all images", *counts_and_accuracy) == pytest.approx([2, 3, 0.5, 2 / 3, 7 / 12])
    # Of the two benchmarks with both classes: a recall of fakes is no accuracy.
    assert figures("MEAN", "mean", "balanced_accuracy") == pytest.approx([(0.5 + 1) / 2])
    assert figures("Fakes", "mean", "fake_accuracy") == [0.5]


def test_what_is_missing_is_said(table: pd.DataFrame) -> None:
    notes = dict(zip(zip(table["benchmark"], table["subset"], strict=True), table["note"], strict=True))
    assert notes["Two", "mean"] == notes["Two", "all images"] == "without c, d"
    assert notes["Two", "b"] == "shared photographs"
    assert notes["Gone", "-"] == "not found"
    assert notes["MEAN", "mean"] == "of Two, One"
    unreadable = table.set_index(["benchmark", "subset"])["unreadable"]
    assert unreadable["Two", "a"] == 0
    assert unreadable["Two", "b"] == unreadable["Two", "mean"] == unreadable["Two", "all images"] == 1
    assert unreadable["MEAN", "mean"] == 1


def test_single_benchmark_has_no_mean_of_itself() -> None:
    one = Benchmark("One", (subset("One", "r5 f5"),))
    table = make_table([one, Absent("Gone", "not found: x")], {"One": scored(r5=0.2, f5=0.9)}, threshold=0.5)
    assert table["benchmark"].tolist() == ["One", "Gone"]


def test_text_has_a_line_a_row_and_blanks_for_what_is_not_defined(table: pd.DataFrame) -> None:
    lines = to_text(table).splitlines()
    assert len(lines) == 1 + len(table)
    assert "bal_acc" in lines[0]
    assert lines[5].split() == ["Gone", "-", "not", "found"]
    assert "nan" not in to_text(table).lower()
    assert "0.750" in lines[1]
