"""The prototype bank: P unit vectors, the class of each, and where they came from.

Shape suffixes: P prototypes, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tensorfile

FORMAT = "gapl-prototypes-1"


@dataclass(frozen=True)
class PrototypeBank:
    """vectors_PE: unit rows, real first, then fake. labels_P: 0 real, 1 fake.

    provenance: method, seed, how many images of which sources, the stage-1 file.
    """

    vectors_PE: Tensor
    labels_P: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vectors_PE, labels_P = self.vectors_PE, self.labels_P
        if vectors_PE.ndim != 2 or labels_P.shape != vectors_PE.shape[:1] or not vectors_PE.numel():
            shapes = f"{tuple(vectors_PE.shape)} and {tuple(labels_P.shape)}"
            raise ValueError(f"a prototype bank is (P, E) vectors and P labels, not {shapes}")
        if not torch.isfinite(vectors_PE).all() or (vectors_PE.norm(dim=1) - 1).abs().max() > 1e-3:
            raise ValueError("prototypes must be finite vectors of length 1")
        if not torch.equal(labels_P, labels_P.sort().values) or set(labels_P.tolist()) != {0, 1}:
            raise ValueError("prototypes must be of both classes, real (0) first, then fake (1)")

    def save(self, path: Path) -> None:
        """Writes the bank whole or not at all."""
        tensors = {"vectors": self.vectors_PE, "labels": self.labels_P}
        tensorfile.write(path, tensors, format=FORMAT, header=self.provenance)

    @classmethod
    def load(cls, path: Path) -> PrototypeBank:
        """Raises ValueError when the file is not a prototype bank, OSError when it cannot be read."""
        what, made_by = "a prototype bank", "prototype/dream_prototype.py"
        provenance, tensors = tensorfile.read(path, format=FORMAT, what=what, made_by=made_by)
        missing = sorted({"vectors", "labels"} - set(tensors))
        if missing:
            raise ValueError(f"{path}: tensor {missing[0]!r} is missing")
        return cls(tensors["vectors"], tensors["labels"], provenance)
