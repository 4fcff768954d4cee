"""The prototype bank: P unit vectors, the class of each, and where they came from.

Shape suffixes: P prototypes, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapl.files.refusal import check_is_file, refusal
from gapl.names import BANK_FILE
from models import tensorfile
from models.torchfile import is_torch_file
from models.weights.released import read_released
from models.weights.tensors import PROTOTYPES

FORMAT = "gapl-prototypes-1"


@dataclass(frozen=True)
class PrototypeBank:
    """Prototypes and their labels.

    vectors_PE   unit rows, real first, then fake
    labels_P     0 real, 1 fake
    provenance   method, seed, how many images of which sources, the stage-1 file
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

    def facts(self) -> dict[str, Any]:
        """Return what a detector's file says of its prototypes."""
        num_real = int((self.labels_P == 0).sum())
        return self.provenance | {"num_real": num_real, "num_fake": len(self.labels_P) - num_real}

    def save(self, path: Path) -> None:
        """Write the bank whole or not at all. Raises OSError when it cannot be written."""
        tensors = {"vectors": self.vectors_PE, "labels": self.labels_P}
        tensorfile.write(path, tensors, format=FORMAT, header=self.provenance)

    @classmethod
    def load(cls, path: Path) -> PrototypeBank:
        """Read a bank of ours, or released prototypes (a bare tensor, the first half real).

        Raises ValueError when the file is neither or not sound, OSError when it cannot be read.
        """
        check_is_file(path, what=BANK_FILE)
        try:
            return cls._from_released(path) if is_torch_file(path) else cls._from_ours(path)
        except ValueError as error:
            raise refusal(path, error, what=BANK_FILE) from error

    @classmethod
    def _from_released(cls, path: Path) -> PrototypeBank:
        stored = read_released(path)
        if stored.tensors.keys() != {PROTOTYPES}:
            raise ValueError(f"{stored.described}, but no vectors of length 1")
        vectors_PE = stored.tensors[PROTOTYPES]
        labels_P = torch.arange(2).repeat_interleave(len(vectors_PE) // 2)
        return cls(vectors_PE, labels_P, {"method": stored.described, "file": path.name})

    @classmethod
    def _from_ours(cls, path: Path) -> PrototypeBank:
        provenance, tensors = tensorfile.read(path, format=FORMAT)
        dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        expected = {"vectors": torch.float32, "labels": torch.int64}
        for name in sorted(expected.keys() | dtypes):
            if dtypes.get(name) != expected.get(name):
                found = f"of type {dtypes[name]}" if name in dtypes else "missing"
                raise ValueError(f"tensor {name!r} is {found}; a bank holds {expected}")
        return cls(tensors["vectors"], tensors["labels"], provenance)
