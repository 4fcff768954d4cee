"""The detectors in pretrained/: they are whole and small, and say what they said of the images in assets/."""

from __future__ import annotations

from pathlib import Path

import pytest
from asset_logits import LOGITS

import gapl
from gapl.files.cache import cache_dir
from gapl.inputs.scan import scan_images
from gapl.wheel import INT8_FILE, WHEEL_FILE
from inference import Detector
from models.weights.checkpoint import read_info

PROJECT = Path(__file__).parent.parent
SHIPPED = PROJECT / "pretrained" / "gapl-vit-b16-open.safetensors"
BEFORE = PROJECT / "pretrained" / "gapl-vit-b16-mini.safetensors"

# Tests ask no network: the tower is there where a detector on it has run before.
needs_tower = pytest.mark.skipif(
    not any((cache_dir() / name).is_file() for name in (INT8_FILE, WHEEL_FILE)),
    reason="needs CLIP ViT-B/16 in GAPL_CACHE",
)


def test_shipped_file_is_small_calibrated_and_names_no_place() -> None:
    assert SHIPPED.stat().st_size <= 6_000_000
    stored = read_info(SHIPPED)
    assert (stored.form, stored.config.stage, stored.config.num_prototypes) == ("adapter", 2, 64)
    assert stored.config.pixel.views == ("centre", "quarters", "reduced", "whole")
    assert stored.calibration is not None
    assert stored.fast_calibration is not None
    assert stored.threshold == stored.calibration.threshold("balanced")
    assert stored.config.lora is not None
    assert stored.provenance["data"]["root"] is None
    assert "/" not in stored.provenance["init"]


@needs_tower
@pytest.mark.parametrize(
    ("file", "views", "logits"),
    [
        (SHIPPED, "full", LOGITS["full"]),
        (SHIPPED, "fast", LOGITS["fast"]),
        (BEFORE, "full", {"test_image.jpg": -5.238, "generated_image.png": 6.477}),
    ],
)
def test_logits_of_the_assets(file: Path, views: str, logits: dict[str, float]) -> None:
    detector = Detector.load(file, device="cpu", engine="torch", views=views)
    for name, logit in logits.items():
        assert detector(PROJECT / "assets" / name).logit == pytest.approx(logit, abs=0.02)


@needs_tower
@pytest.mark.parametrize("views", ["full", "fast", "auto"])
def test_without_torch_it_says_the_same(views: str) -> None:
    images = [image.file for image in scan_images([PROJECT / "assets"]).images if image.file]
    assert len(images) == 2
    found = gapl.Detector.load(views=views)(images)
    expected = Detector.load(device="cpu", engine="torch", views=views)(images)
    assert [each.logit for each in found] == pytest.approx([each.logit for each in expected], abs=1e-4)
    assert [each.label for each in found] == [each.label for each in expected]
