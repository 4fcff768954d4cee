"""Tell towers apart by a few of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

NUM_VALUES = 256  # of each tensor, about


def fingerprint(state: Mapping[str, np.ndarray]) -> str:
    """Return a SHA-256 that identifies a tower: of names, shapes and 256 evenly spaced values of each tensor."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name]
        places = np.arange(0, array.size, max(1, array.size // NUM_VALUES))
        digest.update(f"{name}{tuple(array.shape)}".encode())
        digest.update(array[np.unravel_index(places, array.shape)].astype(np.float32).tobytes())
    return digest.hexdigest()
