"""Describe a file of weights: everything that it says about itself, and what its tensors show.

Shape suffixes: P prototypes, E embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapl.files.checksum import sha256_of
from gapl.info import PROJECTION, DetectorInfo
from gapl.lora import is_lora
from models.adapt import base_tower
from models.weights.checkpoint import read_stored
from models.weights.tensors import PROTOTYPES


def facts(path: Path) -> dict[str, Any]:
    """Return name -> fact of a detector file, ours or released, or of released prototypes.

    Raises ValueError when the file is not sound.
    """
    stored = read_stored(path)
    tensors, info = stored.tensors, stored.info
    found = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "form": info.form if info else "prototypes" if PROTOTYPES in tensors else PROJECTION,
        "what": stored.described,
        "tensors": len(tensors),
        "parameters": _count_parameters(tensors),
    }
    if info:
        found |= _detector_facts(info)
    provenance = info.provenance if info else {}
    if PROTOTYPES in tensors:
        found["prototypes"] = _prototype_facts(tensors[PROTOTYPES], provenance)
    return found | {"provenance": provenance, "versions": info.versions if info else {}}


def _count_parameters(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    sizes = {
        "tower": [value.numel() for value in base_tower(tensors).values()],
        "LoRA": [value.numel() for name, value in tensors.items() if is_lora(name)],
        "head": [value.numel() for name, value in tensors.items() if not name.startswith(("tower.", PROTOTYPES))],
    }
    return {name: sum(of_part) for name, of_part in sizes.items() if of_part}


def _detector_facts(info: DetectorInfo) -> dict[str, Any]:
    config = info.config
    found: dict[str, Any] = {
        name: getattr(config, name) for name in ("stage", "backbone", "embed_dim", "num_heads")
    }
    found |= {"tower": asdict(config.tower), "pixels": asdict(config.pixel), "threshold": info.threshold}
    found |= {"feature_layers": list(config.feature_layers), "whole_layers": list(config.whole_layers)}
    found["LoRA"] = config.lora and asdict(config.lora)
    found["calibration"] = info.calibration and asdict(info.calibration)
    found["fast_calibration"] = info.fast_calibration and asdict(info.fast_calibration)
    return found | {"backbone_fingerprint": info.backbone_fingerprint, "notice": info.notice}


def _prototype_facts(prototypes_PE: Tensor, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return how many of each class there are, their lengths, and whether the rows of each are orthonormal."""
    match provenance.get("prototypes"):
        case {"num_real": int(num_real)}:
            pass
        case _:  # released files do not say: the first half
            num_real = len(prototypes_PE) // 2
    real, fake = prototypes_PE[:num_real].double(), prototypes_PE[num_real:].double()
    lengths_P = prototypes_PE.double().norm(dim=1)
    return {
        "real": len(real),
        "fake": len(fake),
        "dimensions": prototypes_PE.shape[1],
        "lengths": [round(lengths_P.min().item(), 6), round(lengths_P.max().item(), 6)],
        "orthonormal": {"real": _is_orthonormal(real), "fake": _is_orthonormal(fake)},
    }


def _is_orthonormal(rows_PE: Tensor) -> bool:
    """Return whether rows are of length 1 and at right angles, to float32's precision."""
    return torch.allclose(rows_PE @ rows_PE.T, torch.eye(len(rows_PE), dtype=rows_PE.dtype), rtol=0, atol=1e-5)


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each fact, nested facts on one line; empty facts are left out."""
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {json.dumps(item, default=str)}" for key, item in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        if value not in (None, "", []):
            yield f"{name.replace('_', ' '):21}{value}"
