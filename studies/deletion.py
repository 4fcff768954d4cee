"""Deletion and insertion curves: how P(fake) changes as patches are covered, those that are said to matter first.

After Petsiuk, Das, Saenko 2018 (arXiv 1806.07421).

Shape suffixes: N masks, C channels, H, W pixels, or patches in a map, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from gapl.explain.patches import PATCHES

STEPS = 8
CENTRE, RANDOM = "centre first", "random order"

Scores = Callable[[Iterable[np.ndarray]], np.ndarray]  # pixels_CHW, any number of them -> P(fake) of each, score_N


class Areas(NamedTuple):
    """Areas under the two curves of a map: that of deletion should be small, that of insertion large."""

    deletion: float
    insertion: float


def areas_of(
    scores: Scores, pixels_CHW: np.ndarray, *, cover_CHW: np.ndarray, maps: Mapping[str, np.ndarray]
) -> dict[str, Areas]:
    """Return the areas under the curves of each map_HW, by the names of the maps.

    cover_CHW   what is seen in the place of what is deleted, or not yet inserted
    """
    counts = [round(step * PATCHES**2 / STEPS) for step in range(STEPS + 1)]
    deleted = {name: [_first(map_HW, count) for count in counts] for name, map_HW in maps.items()}
    masks = {mask.tobytes(): mask for each in deleted.values() for first in each for mask in (first, ~first)}
    score_N = scores(np.where(_of_pixels(mask, pixels_CHW), cover_CHW, pixels_CHW) for mask in masks.values())
    by_mask = dict(zip(masks, score_N, strict=True))
    return {
        name: Areas(
            float(np.trapezoid([by_mask[first.tobytes()] for first in each])) / STEPS,
            float(np.trapezoid([by_mask[(~first).tobytes()] for first in each])) / STEPS,
        )
        for name, each in deleted.items()
    }


def _first(map_HW: np.ndarray, count: int) -> np.ndarray:
    """Return the patches with the highest values: mask_HW, booleans."""
    mask = np.zeros(PATCHES**2, dtype=bool)
    mask[np.argsort(-map_HW.ravel(), kind="stable")[:count]] = True
    return mask.reshape(PATCHES, PATCHES)


def _of_pixels(mask: np.ndarray, pixels_CHW: np.ndarray) -> np.ndarray:
    patch = np.arange(pixels_CHW.shape[-1]) * PATCHES // pixels_CHW.shape[-1]
    return mask[np.ix_(patch, patch)]


def on_patches(map_HW: np.ndarray) -> np.ndarray:
    """Return a map of any square size with PATCHES along each side, by the nearest."""
    nearest = (np.arange(PATCHES) + 0.5) * len(map_HW) // PATCHES
    return map_HW[np.ix_(nearest.astype(int), nearest.astype(int))]


def baselines(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the maps that know nothing of the image: the middle first, and a random order."""
    from_middle = np.abs(np.arange(PATCHES) - (PATCHES - 1) / 2)
    centre_HW = -np.hypot(from_middle[:, None], from_middle)
    return {CENTRE: centre_HW, RANDOM: generator.random((PATCHES, PATCHES))}
