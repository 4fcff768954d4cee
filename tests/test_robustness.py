"""Scores of clean and degraded images -> figures, falls, flips, worst cases, curves: by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from data.images.degrade import CLEAN
from evaluation.robustness import COLUMNS, curves, matrix, robustness_table, to_text, worst_cases
from evaluation.tables.scores import DetectorEntry, ScoreTable
from gapl.calibration import Calibration


def rows(degradation: str, scores: dict[str, float], **other: str) -> list[dict[str, Any]]:
    """Images are named r... or f... for what they are; a score of NaN is one that could not be read."""
    fixed = {"benchmark": "bench", "model": "ours", "degradation": degradation} | other
    return [
        {
            "uri": uri,
            "label": int(uri.startswith("f")),
            "score": score,
            "error": "damaged image" if math.isnan(score) else "",
        }
        | fixed
        for uri, score in scores.items()
    ]


WHOLE = {"r1": 0.1, "r2": 0.2, "f1": 0.8, "f2": 0.9}
JPEG = {"r1": 0.1, "r2": 0.7, "f1": 0.3, "f2": 0.9}
BLUR = {"r1": 0.1, "r2": 0.2, "f1": 0.15, "f2": 0.3}


def example() -> pd.DataFrame:
    listed = [*rows("jpeg:50", JPEG), *rows("blur:2", BLUR), *rows(CLEAN, WHOLE), *rows("jpeg:90", WHOLE)]
    return pd.DataFrame(listed)


def table_of(frame: pd.DataFrame, **detectors: DetectorEntry) -> pd.DataFrame:
    return robustness_table(ScoreTable(frame, {}, detectors))


def calibrated(*, threshold: float, low: float, high: float) -> DetectorEntry:
    points = {"balanced": threshold}
    calibration = Calibration("platt", 1.0, 0.0, points, low, high, 0.05, 100, 100, 0.1, 0.05, "0" * 64)
    return DetectorEntry("", "", threshold=threshold, calibration=calibration)


def test_figures_falls_and_flips_by_hand() -> None:
    table = table_of(example())
    assert list(table.columns) == list(COLUMNS)
    assert list(table["degradation"]) == [CLEAN, "jpeg:50", "jpeg:90", "blur:2"]
    by_name = table.set_index("degradation")
    for name in (CLEAN, "jpeg:90"):
        assert by_name.loc[name, ["auroc", "balanced_accuracy"]].tolist() == [1, 1]
        assert by_name.loc[name, ["auroc_fall", "flips", "real_to_fake"]].tolist() == [0, 0, 0]
    jpeg = by_name.loc["jpeg:50"]
    assert jpeg[["auroc", "balanced_accuracy"]].tolist() == [0.75, 0.5]
    assert jpeg[["auroc_fall", "balanced_accuracy_fall"]].tolist() == [0.25, 0.5]
    assert jpeg[["n_paired", "flips", "real_to_fake", "fake_to_real"]].tolist() == [4, 0.5, 0.25, 0.25]
    blur = by_name.loc["blur:2"]
    assert blur[["auroc", "balanced_accuracy"]].tolist() == [0.75, 0.5]
    assert blur[["flips", "real_to_fake", "fake_to_real"]].tolist() == [0.5, 0, 0.5]


def test_each_model_has_its_threshold_and_the_threshold_itself_is_fake() -> None:
    frame = pd.DataFrame([*rows(CLEAN, WHOLE), *rows(CLEAN, WHOLE, model="other")])
    entries = {name: DetectorEntry("", "", threshold=each) for name, each in (("ours", 0.8), ("other", 0.81))}
    table = table_of(frame, **entries)
    assert list(table["model"]) == ["ours", "other"]
    assert list(table["balanced_accuracy"]) == [1, 0.75]


def test_flips_that_are_unsure_are_told_apart() -> None:
    """With the threshold .5 and the band from .4 to .6, both ends of which belong to it."""
    clean = {"r1": 0.1, "r2": 0.39, "r3": 0.45, "r4": 0.55, "f1": 0.9, "f2": 0.61, "f3": 0.7, "f4": 0.6}
    now = {"r1": 0.2, "r2": 0.61, "r3": 0.70, "r4": 0.45, "f1": 0.6, "f2": 0.40, "f3": 0.1, "f4": 0.3}
    frame = pd.DataFrame([*rows(CLEAN, clean), *rows("grey", now)])
    table = table_of(frame, ours=calibrated(threshold=0.5, low=0.4, high=0.6)).set_index("degradation")
    # r2, r3, r4, f2, f3 and f4 pass the threshold; only r2 and f3 from one sure verdict to the other.
    assert table.loc["grey", ["flips", "real_to_fake", "fake_to_real"]].tolist() == [6 / 8, 2 / 8, 4 / 8]
    assert table.loc["grey", "flips_sure"] == 2 / 8
    assert table.loc["grey", "unsure"] == 3 / 8  # r4, f1, f2
    assert table.loc[CLEAN, ["flips", "flips_sure", "unsure"]].tolist() == [0, 0, 3 / 8]  # r3, r4, f4
    plain = table_of(frame).set_index("degradation")
    assert plain.loc["grey", ["flips", "flips_sure", "unsure"]].tolist() == [6 / 8, 6 / 8, 0]


def test_a_calibration_without_a_band_is_never_unsure() -> None:
    frame = pd.DataFrame([*rows(CLEAN, {"r1": 0.5, "f1": 0.49}), *rows("grey", {"r1": 0.4, "f1": 0.5})])
    grey = table_of(frame, ours=calibrated(threshold=0.5, low=0.5, high=0.5)).set_index("degradation").loc["grey"]
    assert grey[["flips", "flips_sure", "unsure"]].tolist() == [1, 1, 0]


def test_unreadable_images_are_counted_and_compared_with_nobody() -> None:
    lost = {"r1": 0.1, "r2": math.nan, "f1": 0.3, "f2": 0.9}
    clean = WHOLE | {"f1": math.nan, "f3": 0.1}
    table = table_of(pd.DataFrame([*rows(CLEAN, clean), *rows("jpeg:50", lost)]))
    jpeg = table.set_index("degradation").loc["jpeg:50"]
    assert jpeg[["n_real", "n_fake", "unreadable", "n_paired"]].tolist() == [1, 2, 1, 2]
    assert jpeg["balanced_accuracy"] == 0.75
    assert jpeg["balanced_accuracy_fall"] == 0  # f1 has no clean score, f3 no other: r1 and f2 are left
    assert jpeg["flips"] == 0


def test_one_class_alone_has_flips_but_no_ranking() -> None:
    frame = pd.DataFrame([*rows(CLEAN, {"f1": 0.8, "f2": 0.9}), *rows("blur:1", {"f1": 0.1, "f2": 0.9})])
    blur = table_of(frame).set_index("degradation").loc["blur:1"]
    assert math.isnan(blur["auroc"])
    assert math.isnan(blur["balanced_accuracy_fall"])
    assert blur["fake_to_real"] == 0.5
    assert worst_cases(table_of(frame)).empty


def test_nothing_read_gives_no_figures() -> None:
    frame = pd.DataFrame([*rows(CLEAN, WHOLE), *rows("avif:60", dict.fromkeys(WHOLE, math.nan))])
    avif = table_of(frame).set_index("degradation").loc["avif:60"]
    assert avif[["n_real", "n_fake", "unreadable", "n_paired"]].tolist() == [0, 0, 4, 0]
    assert avif[["auroc", "balanced_accuracy", "flips", "flips_sure", "unsure"]].isna().all()


def test_no_clean_scores_and_two_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="bench, ours: no scores for 'none' to compare jpeg:50 with"):
        table_of(pd.DataFrame(rows("jpeg:50", JPEG)))
    with pytest.raises(ValueError, match=r"r1 has two scores for 'none' \(bench, ours\); expected one"):
        table_of(pd.concat([example(), example()[8:9]]))


def test_matrix_and_its_mean() -> None:
    fakes_only = [*rows(CLEAN, {"f9": 0.9}, benchmark="c"), *rows("jpeg:50", {"f9": 0.9}, benchmark="c")]
    parts = [*rows(CLEAN, WHOLE, benchmark="b"), *rows(CLEAN, WHOLE, benchmark="a")]
    parts += [*rows("jpeg:50", JPEG, benchmark="b"), *rows("jpeg:50", WHOLE, benchmark="a"), *fakes_only]
    table = table_of(pd.DataFrame(parts))
    wide = matrix(table, model="ours", figure="balanced_accuracy")
    assert list(wide.index) == ["b", "a", "c", "mean"]
    assert list(wide.columns) == [CLEAN, "jpeg:50"]
    assert wide["jpeg:50"].iloc[[0, 1, 3]].tolist() == [0.5, 1, 0.75]
    assert wide.loc["c"].isna().all()
    assert matrix(table, model="ours", figure="flips").loc["c"].tolist() == [0, 0]
    assert "mean" not in matrix(table[table["benchmark"] == "b"], model="ours", figure="flips").index


def test_worst_case() -> None:
    frame = pd.concat([example(), pd.DataFrame(rows("gamma:2", BLUR | {"f2": 0.05}))])
    worst = worst_cases(table_of(frame)).set_index("figure")
    assert worst.loc["auroc", ["clean", "worst", "fall", "degradation"]].tolist() == [1, 0.25, 0.75, "gamma:2"]
    # All fall to one half: the first in the table is named.
    assert worst.loc["balanced_accuracy", ["worst", "degradation"]].tolist() == [0.5, "jpeg:50"]


def test_curves_run_by_strength_and_know_the_clean_value() -> None:
    frame = pd.concat([example(), pd.DataFrame([*rows("social", WHOLE), *rows("sepia:3", WHOLE)])])
    points = curves(table_of(frame))
    assert set(points["family"]) == {"jpeg", "blur"}
    jpeg = points[points["family"] == "jpeg"]
    assert jpeg["strength"].tolist() == [50, 90]
    assert jpeg["auroc"].tolist() == [0.75, 1]
    assert jpeg["clean"].tolist() == [1, 1]
    assert set(jpeg["unit"]) == {"quality"}


def test_deliveries_are_written_in_words_unless_others_are_among_them() -> None:
    delivered = pd.DataFrame([*rows(CLEAN, WHOLE), *rows("enlarged_thumbnail:128", JPEG), *rows("grey", WHOLE)])
    text = to_text(table_of(delivered))
    assert "thumbnail of 128 px enlarged to 512" in text.splitlines()[2]
    assert "worst auroc 1.000 -> 0.750 (thumbnail of 128 px enlarged to 512)" in text
    assert "as it is" in text
    assert CLEAN not in text
    mixed = to_text(table_of(pd.concat([delivered, pd.DataFrame(rows("blur:2", BLUR))])))
    assert "enlarged_thumbnail:128" in mixed
    assert "thumbnail of" not in mixed


def test_input_is_left_alone() -> None:
    frame = example()
    before = frame.copy()
    worst_cases(table_of(frame))
    pd.testing.assert_frame_equal(frame, before)
