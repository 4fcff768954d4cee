"""Linear layers with a low-rank update: their outputs, and the gradients of the update alone.

y = W x + b + alpha/r B A dropout(x), with the names of peft. W does not train, so its gradient is never computed.

Shape suffixes: N tokens of all images, I, O widths in and out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gapl.config import LoraSpec
from gapl.lora import LORA_B


class LoraLinear(nn.Module):
    """A frozen `base_layer` and its update, which starts as zero: A is random and B = 0."""

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
        nn.init.zeros_(self.get_parameter(LORA_B))
        self.train(base_layer.training)

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return W_OI, b_O, A_RI, B_OR."""
        base = self.base_layer
        lora_A, lora_B = cast(nn.Linear, self.lora_A["default"]), cast(nn.Linear, self.lora_B["default"])
        return base.weight, base.bias, lora_A.weight, lora_B.weight

    def forward(self, x: Tensor) -> Tensor:
        return project(x, (self,))[0]


def project(x: Tensor, layers: Sequence[LoraLinear]) -> Sequence[Tensor]:
    """Compute the outputs of layers that share their input, of shape (..., I), and their LoraSpec."""
    first = layers[0]
    dropout = first.dropout if first.training else 0.0
    if not torch.is_grad_enabled():
        return [_without_gradient(x, layer, dropout) for layer in layers]
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    outputs = _Project.apply(x.to(compute_dtype(x)).flatten(0, -2), first.scale, dropout, *tensors)
    return [y_NO.unflatten(0, x.shape[:-1]) for y_NO in outputs]


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which matrix products of x are computed: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _without_gradient(x: Tensor, layer: LoraLinear, dropout: float) -> Tensor:
    _, _, A_RI, B_OR = layer.tensors
    lowered = functional.linear(functional.dropout(x.to(A_RI.dtype), dropout), A_RI)
    y: Tensor = layer.base_layer(x)
    return (y + functional.linear(lowered, B_OR) * layer.scale).to(y.dtype)


class _Project(torch.autograd.Function):
    """x_NI, scale, dropout and the tensors of all layers in a row -> y_NO of each layer.

    Everything is computed in the type of x. Without dropout and in float32, the update is added to W before the
    product, which costs nothing. A shorter type would round the update away.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, scale: float, dropout: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        layers = _layers(tensors, x_NI.dtype)
        fold = not dropout and x_NI.dtype.itemsize >= 4
        noise = _draw_noise(x_NI, len(layers)) if dropout else [None] * len(layers)
        outputs = []
        with torch.autocast(x_NI.device.type, enabled=False):
            for (weight_OI, bias_O, A_RI, B_OR), noise_NI in zip(layers, noise, strict=True):
                if fold:
                    outputs.append(functional.linear(x_NI, weight_OI.addmm(B_OR, A_RI, alpha=scale), bias_O))
                    continue
                dropped_NI, factor, _ = _drop(x_NI, noise_NI, dropout)
                y_NO = functional.linear(x_NI, weight_OI, bias_O)
                outputs.append(y_NO.addmm_(dropped_NI @ A_RI.T, B_OR.T, alpha=scale * factor))
        ctx.scale, ctx.dropout, ctx.fold = scale, dropout, fold
        ctx.save_for_backward(x_NI, *noise, *tensors)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, *saved = ctx.saved_tensors
        noise, tensors = saved[: len(grads)], saved[len(grads) :]
        grad_x_NI = torch.zeros_like(x_NI) if ctx.needs_input_grad[0] else None
        of_tensors: list[Tensor | None] = []
        with torch.autocast(x_NI.device.type, enabled=False):
            for grad_NO, layer, noise_NI in zip(grads, _layers(tensors, x_NI.dtype), noise, strict=True):
                weight_OI, _, A_RI, B_OR = layer
                dropped_NI, factor, keep_NI = _drop(x_NI, noise_NI, ctx.dropout)
                grad_NR = (grad_NO @ B_OR).mul_(ctx.scale * factor)
                grad_B_OR = (grad_NO.T @ (dropped_NI @ A_RI.T)).mul_(ctx.scale * factor)
                of_tensors += [None, None, grad_NR.T @ dropped_NI, grad_B_OR]
                if grad_x_NI is None:
                    continue
                if ctx.fold:
                    grad_x_NI.addmm_(grad_NO, weight_OI.addmm(B_OR, A_RI, alpha=ctx.scale))
                    continue
                grad_x_NI.addmm_(grad_NO, weight_OI)
                if keep_NI is None:
                    grad_x_NI.addmm_(grad_NR, A_RI)
                else:
                    grad_x_NI.addcmul_(grad_NR @ A_RI, keep_NI)
        found = [g if g is None else g.to(tensor.dtype) for g, tensor in zip(of_tensors, tensors, strict=True)]
        return grad_x_NI, None, None, *found


def _layers(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """Return W_OI, b_O, A_RI, B_OR of each layer in the given type."""
    typed: list[Any] = [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]
    return [(typed[i], typed[i + 1], typed[i + 2], typed[i + 3]) for i in range(0, len(typed), 4)]


def _draw_noise(x_NI: Tensor, num_layers: int) -> list[Tensor]:
    """Draw 16 random bits for each number of x and each layer from torch's generator, which gives 64 at a time."""
    shape, count = (num_layers, *x_NI.shape), num_layers * x_NI.numel()
    if torch.compiler.is_compiling():  # it cannot save parts of a tensor in another type
        return list(torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, device=x_NI.device))
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=x_NI.device)
    drawn.random_(torch.iinfo(torch.int64).min, None)
    return list(drawn.view(torch.int16)[:count].view(shape))


def _drop(x_NI: Tensor, noise_NI: Tensor | None, dropout: float) -> tuple[Tensor, float, Tensor | None]:
    """Set some numbers of x to zero. Return the result, the factor that restores the mean of x, and a mask that is
    1 where a number was kept.

    The probability is rounded to a multiple of 2**-16.
    """
    if noise_NI is None:
        return x_NI, 1.0, None
    num_dropped = round(dropout * 2**16)
    keep_NI = torch.empty_like(x_NI)
    torch.ge(noise_NI, num_dropped - 2**15, out=keep_NI)
    return x_NI * keep_NI, 2**16 / (2**16 - num_dropped), keep_NI
