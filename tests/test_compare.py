"""Two models on the same images: matching, paired intervals, and the tests against worked and simulated cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics

from evaluation.compare import COLUMNS, OVERALL, compare_models, delong, match, mcnemar, to_text
from evaluation.tables.scores import DetectorEntry, ScoreTable


def rows(model: str, uris: list[str], scores: list[float] | np.ndarray, **columns: object) -> pd.DataFrame:
    """Images called r... are real images, f... are fakes."""
    frame = pd.DataFrame({"uri": uris, "model": model, "score": scores, "logit": 0.0})
    frame["label"] = frame["uri"].str.startswith("f").astype(int)
    for name in ("content_sha256", "source", "error"):
        frame[name] = ""
    return frame.assign(**({"benchmark": "X", "degradation": "none"} | columns))


def table(*frames: pd.DataFrame, **thresholds: float) -> ScoreTable:
    detectors = {name: DetectorEntry("", "", threshold=value) for name, value in thresholds.items()}
    return ScoreTable(pd.concat(frames, ignore_index=True), {}, detectors)


def simulated(shift: float, *, num: int = 200) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Image names and the scores of two detectors for which the same are hard; the second is better by `shift`."""
    generator = np.random.default_rng(0)
    labels_N = np.arange(num) % 2
    difficulty_N = generator.normal(size=num)
    logits = [
        difficulty_N + 0.5 * generator.normal(size=num) + (2 * labels_N - 1) * up for up in (0.5, 0.5 + shift)
    ]
    names = [f"{'rf'[label]}{i}" for i, label in enumerate(labels_N)]
    return names, 1 / (1 + np.exp(-logits[0])), 1 / (1 + np.exp(-logits[1]))


# ---------------------------------------------------------------------------------------------------------
# DeLong, McNemar


def test_delong_by_hand() -> None:
    """Fakes 3, 1 and real images 2, 0 by the first; 3, 2 and 1, 0 by the second.

    First: V10 = (1, 1/2), V01 = (1/2, 1), area 3/4; second: all 1, area 1. Differences (0, 1/2) and (1/2, 0) have
    a variance of 1/8 each, so that of the area's difference is 1/16 + 1/16.
    """
    found = delong(np.array([1, 1, 0, 0]), np.array([3.0, 1, 2, 0]), np.array([3.0, 2, 1, 0]))
    assert (found.auroc_a, found.auroc_b) == (0.75, 1)
    assert found.variance == pytest.approx(1 / 8)
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(0.25 / np.sqrt(1 / 8)))


def test_delong_by_every_pair() -> None:
    """The definition: psi of each fake and real image, without ranks."""
    generator = np.random.default_rng(0)
    labels_N = np.repeat([0, 1], [30, 20])
    scores = [np.round(generator.normal(labels_N * up), 1) for up in (0.5, 1.0)]
    psi = [
        np.heaviside(each[labels_N == 1][:, None] - each[labels_N == 0][None, :], 0.5) for each in scores
    ]  # fakes x real images
    covariance = np.cov([p.mean(axis=1) for p in psi]) / 20 + np.cov([p.mean(axis=0) for p in psi]) / 30
    found = delong(labels_N, *scores)
    assert found.variance == pytest.approx(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.auroc_a == pytest.approx(sklearn.metrics.roc_auc_score(labels_N, scores[0]))
    assert found.auroc_b == pytest.approx(sklearn.metrics.roc_auc_score(labels_N, scores[1]))


def test_delong_of_the_same_ranking_and_of_one_class() -> None:
    labels_N, scores_N = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.8])
    assert delong(labels_N, scores_N, scores_N**3).p == 1
    assert delong(labels_N, 1 - labels_N, labels_N).p is None
    with pytest.raises(ValueError, match="needs both classes; got 4 real and 0 fake"):
        delong(np.zeros(4), scores_N, scores_N)


def test_delong_p_is_uniform_without_a_difference() -> None:
    generator = np.random.default_rng(0)
    labels_N = np.arange(100) % 2
    p = [delong(labels_N, *(labels_N + generator.normal(size=(2, 100)))).p for _ in range(300)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_mcnemar_by_hand() -> None:
    """1 against 5: p is twice the chance of at most one head in six throws, 2 * 7 / 64."""
    right_a = np.array([True] * 10 + [False] * 5 + [True])
    right_b = np.array([True] * 10 + [True] * 5 + [False])
    assert mcnemar(right_a, right_b) == (1, 5, pytest.approx(14 / 64))
    assert mcnemar(right_a, right_a) == (0, 0, 1)


# ---------------------------------------------------------------------------------------------------------
# Matching


def test_matched_by_bytes_else_by_name() -> None:
    a = rows("a", ["f1", "f2", "f3", "f4", "f5"], [0.1] * 5, content_sha256=["1", "2", "3", "", "5"])
    b = rows("b", ["f9", "f2", "f3", "f4", "f5"], [0.2] * 5, content_sha256=["1", "8", "", "4", "5"])
    pairs, only_a, only_b = match(a, b)
    # f1 is f9; f2 is the name of two different images; f3 and f4 have a digest on one side only.
    assert list(zip(pairs["uri_a"], pairs["score_b"], strict=True)) == [(f"f{i}", 0.2) for i in (1, 3, 4, 5)]
    assert (only_a, only_b) == (1, 1)


def test_copies_count_once() -> None:
    a = rows("a", ["f1", "f2", "r1"], [0.1, 0.2, 0.3], content_sha256=["1", "1", ""])
    pairs, only_a, only_b = match(a, rows("b", ["f1", "r1"], [0.4, 0.5]))
    assert (len(pairs), only_a, only_b) == (2, 0, 0)


# ---------------------------------------------------------------------------------------------------------
# Rows


def test_a_better_model() -> None:
    names, first_N, second_N = simulated(0.8)
    found = compare_models(table(rows("a", names, first_N), rows("b", names, second_N), a=0.4)).iloc[0]
    labels_N = np.array([name[0] == "f" for name in names])
    areas = [sklearn.metrics.roc_auc_score(labels_N, each) for each in (first_N, second_N)]
    assert (found["auroc_a"], found["auroc_b"]) == (pytest.approx(areas[0]), pytest.approx(areas[1]))
    assert found["auroc_difference"] == pytest.approx(areas[1] - areas[0])
    balanced = sklearn.metrics.balanced_accuracy_score(labels_N, first_N >= 0.4)
    assert found["balanced_accuracy_a"] == pytest.approx(balanced)
    assert 0 < found["auroc_low"] < found["auroc_difference"] < found["auroc_high"]
    assert found["auroc_p"] == pytest.approx(2 / 1001)
    assert found["auroc_p_delong"] < 0.001
    assert found["p_mcnemar"] < 0.05
    # The paired interval agrees with that of DeLong's variance.
    spread = 2 * 1.96 * np.sqrt(delong(labels_N.astype(int), first_N, second_N).variance)
    assert found["auroc_high"] - found["auroc_low"] == pytest.approx(spread, rel=0.15)


def test_the_same_scores_do_not_differ() -> None:
    names, first_N, _ = simulated(0)
    found = compare_models(table(rows("a", names, first_N), rows("b", names, first_N))).iloc[0]
    for name in ("auroc", "balanced_accuracy"):
        assert [found[f"{name}_{part}"] for part in ("difference", "low", "high")] == [0, 0, 0]
    assert found["auroc_p"] == found["auroc_p_delong"] == found["p_mcnemar"] == 1


def test_rows_for_each_benchmark_and_overall() -> None:
    a = [rows("a", ["r1", "f1"], [0.1, 0.9]), rows("a", ["r2", "f2", "f3"], [0.1, 0.9, 0.9], benchmark="Y")]
    b = [rows("b", ["r1", "f1", "f8"], [0.6, 0.9, 0.9]), rows("b", ["r2", "f2"], [0.1, 0.1], benchmark="Y")]
    degraded = rows("b", ["r1"], [0.9], degradation="jpeg:90")
    found = compare_models(table(*a, *b, degraded)).set_index("benchmark")
    assert [*found.columns] == [name for name in COLUMNS if name != "benchmark"]
    assert found[["n_shared", "n_only_a", "n_only_b"]].to_numpy().tolist() == [[2, 0, 1], [2, 1, 0], [4, 1, 1]]
    assert found.index.tolist() == ["X", "Y", OVERALL]
    assert found["only_a_right"].tolist() == [1, 1, 2]
    assert found["p_mcnemar"].tolist() == [1, 1, 0.5]


def test_another_tool_has_one_benchmark_named_as_its_file() -> None:
    a = [rows("a", ["r1", "f1"], [0.1, 0.9]), rows("a", ["r2", "f2"], [0.1, 0.9], benchmark="Y")]
    found = compare_models(table(*a, rows("b", ["r1", "f1", "r2", "f7"], [0.1] * 4, benchmark="tool")))
    assert found["n_shared"].tolist() == [2, 1, 3]
    assert found["n_only_b"].tolist()[2] == 1
    assert found["n_only_b"].isna().tolist() == [True, True, False]
    assert found["note"].tolist() == ["b has no benchmark of this name"] * 2 + [""]


def test_unreadable_and_contradicting_images_are_counted_and_left_out() -> None:
    a = rows("a", ["r1", "r2", "f1", "f2"], [0.1, 0.1, 0.9, np.nan], error=["", "", "", "damaged"])
    b = rows("b", ["r1", "r2", "f1", "f2"], [0.1, 0.1, 0.9, 0.9])
    b.loc[1, "label"] = 1
    found = compare_models(table(a, b)).iloc[0]
    assert found[["n_shared", "unreadable", "n_real", "n_fake"]].tolist() == [4, 1, 1, 1]
    assert found["note"] == "1 images left out whose labels differ"


def test_text() -> None:
    names, first_N, second_N = simulated(0.8)
    text = to_text(compare_models(table(rows("a", names, first_N), rows("b", [*names[:-1], "f"], second_N))))
    lines = text.splitlines()
    assert lines[:2] == [
        "a -> b",
        "X: 199 shared images, 100 real, 99 fake, 1 only in a, 1 only in b; 0 unreadable",
    ]
    assert [line.split()[0] for line in lines[2:]] == ["auroc", "balanced_accuracy", "decisions"]
    assert "DeLong p" in lines[2]
    assert max(map(len, lines)) <= 140
    fakes = table(rows("a", ["f1"], [0.9]), rows("b", ["f1"], [0.1]))
    assert "nan" not in to_text(compare_models(fakes)).lower()


def test_refused() -> None:
    a, b = rows("a", ["r1", "f1"], [0.1, 0.9]), rows("b", ["r1", "f1"], [0.1, 0.9])
    with pytest.raises(ValueError, match="two models are compared, of a; choose them with --models"):
        compare_models(table(a))
    with pytest.raises(ValueError, match="no scores of a model 'c'; the tables hold a, b"):
        compare_models(table(a, b), models=["a", "c"])
    with pytest.raises(ValueError, match="two models"):
        compare_models(table(a, b), models=["a", "a"])
    with pytest.raises(ValueError, match="share no image, by content or uri; the first are 'r1' and 'r9'"):
        compare_models(table(a, rows("b", ["r9"], [0.1])))
    with pytest.raises(
        ValueError, match="2 of 2 shared images have the other label in the second table, first 'r1'"
    ):
        compare_models(table(a, b.assign(label=1 - b["label"])))
