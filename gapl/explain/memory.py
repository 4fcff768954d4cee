"""How far an image is from the images of training.

Shape suffixes: B batch, E embedding, N training images that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MEMORY = "memory_NE"


@dataclass(frozen=True)
class MemorySpec:
    """How the distance is measured.

    nearest  the distance is the mean cosine distance of so many nearest training images
    cut      the distance from which an image is unlike all of training
    """

    nearest: int
    cut: float

    def __post_init__(self) -> None:
        if self.nearest < 1 or not 0 < self.cut < 2:
            raise ValueError(f"a memory of {self.nearest} nearest images with a cut of {self.cut}")


class Memory:
    """Embeddings of some training images, of length 1.

    width   E
    """

    def __init__(self, spec: MemorySpec, *, memory_NE: np.ndarray) -> None:
        """Take the embeddings, of any float type. Raises ValueError when there are too few."""
        if len(memory_NE) < spec.nearest:
            raise ValueError(f"a memory of {len(memory_NE)} images has no {spec.nearest} nearest ones")
        self.spec, self._memory_NE = spec, memory_NE.astype(np.float32)
        self.width = memory_NE.shape[1]

    def distances(self, embedding_BE: np.ndarray) -> np.ndarray:
        """Return distance_B, from 0 (as in training) to 2."""
        distance_BN = 1 - embedding_BE @ self._memory_NE.T
        nearest_BK: np.ndarray = np.partition(distance_BN, self.spec.nearest - 1)[:, : self.spec.nearest]
        return nearest_BK.mean(axis=1)

    def compare(self, embedding_BE: np.ndarray) -> list[dict[str, Any]]:
        """Return for each image its distance, and whether it is unlike training."""
        return [
            {"distance": float(distance), "cut": self.spec.cut, "is_unlike": bool(distance >= self.spec.cut)}
            for distance in self.distances(embedding_BE)
        ]
