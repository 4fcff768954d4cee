"""LoRA on a vision tower, by peft: add it, count what trains, merge it into the weights."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from models.config import LoraSpec


def add_lora(tower: nn.Module, spec: LoraSpec) -> None:
    """Freezes the tower and puts low-rank updates beside its target projections, in place.

    The updates start as zero (B = 0), so the tower's output is unchanged until training.
    """
    tower.requires_grad_(False)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(spec.targets),
    )
    try:
        inject_adapter_in_model(config, tower)
    except ValueError as error:
        raise ValueError(f"LoRA targets {', '.join(spec.targets)}: none is a layer of the tower") from error


def has_lora(tower: nn.Module) -> bool:
    """Whether there are updates that are not merged."""
    return any(isinstance(module, LoraLayer) for module in tower.modules())


def merge_lora(tower: nn.Module) -> None:
    """Adds every update to the weight that it updates and leaves plain linear layers, in place."""
    for path, module in list(tower.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(tower.get_submodule(parent), name, module.get_base_layer())


def cast_frozen_linears(tower: nn.Module, dtype: torch.dtype) -> None:
    """Stores the linear weights that do not train in `dtype`, so that autocast need not, at every step."""
    for module in tower.modules():
        if isinstance(module, nn.Linear) and not any(p.requires_grad for p in module.parameters()):
            module.to(dtype)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters."""
    every = sum(parameter.numel() for parameter in module.parameters())
    return every, sum(p.numel() for p in module.parameters() if p.requires_grad)
