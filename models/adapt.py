"""LoRA on a vision tower: add it, and tell its tensors from the tower's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gapl.config import LoraSpec
from gapl.lora import BASE, LORA_A, LORA_B, has_updates, is_lora, name_base
from models.lora import LoraLinear


def add_lora(tower: nn.Module, spec: LoraSpec) -> None:
    """Freeze the tower and put low-rank updates beside its target projections, in place.

    The updates start as zero (B = 0), so the tower's output does not change before training.
    Raise ValueError when the targets name no layer, or one that is not linear.
    """
    tower.requires_grad_(False)
    ends = tuple(f".{target}" for target in spec.targets)
    found = {
        path: module
        for path, module in tower.named_modules()
        if f".{path}".endswith(ends) and has_updates(path, spec)
    }
    if not found or not all(isinstance(module, nn.Linear) for module in found.values()):
        raise ValueError(f"LoRA targets {', '.join(spec.targets)}: they must name linear layers of the tower")
    for path, linear in found.items():
        assert isinstance(linear, nn.Linear)
        tower.set_submodule(path, LoraLinear(linear, spec))


def base_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tower's own tensors from those of a detector: without LoRA, under the names of a plain tower."""
    named = {name.removeprefix("tower."): value for name, value in state.items() if name.startswith("tower.")}
    return {name.replace(BASE, ""): value for name, value in named.items() if not is_lora(name)}


def add_lora_shapes(shapes: Mapping[str, torch.Size], spec: LoraSpec) -> dict[str, torch.Size]:
    """Return the names and shapes of a tower with LoRA from those of the same tower without it."""
    with_lora = {}
    for name, based in name_base(shapes, spec).items():
        with_lora[based] = shape = shapes[name]
        if based != name and len(shape) == 2:
            path = name.removesuffix("weight")
            with_lora[path + LORA_A] = torch.Size((spec.rank, shape[1]))
            with_lora[path + LORA_B] = torch.Size((shape[0], spec.rank))
    return with_lora
