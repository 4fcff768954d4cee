"""Linear layers with a low-rank update: their outputs, and gradients of the update alone.

y = W x + b + alpha/r B A dropout(x), as in peft, with its names. W does not train: no gradient of its size is made.

Shape suffixes: N tokens of all images, I, O widths in and out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.config import LoraSpec


class LoraLinear(nn.Module):
    """`base_layer`, which is frozen, and its update, which starts as zero: A is random and B = 0."""

    def __init__(self, base_layer: nn.Linear, spec: LoraSpec) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.scale, self.dropout = spec.scale, spec.dropout
        num_out, num_in = base_layer.weight.shape
        kind: dict[str, Any] = {
            "device": base_layer.weight.device,
            "dtype": torch.promote_types(base_layer.weight.dtype, torch.float32),
        }
        self.lora_A = nn.ModuleDict({"default": nn.Linear(num_in, spec.rank, bias=False, **kind)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(spec.rank, num_out, bias=False, **kind)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.train(base_layer.training)

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """W_OI, b_O, A_RI, B_OR."""
        base = self.base_layer
        return base.weight, base.bias, self.lora_A["default"].weight, self.lora_B["default"].weight

    def forward(self, x: Tensor) -> Tensor:
        return project(x, (self,))[0]


def project(x: Tensor, layers: Sequence[LoraLinear]) -> Sequence[Tensor]:
    """The outputs of layers that have the same input, of shape (..., I), and the same LoraSpec."""
    first = layers[0]
    dropout = first.dropout if first.training else 0.0
    if not torch.is_grad_enabled():
        return [_without_gradient(x, layer, dropout) for layer in layers]
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    outputs = _Project.apply(x.to(compute_dtype(x)).flatten(0, -2), first.scale, dropout, *tensors)
    return [y_NO.unflatten(0, x.shape[:-1]) for y_NO in outputs]


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which matrix products of x are computed: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _without_gradient(x: Tensor, layer: LoraLinear, dropout: float) -> Tensor:
    _, _, A_RI, B_OR = layer.tensors
    lowered = functional.linear(functional.dropout(x.to(A_RI.dtype), dropout), A_RI)
    y: Tensor = layer.base_layer(x)
    return (y + functional.linear(lowered, B_OR) * layer.scale).to(y.dtype)


class _Project(torch.autograd.Function):
    """x_NI, scale, dropout and (W_OI, b_O, A_RI, B_OR) of each layer -> y_NO of each.

    All is computed in the type of x. Without dropout, in a full type, the update is added to W before the product:
    that costs nothing. A short type would round it away.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, scale: float, dropout: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        dtype, num_layers = x_NI.dtype, len(tensors) // 4
        ctx.fold = not dropout and dtype.itemsize >= 4
        ctx.scale, ctx.dropout = scale, dropout
        noise = _draw_noise(x_NI, num_layers) if dropout else [None] * num_layers
        outputs = []
        with torch.autocast(x_NI.device.type, enabled=False):
            for i in range(num_layers):
                weight_OI, bias_O, A_RI, B_OR = (t if t is None else t.to(dtype) for t in tensors[4 * i : 4 * i + 4])
                if ctx.fold:
                    weight_OI = weight_OI.addmm(B_OR, A_RI, alpha=scale)
                y_NO = functional.linear(x_NI, weight_OI, bias_O)
                if not ctx.fold:
                    dropped_NI, factor, _ = _drop(x_NI, noise[i], dropout)
                    y_NO.addmm_(dropped_NI @ A_RI.T, B_OR.T, alpha=scale * factor)
                outputs.append(y_NO)
        ctx.save_for_backward(x_NI, *noise, *tensors)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, *saved = ctx.saved_tensors
        noise, tensors, dtype = saved[: len(grads)], saved[len(grads) :], x_NI.dtype
        grad_x_NI = None
        found: list[Tensor | None] = []
        with torch.autocast(x_NI.device.type, enabled=False):
            for i, grad_NO in enumerate(grads):
                weight_OI, _, A_RI, B_OR = (t if t is None else t.to(dtype) for t in tensors[4 * i : 4 * i + 4])
                dropped_NI, factor, keep_NI = _drop(x_NI, noise[i], ctx.dropout)
                scale = ctx.scale * factor
                grad_NR = (grad_NO @ B_OR).mul_(scale)
                grad_A_RI = grad_NR.T @ dropped_NI
                grad_B_OR = (grad_NO.T @ (dropped_NI @ A_RI.T)).mul_(scale)
                found += [None, None, grad_A_RI.to(tensors[4 * i + 2].dtype), grad_B_OR.to(tensors[4 * i + 3].dtype)]
                if not ctx.needs_input_grad[0]:
                    continue
                if ctx.fold:
                    weight_OI = weight_OI.addmm(B_OR, A_RI, alpha=ctx.scale)
                grad_x_NI = grad_NO @ weight_OI if grad_x_NI is None else grad_x_NI.addmm_(grad_NO, weight_OI)
                if keep_NI is not None:
                    grad_x_NI.addcmul_(grad_NR @ A_RI, keep_NI)
                elif not ctx.fold:
                    grad_x_NI.addmm_(grad_NR, A_RI)
        return grad_x_NI, None, None, *found


def _draw_noise(x_NI: Tensor, num_layers: int) -> list[Tensor]:
    """16 random bits for each number of x and each layer, out of torch's generator; 64 at once are as fast as 1."""
    bits = torch.empty(-(-num_layers * x_NI.numel() // 4), dtype=torch.int64, device=x_NI.device)
    bits.random_(torch.iinfo(torch.int64).min, None)
    of_layers = bits.view(torch.int16)[: num_layers * x_NI.numel()].view(num_layers, *x_NI.shape)
    return list(of_layers)


def _drop(x_NI: Tensor, noise_NI: Tensor | None, dropout: float) -> tuple[Tensor, float, Tensor | None]:
    """x with some numbers made zero, what to multiply it with to keep its mean, and 1 for the numbers kept.

    The probability is a multiple of 2**-16.
    """
    if noise_NI is None:
        return x_NI, 1.0, None
    num_dropped = round(dropout * 2**16)
    keep_NI = torch.empty_like(x_NI)
    torch.ge(noise_NI, num_dropped - 2**15, out=keep_NI)
    return x_NI * keep_NI, 2**16 / (2**16 - num_dropped), keep_NI
