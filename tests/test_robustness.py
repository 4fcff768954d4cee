"""Scores of clean and degraded images -> figures, falls, flips, worst cases, curves: by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from data.images.degrade import CLEAN
from evaluation.robustness import COLUMNS, curves, matrix, robustness_table, worst_cases


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


def test_figures_falls_and_flips_by_hand() -> None:
    table = robustness_table(example(), thresholds={"ours": 0.5})
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
    table = robustness_table(frame, thresholds={"ours": 0.8, "other": 0.81})
    assert list(table["model"]) == ["ours", "other"]
    assert list(table["balanced_accuracy"]) == [1, 0.75]


def test_unreadable_images_are_counted_and_compared_with_nobody() -> None:
    lost = {"r1": 0.1, "r2": math.nan, "f1": 0.3, "f2": 0.9}
    clean = WHOLE | {"f1": math.nan, "f3": 0.1}
    table = robustness_table(pd.DataFrame([*rows(CLEAN, clean), *rows("jpeg:50", lost)]), thresholds={"ours": 0.5})
    jpeg = table.set_index("degradation").loc["jpeg:50"]
    assert jpeg[["n_real", "n_fake", "unreadable", "n_paired"]].tolist() == [1, 2, 1, 2]
    assert jpeg["balanced_accuracy"] == 0.75
    assert jpeg["balanced_accuracy_fall"] == 0  # f1 has no clean score, f3 no other: r1 and f2 are left
    assert jpeg["flips"] == 0


def test_one_class_alone_has_flips_but_no_ranking() -> None:
    frame = pd.DataFrame([*rows(CLEAN, {"f1": 0.8, "f2": 0.9}), *rows("blur:1", {"f1": 0.1, "f2": 0.9})])
    blur = robustness_table(frame, thresholds={"ours": 0.5}).set_index("degradation").loc["blur:1"]
    assert math.isnan(blur["auroc"])
    assert math.isnan(blur["balanced_accuracy_fall"])
    assert blur["fake_to_real"] == 0.5
    assert worst_cases(robustness_table(frame, thresholds={"ours": 0.5})).empty


def test_nothing_read_gives_no_figures() -> None:
    frame = pd.DataFrame([*rows(CLEAN, WHOLE), *rows("avif:60", dict.fromkeys(WHOLE, math.nan))])
    avif = robustness_table(frame, thresholds={"ours": 0.5}).set_index("degradation").loc["avif:60"]
    assert avif[["n_real", "n_fake", "unreadable", "n_paired"]].tolist() == [0, 0, 4, 0]
    assert avif[["auroc", "balanced_accuracy", "flips"]].isna().all()


def test_no_clean_scores_and_two_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="bench, ours: no scores for 'none' to compare jpeg:50 with"):
        robustness_table(pd.DataFrame(rows("jpeg:50", JPEG)), thresholds={"ours": 0.5})
    with pytest.raises(ValueError, match=r"r1 has two scores for 'none' \(bench, ours\); expected one"):
        robustness_table(pd.concat([example(), example()[8:9]]), thresholds={"ours": 0.5})


def test_matrix_and_its_mean() -> None:
    fakes_only = [*rows(CLEAN, {"f9": 0.9}, benchmark="c"), *rows("jpeg:50", {"f9": 0.9}, benchmark="c")]
    parts = [*rows(CLEAN, WHOLE, benchmark="b"), *rows(CLEAN, WHOLE, benchmark="a")]
    parts += [*rows("jpeg:50", JPEG, benchmark="b"), *rows("jpeg:50", WHOLE, benchmark="a"), *fakes_only]
    table = robustness_table(pd.DataFrame(parts), thresholds={"ours": 0.5})
    wide = matrix(table, model="ours", figure="balanced_accuracy")
    assert list(wide.index) == ["b", "a", "c", "mean"]
    assert list(wide.columns) == [CLEAN, "jpeg:50"]
    assert wide["jpeg:50"].iloc[[0, 1, 3]].tolist() == [0.5, 1, 0.75]
    assert wide.loc["c"].isna().all()
    assert matrix(table, model="ours", figure="flips").loc["c"].tolist() == [0, 0]
    assert "mean" not in matrix(table[table["benchmark"] == "b"], model="ours", figure="flips").index


def test_worst_case() -> None:
    frame = pd.concat([example(), pd.DataFrame(rows("gamma:2", BLUR | {"f2": 0.05}))])
    worst = worst_cases(robustness_table(frame, thresholds={"ours": 0.5})).set_index("figure")
    assert worst.loc["auroc", ["clean", "worst", "fall", "degradation"]].tolist() == [1, 0.25, 0.75, "gamma:2"]
    # All fall to one half: the first in the table is named.
    assert worst.loc["balanced_accuracy", ["worst", "degradation"]].tolist() == [0.5, "jpeg:50"]


def test_curves_run_by_strength_and_know_the_clean_value() -> None:
    frame = pd.concat([example(), pd.DataFrame([*rows("social", WHOLE), *rows("sepia:3", WHOLE)])])
    points = curves(robustness_table(frame, thresholds={"ours": 0.5}))
    assert set(points["family"]) == {"jpeg", "blur"}
    jpeg = points[points["family"] == "jpeg"]
    assert jpeg["strength"].tolist() == [50, 90]
    assert jpeg["auroc"].tolist() == [0.75, 1]
    assert jpeg["clean"].tolist() == [1, 1]
    assert set(jpeg["unit"]) == {"quality"}


def test_input_is_left_alone() -> None:
    frame = example()
    before = frame.copy()
    worst_cases(robustness_table(frame, thresholds={"ours": 0.5}))
    pd.testing.assert_frame_equal(frame, before)
