"""The stored calibration: checked, kept bit for bit, and the verdicts it gives."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from gapl.calibration import Calibration, score_of
from gapl.decode import SEVERAL_FRAMES
from gapl.pixels import PixelSpec
from gapl.schema import build_spec
from gapl.verdict import PLAIN_WARNING, DecisionRule, Judge, decision_rule, image_warnings, pixel_warnings
from gapl.views import eval_view

FOUND = Calibration(
    method="platt",
    a=2 / 3,
    b=-4.1,
    operating_points={"balanced": 0.5, "fpr1": float(np.nextafter(0.9, 1))},
    band_low=0.3,
    band_high=0.6,
    alpha=0.05,
    n_real=300,
    n_fake=200,
    ece_before=0.2,
    ece_after=0.01,
    data_sha256="0123456789abcdef" * 4,
)


def test_stored_form_is_kept_bit_for_bit() -> None:
    again = build_spec(Calibration, json.loads(json.dumps(asdict(FOUND))))
    assert again == FOUND
    assert (again.a, again.operating_points["fpr1"]) == (FOUND.a, FOUND.operating_points["fpr1"])


def test_operating_point_by_name() -> None:
    assert FOUND.threshold("fpr1") == FOUND.operating_points["fpr1"]
    with pytest.raises(ValueError, match="unknown operating point 'fpr2'; choose from balanced, fpr1"):
        FOUND.threshold("fpr2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": -1.0}, "a is above 0"),
        ({"a": float("nan")}, "a is above 0"),
        ({"a": 10**400}, "Calibration: a cannot be 1000"),
        ({"method": "temperature"}, "temperature has no b"),
        ({"method": "beta"}, "choose from temperature, platt"),
        ({"operating_points": {"balanced": 2}}, r"balanced is 2.0; expected a number in \[0, 1\]"),
        ({"operating_points": {"balanced": "0.5"}}, r"Calibration: operating_points.balanced cannot be '0.5'"),
        ({"operating_points": [0.5]}, "operating_points is an object with names"),
        ({"operating_points": {}}, "at least one operating point"),
        ({"band_low": 0.9, "band_high": 0.1}, "band from 0.9 to 0.1"),
        ({"n_real": True}, "Calibration: n_real cannot be True"),
        ({"n_fake": 0}, "expected some of both"),
        ({"alpha": 0.7}, "alpha is 0.7"),
        ({"data_sha256": "../x"}, "expected 64 hexadecimal digits"),
        ({"note": "a\x1b[2J"}, "one printable line"),
        ({"extra": 1}, "unknown field 'extra' in Calibration"),
    ],
)
def test_stored_form_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_spec(Calibration, asdict(FOUND) | change)


def test_verdicts_by_hand() -> None:
    banded = decision_rule(replace(FOUND, band_low=0.3, band_high=0.6))
    score_N = np.array([0, 0.29, 0.3, 0.6, 0.61, 1])
    assert banded.labels(score_N).tolist() == ["real", "real", "unsure", "unsure", "fake", "fake"]
    assert banded.unsure(score_N).tolist() == [False, False, True, True, False, False]
    without = decision_rule(replace(FOUND, band_low=0.4, band_high=0.4), threshold=0.9)
    assert without.labels(np.array([0.39, 0.4, 0.41])).tolist() == ["real", "fake", "fake"]
    assert not without.unsure(np.array([0.39, 0.4, 0.41])).any()
    for wrong in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="a score is in"):
            banded.labels(np.array([0.5, wrong]))


def test_rule_is_that_of_the_band_the_operating_point_or_the_threshold() -> None:
    assert decision_rule(None, threshold=0.7) == DecisionRule(0.7, 0.7)
    assert decision_rule(FOUND, threshold=0.7) == DecisionRule(FOUND.band_low, FOUND.band_high)
    fpr1 = FOUND.operating_points["fpr1"]
    assert decision_rule(FOUND, operating_point="fpr1") == DecisionRule(fpr1, fpr1)
    with pytest.raises(ValueError, match="unknown operating point 'fpr2'"):
        decision_rule(FOUND, operating_point="fpr2")
    with pytest.raises(ValueError, match="operating point 'fpr1': this detector is not calibrated"):
        decision_rule(None, operating_point="fpr1")


def test_judge_turns_logits_into_verdicts() -> None:
    logit_N, small = np.array([-9.0, 6.15, 20.0]), "smaller than 32 px"
    judge = Judge(FOUND, decision_rule(FOUND), ("mind this",))
    verdicts = judge.verdicts(logit_N, [(), (small,), ()])
    assert [verdict.label for verdict in verdicts] == ["real", "unsure", "fake"]
    assert [verdict.score for verdict in verdicts] == FOUND.apply(logit_N).tolist()
    assert [verdict.logit for verdict in verdicts] == logit_N.tolist()
    assert {(verdict.real_below, verdict.threshold) for verdict in verdicts} == {(0.3, 0.6)}
    assert [verdict.warnings for verdict in verdicts] == [("mind this",), ("mind this", small), ("mind this",)]
    assert verdicts[0].confidence == 1 - verdicts[0].score
    assert verdicts[1].confidence == max(verdicts[1].score, 1 - verdicts[1].score)
    assert verdicts[2].confidence == verdicts[2].score
    (plain,) = Judge(None, DecisionRule(0.5, 0.5)).verdicts(np.zeros(1), [()])
    assert (plain.score, plain.label, plain.warnings) == (0.5, "fake", ())


def test_warnings_about_an_image() -> None:
    pixel = PixelSpec(size_px=32)
    assert image_warnings(Image.new("RGB", (32, 40)), pixel) == ()
    small = Image.new("RGB", (31, 90))
    padded = "smaller than 32 px (31 x 90 px) and padded with black: less certain"
    assert image_warnings(small, pixel) == (padded,)
    assert image_warnings(small, replace(pixel, small_image="resize"))[0].endswith("enlarged: less certain")
    quarter = Image.new("RGBA", (40, 40), (0, 0, 0, 191))
    assert image_warnings(quarter, pixel) == ("25% of it is transparent and shown on white",)
    below = replace(pixel, conversion="pillow")
    assert image_warnings(quarter, below) == ("25% of it is transparent and judged by what lies below",)
    frames = Image.new("RGB", (40, 40))
    frames.info[SEVERAL_FRAMES] = True
    assert image_warnings(frames, pixel) == ("has several frames: only the first was judged",)


@pytest.mark.parametrize(
    ("colour", "noise", "is_plain"), [("white", 0, True), ("grey", 3, True), ("grey", 9, False)]
)
def test_a_picture_of_one_colour_is_told(colour: str, noise: int, is_plain: bool) -> None:
    pixel = PixelSpec(size_px=32, small_image="resize", views=("centre", "whole"))
    levels = np.array(Image.new("RGB", (90, 70), colour), dtype=np.int64)
    levels -= np.random.default_rng(0).integers(0, noise, levels.shape) if noise else 0
    pixels = eval_view(pixel)(Image.fromarray(levels.astype(np.uint8)))
    assert pixel_warnings(pixels, pixel) == ((PLAIN_WARNING,) if is_plain else ())


def test_score_is_the_sigmoid_without_a_calibration() -> None:
    logit_N = np.array([-800, -2.5, 0, 0.3, 40, 800])
    assert score_of(logit_N) == pytest.approx(expit(logit_N), rel=1e-15)
    assert score_of(logit_N, FOUND).tolist() == FOUND.apply(logit_N).tolist()
    assert np.isnan(score_of(np.array([np.nan]))).all()


def test_extreme_logits_have_scores_between_0_and_1() -> None:
    score_N = FOUND.apply(np.array([-1e308, -1e4, 0, 1e4, 1e308]))
    assert score_N[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]
    assert score_N[2] == pytest.approx(1 / (1 + math.exp(4.1)))
