"""AdamW and its schedule for the weights of a detector that train."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """Make AdamW for the parameters that train, with a learning rate for each part of the detector.

    LoRA in the tower has lr, and the head lr x head_lr_factor; its projection has that x project_lr_factor.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    head_lr = recipe.lr * recipe.head_lr_factor
    lr_of = {"tower.": recipe.lr, "": head_lr}
    if recipe.project_lr_factor != 1:  # else one group: a stopped run's optimiser has as many as when it began
        lr_of = {"tower.": recipe.lr, "project.": head_lr * recipe.project_lr_factor, "": head_lr}
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in lr_of}
    for name, parameter in trained.items():
        groups[next(part for part in lr_of if name.startswith(part))].append(parameter)
    return AdamW(
        [{"params": parameters, "lr": lr_of[part]} for part, parameters in groups.items() if parameters],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
    )


class Schedule:
    """Sets the learning rate of every group for a step: linear warm-up, then constant, or a cosine.

    It has no state that a checkpoint would have to keep.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, *, num_steps: int) -> None:
        self._optimizer = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._factor = lr_factor(recipe, num_steps=num_steps)

    def set(self, step: int) -> None:
        """Set the learning rates for a step, counted from 0."""
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._factor(step)


def lr_factor(recipe: Recipe, *, num_steps: int) -> Callable[[int], float]:
    """Return the function from a step (from 0) to the factor of the peak learning rate."""
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
    """Clip the gradients in place, unless max_norm is 0. Return the norm of all gradients before that."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trainable, max_norm if max_norm > 0 else math.inf)
    return float(norm)
