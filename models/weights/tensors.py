"""The tensors that a detector file must have: their names, shapes, types and values.

Shape suffixes: P prototypes, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gapl.config import DetectorConfig
from gapl.lora import is_lora
from models.adapt import add_lora_shapes
from models.detector import build_detector

PROTOTYPES = "prototypes_PE"


def adapter_names(names: Iterable[str]) -> list[str]:
    """Return the names of the tensors that training changes, prototypes included."""
    return [name for name in names if not name.startswith("tower.") or is_lora(name)]


def expected_shapes(config: DetectorConfig, form: str) -> dict[str, torch.Size]:
    """Return the names and shapes of the tensors in a file of that form and config.

    All layers are alike: one is built, so that a file that claims a thousand costs no more than one of two.
    """
    one_layer = replace(
        config,
        lora=None,
        feature_layers=(),
        whole_layers=(),
        pixel=replace(config.pixel, views=("centre",)),
        tower=replace(config.tower, num_hidden_layers=1),
    )
    layers = range(config.tower.num_hidden_layers)
    shapes = {
        name.replace(".layers.0.", f".layers.{layer}."): tensor.shape
        for name, tensor in build_detector(one_layer).state_dict().items()
        for layer in (layers if ".layers.0." in name else (0,))
    }
    shapes["project.weight"] = torch.Size((config.embed_dim, config.feature_width))
    if config.lora is not None:
        of_tower = {name: shape for name, shape in shapes.items() if name.startswith("tower.")}
        shapes = {name: shapes[name] for name in shapes.keys() - of_tower} | add_lora_shapes(of_tower, config.lora)
    return {name: shapes[name] for name in adapter_names(shapes)} if form == "adapter" else shapes


def check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raise ValueError that names the first tensor that is missing, extra or of another shape."""
    for problem, names in (
        ("is missing", sorted(set(expected) - set(found))),
        ("is not part of this detector", sorted(set(found) - set(expected))),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"tensor {names[0]!r} {problem}{more}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ValueError(f"tensor {name!r} has shape {tuple(found[name].shape)}, expected {tuple(shape)}")


def check_dtype(name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raise ValueError for a tensor of another type."""
    if tensor.dtype != expected:
        raise ValueError(f"tensor {name!r} is of type {tensor.dtype}; expected {expected}")


def check_values(name: str, tensor: Tensor) -> None:
    """Raise ValueError for numbers that are not finite, and for a prototype that is zero."""
    if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is cheap, but it may overflow
        raise ValueError(f"tensor {name!r} has values that are not finite numbers")
    if name == PROTOTYPES and not tensor.norm(dim=-1).all():
        raise ValueError("a prototype is zero")
