"""What the service says of its detector."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gapl.detector import Detector
from gapl.names import AUTO, SHIPPED
from gapl.results import Method
from gapl.serving.config import Setup
from gapl.version import version


def describe_model(detector: Detector, method: Method) -> dict[str, Any]:
    """Return what a user must know of the verdicts: by which detector, how calibrated, and its model card."""
    info = detector.info
    return {
        "model": method.model,
        "model_sha256": method.model_sha256,
        "views": method.views,
        "version": version(),
        "backbone": info.config.backbone,
        "stage": info.config.stage,
        "threshold": info.threshold,
        "notice": info.notice,
        "calibration": info.calibration and asdict(info.calibration),
        "fast_calibration": info.fast_calibration and asdict(info.fast_calibration),
        "card": _card(detector),
    }


def describe_limits(setup: Setup) -> dict[str, Any]:
    """Return what a request to judge images may send: files, bytes of all of them, and megapixels of an image.

    `explored_megapixels` is None where no image is explored.
    """
    config = setup.config
    explored = min(config.decoding.megapixels, config.explorations.megapixels)
    return {
        "files": config.requests.files,
        "bytes": config.requests.bytes,
        "megapixels": config.decoding.megapixels,
        "explored_megapixels": None if setup.views == AUTO else explored,
    }


def _card(detector: Detector) -> str | None:
    """Return the model card, in Markdown: beside the detector file, a page of its name; None: there is none."""
    if detector.file is None:
        return None
    card = detector.file.with_suffix(".md")
    if not card.is_file() and detector.file.name == SHIPPED:
        card = detector.file.with_name("README.md")
    return card.read_text(encoding="utf-8") if card.is_file() else None
