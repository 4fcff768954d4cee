"""The detector in pretrained/: it is whole and small, and says what it said of the images in assets/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from files.cache import cache_dir
from inference import Detector
from models.weights.checkpoint import read_info
from models.weights.wheel import WHEEL_FILE
from studies import figures

if TYPE_CHECKING:
    from tests.conftest import RunCli

PROJECT = Path(__file__).parent.parent
SHIPPED = PROJECT / "pretrained" / "gapl-vit-b16-mini.safetensors"

# Tests ask no network: the tower's wheel is there where a detector on it has run before.
needs_tower = pytest.mark.skipif(
    not (cache_dir() / WHEEL_FILE).is_file(), reason="needs CLIP ViT-B/16 in GAPL_CACHE"
)


def test_shipped_file_is_small_calibrated_and_names_no_place() -> None:
    assert SHIPPED.stat().st_size <= 4_000_000
    stored = read_info(SHIPPED)
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


def test_figures_of_the_card_come_from_scores(run_cli: RunCli, tmp_path: Path) -> None:
    lines = [f"{label}/{i}.png,{label},{score}" for label, score in ((0, 0.1), (1, 0.9)) for i in range(9)]
    scores = tmp_path / "scores.csv"
    scores.write_text("\n".join(["filename,label,score", *lines, "0/wrong.png,0,0.7", "1/wrong.png,1,0.2"]))
    shown = run_cli(figures.main, SHIPPED, scores)
    assert shown.code == 0, shown.err
    assert "10 real images, 10 fakes" in shown.out
    assert "balanced_accuracy  0.900 [" in shown.out
    # Each score has a bin of its own: (9 * 0.1 + 9 * 0.1 + 0.7 + 0.8) / 20.
    assert "calibration error  0.165" in shown.out
    assert "unsure             0.100" in shown.out  # 0.7 and 0.2 of 20 images, between 0.16 and 0.85
    scores.write_text("\n".join(["filename,label,score", *lines[:9]]))
    assert "one class only" in run_cli(figures.main, SHIPPED, scores).only_error()
