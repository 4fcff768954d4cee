"""Frozen linear weights in a shorter type, so that autocast need not convert them at every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def cast_frozen_linears(tower: nn.Module, dtype: torch.dtype) -> None:
    """Store the linear weights that do not train in `dtype`, in place."""
    for module in _frozen_linears(tower):
        module.to(dtype)


@contextmanager
def frozen_linears_in(tower: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast the linear weights that do not train inside the `with` block, and restore them to the bit after it.

    Meanwhile the originals are kept in the memory of the CPU.
    """
    originals = [(p, p.data.cpu()) for module in _frozen_linears(tower) for p in module.parameters()]
    cast_frozen_linears(tower, dtype)
    try:
        yield
    finally:
        for parameter, original in originals:
            parameter.data = original.to(parameter.device)


def _frozen_linears(tower: nn.Module) -> list[nn.Linear]:
    linears = [module for module in tower.modules() if isinstance(module, nn.Linear)]
    return [linear for linear in linears if not any(p.requires_grad for p in linear.parameters())]
