"""Fixtures that tests of several folders use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImage = Callable[..., Path]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """`make_image(path, seed=0, size=(64, 64), format=None)` writes seeded noise and returns the path.

    `size` is (width, height) in pixels; `format` overrules the suffix. Missing folders are made.
    """

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (64, 64), format: str | None = None) -> Path:
        width, height = size
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path, format=format)
        return path

    return make
