"""Whether a verdict stays when an image is saved anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from gapl.explain import stability
from gapl.explain.exploring import explore
from gapl.explain.stability import LEAST_HOLDING, RESAVES, check_stability, holds
from gapl.verdict import Verdict
from tests.test_maps import brightness, detector_of


def noise(size: tuple[int, int]) -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def verdict(label: str, score: float) -> Verdict:
    return Verdict(score=score, logit=0.0, label=label, threshold=0.7, real_below=0.3)


@pytest.mark.parametrize("name", RESAVES)
def test_resaves_are_the_same_every_time_and_leave_the_image_alone(name: str) -> None:
    image = noise((120, 80))
    before = image.tobytes()
    first, second = RESAVES[name](image), RESAVES[name](image)
    assert first.mode == "RGB"
    assert (first.size, first.tobytes()) == (second.size, second.tobytes())
    assert first.tobytes() != before
    assert image.tobytes() == before
    expected = {"cropped by 5 %": (108, 72), "screenshot": (96, 64)}
    assert first.size == expected.get(name, image.size)


@pytest.mark.parametrize("size", [(1, 1), (1, 70_000), (70_000, 1), (20_000, 3)])
@pytest.mark.parametrize("name", RESAVES)
def test_resaves_of_any_size(name: str, size: tuple[int, int]) -> None:
    assert min(RESAVES[name](Image.new("RGB", size)).size) >= 1


@pytest.mark.parametrize(
    ("before", "score", "after", "expected"),
    [
        ("fake", 0.9, "fake", True),
        ("fake", 0.9, "unsure", True),
        ("fake", 0.9, "real", False),
        ("real", 0.1, "fake", False),
        ("unsure", 0.6, "unsure", True),
        ("unsure", 0.6, "fake", True),
        ("unsure", 0.6, "real", False),
        ("unsure", 0.4, "fake", False),
    ],
)
def test_a_verdict_holds_unless_the_label_flips(before: str, score: float, after: str, expected: bool) -> None:
    assert holds(verdict(before, score), after) is expected


def test_a_detector_of_what_is_lost_is_unstable() -> None:
    """Neighbouring pixels of noise differ; all re-saves but the crop blur them."""

    def sharpness(pixels_BVCHW: np.ndarray) -> np.ndarray:
        centre_BCHW = pixels_BVCHW[:, 0].astype(np.float64)
        return 20 * (np.abs(np.diff(centre_BCHW, axis=-1)).mean(axis=(1, 2, 3)) - 1.1)

    detector = detector_of(sharpness)
    image = noise((100, 90))
    own = detector(image)
    assert own.label == "fake"
    found = check_stability(detector, image, own)
    labels = {each.name: each.label for each in found.resaves}
    assert labels["cropped by 5 %"] == "fake"
    assert labels["half size and back"] == labels["screenshot"] == "real"
    assert found.holds == sum(label != "real" for label in labels.values()) < LEAST_HOLDING
    assert found.label == "unsure"
    assert detector(image) == own


def test_a_stable_verdict_keeps_its_label() -> None:
    for colour, label in (((250, 250, 250), "fake"), ((5, 5, 5), "real")):
        stable = explore(detector_of(brightness), Image.new("RGB", (90, 70), colour))["stable"]
        assert (stable["holds"], stable["label"]) == (6, label)
        assert [each["name"] for each in stable["resaves"]] == list(RESAVES)
        assert {each["label"] for each in stable["resaves"]} == {label}


@pytest.mark.parametrize(("num", "label"), [(LEAST_HOLDING, "fake"), (LEAST_HOLDING - 1, "unsure")])
def test_the_rule(num: int, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    colours: Iterator[int] = iter([250] * num + [5] * (6 - num))
    made = {name: lambda _: Image.new("RGB", (40, 40), (next(colours),) * 3) for name in RESAVES}
    monkeypatch.setattr(stability, "RESAVES", made)
    detector, image = detector_of(brightness), Image.new("RGB", (40, 40), "white")
    found = check_stability(detector, image, detector(image))
    assert (found.holds, found.label) == (num, label)
