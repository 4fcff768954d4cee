"""The stored calibration: checked, kept bit for bit, and the verdicts it gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gapl.calibration import Calibration

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
    again = Calibration.from_dict(json.loads(json.dumps(FOUND.to_dict())))
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
        ({"a": 10**400}, "a of a calibration is of type int or too large"),
        ({"method": "temperature"}, "temperature has no b"),
        ({"method": "beta"}, "choose from temperature, platt"),
        ({"operating_points": {"balanced": 2}}, r"balanced is 2.0; expected a number in \[0, 1\]"),
        ({"operating_points": {"balanced": "0.5"}}, "balanced of a calibration is of type str"),
        ({"operating_points": [0.5]}, "expected names and thresholds"),
        ({"operating_points": {}}, "at least one operating point"),
        ({"band_low": 0.9, "band_high": 0.1}, "band from 0.9 to 0.1"),
        ({"n_real": True}, "n_real of a calibration is of type bool"),
        ({"n_fake": 0}, "expected some of both"),
        ({"alpha": 0.7}, "alpha is 0.7"),
        ({"data_sha256": "../x"}, "expected 64 hexadecimal digits"),
        ({"note": "a\x1b[2J"}, "one printable line"),
        ({"extra": 1}, r"missing or unknown: \['extra'\]"),
    ],
)
def test_stored_form_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(FOUND.to_dict() | change)


def test_verdicts_by_hand() -> None:
    banded = replace(FOUND, band_low=0.3, band_high=0.6)
    assert [banded.decide(score) for score in (0, 0.29, 0.3, 0.6, 0.61, 1)] == [
        *("real", "real", "unsure", "unsure", "fake", "fake")
    ]
    without = replace(banded, band_low=0.4, band_high=0.4)
    assert [without.decide(score) for score in (0.39, 0.4, 0.41)] == ["real", "fake", "fake"]
    with pytest.raises(ValueError, match="score is nan"):
        banded.decide(float("nan"))


def test_extreme_logits_have_scores_between_0_and_1() -> None:
    score_N = FOUND.apply(np.array([-1e308, -1e4, 0, 1e4, 1e308]))
    assert score_N[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]
    assert score_N[2] == pytest.approx(1 / (1 + math.exp(4.1)))
