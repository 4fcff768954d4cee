"""Held-out scores -> calibration: against scikit-learn, by hand, and its promises on simulated images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from evaluation.calibrate import (
    calibrate,
    check_no_overlap,
    few_of_each_source,
    fit,
    fpr_threshold,
    images_needed,
    is_separable,
    split_by_source,
    unsure_band,
)
from evaluation.metrics import calibration_error
from gapl.verdict import decision_rule


def held_out(
    n_real: int = 300, n_fake: int = 200, *, seed: int = 0, gap: float = 2.0, **other: Any
) -> pd.DataFrame:
    """Logits that overlap, too far apart and off centre: calibrated they are gap * (logit / 3 - 2)."""
    generator = np.random.default_rng(seed)
    label_N = np.repeat([0, 1], [n_real, n_fake])
    logit_N = 3 * (generator.standard_normal(n_real + n_fake) + gap * (label_N - 0.5) + 2)
    contents = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(len(label_N))]
    frame = pd.DataFrame({"uri": contents, "content_sha256": contents, "label": label_N, "logit": logit_N})
    source = np.where(label_N == 1, "gan", "camera")
    return frame.assign(generator=source, source=source, model="ours", degradation="none", error="", **other)


def arrays(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return frame["logit"].to_numpy(), frame["label"].to_numpy()


# ---------------------------------------------------------------------------------------------------------
# Probabilities


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_fit_is_that_of_scikit_learn_without_penalty(method: str) -> None:
    frame = held_out(400, 150)
    found = calibrate(frame, method=method)
    has_b = method == "platt"
    reference = LogisticRegression(
        C=np.inf, fit_intercept=has_b, class_weight="balanced", tol=1e-10, max_iter=1000
    )
    logit_N, label_N = arrays(frame)
    reference.fit(logit_N[:, None], label_N)
    assert found.a == pytest.approx(reference.coef_[0, 0], rel=1e-5)
    assert found.b == pytest.approx(reference.intercept_[0] if has_b else 0, rel=1e-5)
    assert found.apply(logit_N) == pytest.approx(reference.predict_proba(logit_N[:, None])[:, 1], rel=1e-4)


def test_what_made_the_data_is_found_and_the_calibration_error_falls() -> None:
    found = calibrate(held_out(20_000, 5_000))
    assert found.a == pytest.approx(2 / 3, rel=0.05)
    assert found.b == pytest.approx(-4, rel=0.05)
    assert found.ece_after < 0.02 < 0.2 < found.ece_before
    fresh = held_out(5_000, 5_000, seed=1)
    score_N = found.apply(fresh["logit"].to_numpy())
    assert calibration_error(fresh["label"].to_numpy(), score_N) < 0.02


def test_scale_and_centre_of_logits_do_not_matter() -> None:
    frame = held_out()
    moved = frame.assign(logit=frame["logit"] * 1e-4 + 1000)
    before, after = calibrate(frame), calibrate(moved)
    assert after.a == pytest.approx(before.a * 1e4, rel=1e-4)
    assert after.apply(moved["logit"].to_numpy()) == pytest.approx(
        before.apply(frame["logit"].to_numpy()), abs=1e-5
    )


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_images_without_error_get_finite_scores_that_the_note_explains(method: str) -> None:
    frame = held_out(100, 100).assign(logit=np.linspace(-3, 3, 200))
    assert is_separable(*arrays(frame), method=method)
    found = calibrate(frame, method=method)
    score_N = found.apply(frame["logit"].to_numpy())
    assert 0 < score_N.min() < 0.05
    assert 0.95 < score_N.max() < 1
    assert "targets were smoothed" in found.note


def test_separable_only_where_a_threshold_makes_no_error() -> None:
    label_N = np.array([0, 0, 1, 1])
    apart = np.array([1.0, 2, 3, 4])
    assert is_separable(apart, label_N, method="platt")
    assert is_separable(np.array([1.0, 2, 2, 4]), label_N, method="platt")
    assert not is_separable(np.array([1.0, 3, 2, 4]), label_N, method="platt")
    assert not is_separable(apart, label_N, method="temperature")
    assert is_separable(apart - 2.5, label_N, method="temperature")


def test_smoothed_targets_are_the_maximum_of_platts_likelihood() -> None:
    logit_N, label_N = np.array([-2.0, -1, 1, 2, 3]), np.array([0, 0, 1, 1, 1])
    a, b = fit(logit_N, label_N, method="platt", weight_N=np.ones(5))
    residual_N = expit(a * logit_N + b) - np.where(label_N == 1, 4 / 5, 1 / 4)
    assert np.abs([residual_N.sum(), (residual_N * logit_N).sum()]).max() < 1e-6


# ---------------------------------------------------------------------------------------------------------
# Thresholds


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.001, 999), (0.3, 3), (0.07, 14)]
)
def test_images_that_a_rate_needs(rate: float, needed: int) -> None:
    assert images_needed(rate) == needed
    threshold = fpr_threshold(np.linspace(0.1, 0.9, needed), fpr=rate)
    assert 0.9 - 0.8 / needed < threshold <= np.nextafter(0.9, 1)
    with pytest.raises(ValueError, match=f"needs {needed} images, not {needed - 1}"):
        fpr_threshold(np.linspace(0.1, 0.9, needed - 1), fpr=rate)


def test_quantile_by_hand() -> None:
    real_N = np.arange(1, 200) / 1000  # 199: rank ceil(200 * 0.95) = 190
    assert fpr_threshold(real_N, fpr=0.05) == np.nextafter(0.19, 1)
    assert fpr_threshold(np.full(40, 0.3), fpr=0.05) == np.nextafter(0.3, 1)
    with pytest.raises(ValueError, match="more than 5 % of 40 real images score 1; no threshold is above"):
        fpr_threshold(np.ones(40), fpr=0.05)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_from_the_balanced_threshold_on_a_fake_is_likelier(method: str) -> None:
    """Half, since both classes weigh the same."""
    assert calibrate(held_out(400, 150), method=method).threshold("balanced") == 0.5


def test_the_balanced_threshold_is_the_best_one_of_what_made_the_data() -> None:
    """Two normal distributions of the same spread: the best threshold is in the middle between their means."""
    found = calibrate(held_out(20_000, 5_000))
    middle = 3 * 2.0
    assert found.apply(np.array([middle])) == pytest.approx(found.threshold("balanced"), abs=0.02)


def test_band_by_hand() -> None:
    steps_N = np.arange(1, 20) / 100  # 19 at 5 %: the outermost score
    assert unsure_band(steps_N + 0.5, steps_N + 0.3, alpha=0.05) == (0.31, 0.69)
    low, high = unsure_band(steps_N, steps_N + 0.7, alpha=0.05)
    assert low == high == pytest.approx((0.19 + 0.71) / 2)
    low, high = unsure_band(np.full(19, 0.4), np.full(19, 0.4), alpha=0.05)
    assert low < 0.4 <= high


def test_promises_hold_on_images_of_the_same_kind() -> None:
    """Means over draws of the held-out images: at most the rate, and not far below it. Ties included."""
    errors = []
    for seed in range(300):
        found = calibrate(held_out(120, 60, seed=seed, gap=1.5).round({"logit": 1}))
        fresh = held_out(400, 400, seed=1000 + seed, gap=1.5).round({"logit": 1})
        score_N = found.apply(fresh["logit"].to_numpy())
        real_N = score_N[:400]
        verdicts = decision_rule(found).labels(score_N)
        assert "unsure" in verdicts
        called_N = [real_N >= found.threshold("fpr1"), real_N >= found.threshold("fpr5")]
        errors.append([part.mean() for part in (*called_N, verdicts[:400] == "fake", verdicts[400:] == "real")])
    fpr1, fpr5, real_called_fake, fake_called_real = np.mean(errors, axis=0)
    assert 0.005 < fpr1 < 0.0115
    assert 0.04 < fpr5 < 0.053
    assert 0.04 < real_called_fake < 0.053
    assert 0.035 < fake_called_real < 0.053


def test_promises_hold_when_the_bounds_cross() -> None:
    errors = []
    for seed in range(200):
        found = calibrate(held_out(120, 60, seed=seed, gap=4.5))
        fresh = held_out(300, 300, seed=1000 + seed, gap=4.5)
        verdicts = decision_rule(found).labels(found.apply(fresh["logit"].to_numpy()))
        assert ("unsure" in verdicts) <= decision_rule(found).has_band
        errors.append([(verdicts[:300] == "fake").mean(), (verdicts[300:] == "real").mean()])
    assert np.max(np.mean(errors, axis=0)) < 0.05


# ---------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (held_out(98), {}, "98 real images held out, but an error rate of 1 % needs 99"),
        (held_out(30, 18), {"fprs": ()}, "18 fakes held out, but a fit needs 20"),
        (held_out(99, 80), {"alpha": 0.01}, "80 fakes held out, but an error rate of 1 % needs 99"),
        (held_out(200, 0), {}, "0 fakes held out"),
        (held_out(0, 200), {}, "0 real images held out"),
        (held_out(gap=-1), {}, "the best slope is -.*: fakes do not score above real images"),
        (held_out().assign(logit=1.5), {}, "all 500 images have the logit 1.5"),
        (
            held_out(),
            {"method": "isotonic"},
            "unknown calibration method 'isotonic'; choose from temperature, platt",
        ),
        (held_out(), {"alpha": 0.5}, "error rate 0.5; expected a number above 0 and below 0.5"),
        (held_out(), {"fprs": (0,)}, "error rate 0; expected"),
        (held_out().assign(label=2), {}, r"labels \[2\]; expected 0 \(real\) and 1 \(fake\)"),
        (held_out().assign(logit=np.nan), {}, "500 of 500 images have a logit that is not finite"),
        (pd.concat([held_out(), held_out().assign(model="b")]), {}, "more than one model .'ours', 'b'."),
        (pd.concat([held_out(), held_out().assign(degradation="jpeg:50")]), {}, "more than one degradation"),
        (pd.concat([held_out(), held_out().assign(label=1)]), {}, "300 images are labelled real and fake at once"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(frame: pd.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(frame, **options)


def test_rows_that_are_left_out_are_told() -> None:
    frame = held_out()
    damaged = frame[:3].assign(content_sha256=["1", "2", "3"], logit=np.nan, error="damaged image")
    found = calibrate(pd.concat([frame, frame[5:7], damaged]))
    assert found.note == "3 rows without a score left out; 2 rows that occur again left out"
    assert replace(found, note="") == calibrate(frame)


def test_benchmark_images_are_not_for_calibration() -> None:
    frame = held_out()
    check_no_overlap(frame, held_out(seed=1))
    unread = frame[:1].assign(content_sha256="", error="damaged image")
    check_no_overlap(pd.concat([frame, unread]), pd.concat([held_out(seed=1), unread]))
    with pytest.raises(ValueError, match="500 benchmark rows have no content_sha256"):
        check_no_overlap(frame, held_out(seed=1).assign(content_sha256=""))
    with pytest.raises(
        ValueError, match=r"2 images of the benchmark are among the 500 that calibrate .* such as "
    ):
        check_no_overlap(frame, pd.concat([held_out(seed=1), frame[:2], frame[:2]]))


# ---------------------------------------------------------------------------------------------------------
# Two halves


def corpus() -> pd.DataFrame:
    """Five generators, two real sources named in `source`, every image clean and as JPEG."""
    frame = held_out(40, 50)
    names = [f"camera {n % 2}" for n in range(40)] + [f"gan {n % 5}" for n in range(50)]
    frame = frame.assign(source=names, generator=["real"] * 40 + names[40:])
    return pd.concat([frame, frame.assign(degradation="jpeg:50")], ignore_index=True)


def test_halves_share_no_source_and_no_image() -> None:
    frame = corpus()
    first, second = split_by_source(frame, seed=0)
    assert len(first) + len(second) == len(frame)
    assert not set(first["source"]) & set(second["source"])
    assert not set(first["uri"]) & set(second["uri"])
    assert (first["source"].nunique(), second["source"].nunique()) == (1 + 2, 1 + 3)
    again, _ = split_by_source(frame.sample(frac=1, random_state=1), seed=0)
    assert set(again["uri"]) == set(first["uri"])
    assert len({tuple(sorted(set(split_by_source(frame, seed=seed)[0]["source"]))) for seed in range(20)}) > 3


def test_single_source_is_halved_by_image() -> None:
    first, second = split_by_source(held_out(31, 40), seed=0)
    assert first["label"].value_counts().to_dict() == {0: 15, 1: 20}
    assert second["label"].value_counts().to_dict() == {0: 16, 1: 20}


def test_image_of_two_sources_stays_in_one_half() -> None:
    frame = corpus()
    frame = pd.concat([frame, frame[:10].assign(source="camera 7", uri="elsewhere")])
    for seed in range(10):
        first, second = split_by_source(frame, seed=seed)
        assert not set(first["content_sha256"]) & set(second["content_sha256"])


def test_few_images_of_each_source_are_drawn() -> None:
    frame = held_out(300, 40).assign(generator=[f"shop {n // 290}" for n in range(300)] + ["gan"] * 40)
    for table in (frame.assign(source=""), frame.drop(columns="source"), frame.assign(source=frame["generator"])):
        few = few_of_each_source(table, 25)
        assert few["generator"].value_counts().to_dict() == {"shop 0": 25, "gan": 25, "shop 1": 10}
        assert few["uri"].tolist() == [uri for uri in table["uri"] if uri in set(few["uri"])]
    assert set(few_of_each_source(frame, 25, seed=1)["uri"]) != set(few["uri"])
    assert len(few_of_each_source(frame, 1000)) == len(frame)


def test_what_a_calibration_says_of_itself() -> None:
    found = calibrate(held_out())
    assert list(found.operating_points) == ["balanced", "fpr1", "fpr5"]
    assert (found.method, found.n_real, found.n_fake, found.alpha, found.note) == ("platt", 300, 200, 0.05, "")
    assert calibrate(held_out()[::-1]).data_sha256 == found.data_sha256 != calibrate(held_out(seed=1)).data_sha256
    assert calibrate(held_out().assign(content_sha256="")) == found  # named as their content here
    assert list(calibrate(held_out(), fprs=(0.025,)).operating_points) == ["balanced", "fpr2.5"]
