"""AdamW and its schedule for what trains in a detector."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW over the trainable parameters: those of the tower (LoRA) at lr, the head at lr x head_lr_factor."""
    tower: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (tower if name.startswith("tower.") else head).append(parameter)
    groups = [{"params": tower, "lr": recipe.lr}, {"params": head, "lr": recipe.lr * recipe.head_lr_factor}]
    return AdamW([group for group in groups if group["params"]], lr=recipe.lr, weight_decay=recipe.weight_decay)


class Schedule:
    """Sets every group's learning rate for a step: linear warm-up, then constant or a cosine down to
    final_lr_fraction. It has no state, so a run that goes on needs none of it."""

    def __init__(self, optimizer: Optimizer, recipe: Recipe, *, num_steps: int) -> None:
        self._optimizer = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._factor = lr_factor(recipe, num_steps=num_steps)

    def set(self, step: int) -> None:
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._factor(step)


def lr_factor(recipe: Recipe, *, num_steps: int) -> Callable[[int], float]:
    """Step (from 0) -> factor of the peak learning rate."""
    warmup_steps = round(recipe.warmup_fraction * num_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if recipe.schedule == "constant":
            return 1.0
        progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * cosine

    return factor


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """The norm of all gradients before clipping; max_norm 0 does not clip."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trainable, max_norm if max_norm > 0 else math.inf)
    return float(norm)
