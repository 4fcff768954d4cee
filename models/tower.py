"""CLIP's vision transformer up to the class tokens that a head reads: pixels -> feature.

Its tensors have the names of transformers' CLIPVisionModel, so that weights need no renaming. Written out
here because everything turns on it, and because a verdict need not wait for transformers to be imported.

Shape suffixes: B batch, C channels, H, W pixels, T tokens (class token first), S some of them, D tower width, in a
feature times the number of layers that it is read from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.config import TowerSpec
from models.lora import LoraLinear, compute_dtype, project

HEAD_WIDTH = 64
SLOPE = 1.702  # of QuickGELU


class VisionTower(nn.Module):
    """pixels_BCHW -> feature_BD: the class token after the last layer norm (`pooler_output` in transformers).

    feature_layers: instead, the class tokens after these layers, counted from 1, each brought to mean 0 and
    variance 1 and one behind the other: early layers see traces that late ones forget (Koutlis, Papadopoulos 2024,
    arXiv 2402.19091).
    activation_checkpointing: in training, what is inside a layer is computed again for the gradient, not kept;
    that takes half as much time again, and much less memory. Dropout draws the same numbers both times.
    patch_dropout: share of the patches, drawn anew for each image, that training leaves out (Li et al. 2023,
    arXiv 2212.00794): half of them takes half the time. Evaluation sees all.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.feature_layers: tuple[int, ...] = ()
        self.activation_checkpointing = False
        self.patch_dropout = 0.0
        self.embeddings = _Embeddings(spec)
        self.pre_layrnorm = _layer_norm(spec)  # spelled as OpenAI's release and all its descendants do
        self.encoder = _Encoder(spec)
        self.post_layernorm = _layer_norm(spec)

    @property
    def feature_width(self) -> int:
        """D of a feature."""
        return self.spec.hidden_size * max(1, len(self.feature_layers))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        tokens_BTD = self.pre_layrnorm(self.embeddings(pixels_BCHW))
        if self.training and self.patch_dropout:
            tokens_BTD = _drop_patches(tokens_BTD, self.patch_dropout)
        layers = self.feature_layers or (self.spec.num_hidden_layers,)
        classes = self.encoder(tokens_BTD, layers=layers, checkpoint=self.activation_checkpointing)
        if not self.feature_layers:
            feature_BD: Tensor = self.post_layernorm(classes[0])
            return feature_BD
        normalised = [functional.layer_norm(class_BD.float(), class_BD.shape[-1:]) for class_BD in classes]
        return torch.cat(normalised, dim=-1)


def _drop_patches(tokens_BTD: Tensor, share: float) -> Tensor:
    """The class token and a random part of the patches, at least one."""
    num_images, num_tokens, width = tokens_BTD.shape
    num_kept = max(1, round((1 - share) * (num_tokens - 1)))
    order_BT = torch.rand(num_images, num_tokens - 1, device=tokens_BTD.device).argsort(dim=1)
    kept_BT = functional.pad(order_BT[:, :num_kept] + 1, (1, 0))  # and token 0, the class token
    return tokens_BTD.gather(1, kept_BT.unsqueeze(-1).expand(-1, -1, width))


def build_tower(spec: TowerSpec, state: Mapping[str, Tensor]) -> VisionTower:
    """A tower of the given tensors, which are not copied. Raises RuntimeError for one that does not fit."""
    with torch.device("meta"):
        tower = VisionTower(spec)
    tower.load_state_dict(state, strict=True, assign=True)
    return tower.eval()


def spec_of(state: Mapping[str, Tensor]) -> TowerSpec:
    """The shape of the tower whose tensors these are. Heads are 64 wide and the rest is as in OpenAI's CLIP.

    Raises ValueError when a tensor that tells the shape is missing, or they do not agree.
    """
    try:
        (width,) = state["embeddings.class_embedding"].shape
        _, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
        num_tokens, _ = state["embeddings.position_embedding.weight"].shape
        intermediate, _ = state["encoder.layers.0.mlp.fc1.weight"].shape
    except KeyError as error:
        raise ValueError(f"tensor {error} of the vision tower is missing") from error
    except ValueError as error:
        raise ValueError("the shapes of its tensors are not those of a CLIP vision tower") from error
    side = math.isqrt(num_tokens - 1) if num_tokens else 0
    if side * side != num_tokens - 1 or width % HEAD_WIDTH:
        raise ValueError(f"no CLIP vision tower has a width of {width} and {num_tokens} tokens")
    # A layer has 16 tensors: what is missing is named later, but a file of one tensor is no tower of a thousand.
    layers = {int(match[1]) for name in state if (match := re.match(r"encoder\.layers\.(\d{1,4})\.", name))}
    if len(state) < 16 * len(layers) or max(layers) >= len(layers):
        raise ValueError(f"a layer of its vision tower is missing; tensors of {len(layers)} layers were found")
    return TowerSpec(
        width, intermediate, len(layers), width // HEAD_WIDTH, image_size=side * patch, patch_size=patch
    )


class _Embeddings(nn.Module):
    """Patches as tokens, the class token before them, a learned position for each.

    Positions are a bare weight and no nn.Embedding: its normal_(), as any arithmetic on the device "meta", makes
    torch import its symbolic machinery, which takes more than a second of every start.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        width, patch = spec.hidden_size, spec.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width).uniform_(-0.02, 0.02))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = _Positions(spec)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        patches_BTD = self.patch_embedding(pixels_BCHW).flatten(2).transpose(1, 2)
        class_B1D = self.class_embedding.to(patches_BTD.dtype).expand(len(patches_BTD), 1, -1)
        return torch.cat([class_B1D, patches_BTD], dim=1) + self.position_embedding.weight


class _Positions(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.num_tokens, spec.hidden_size).uniform_(-0.02, 0.02))


class _Encoder(nn.Module):
    """Layers on all tokens; the last one needed computes the class token alone: no other is read after it."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.num_hidden_layers))

    def forward(self, tokens_BTD: Tensor, *, layers: Sequence[int], checkpoint: bool = False) -> list[Tensor]:
        """The class tokens, class_BD each, after the given layers, counted from 1 and ascending."""
        run = _checkpointed if checkpoint and torch.is_grad_enabled() else nn.Module.__call__
        classes = []
        for number, layer in enumerate(self.layers[: layers[-1] - 1], 1):
            tokens_BTD = run(layer, tokens_BTD, tokens_BTD)
            if number in layers:
                classes.append(tokens_BTD[:, 0])
        class_B1D: Tensor = self.layers[layers[-1] - 1](tokens_BTD[:, :1], tokens_BTD)
        return [*classes, class_B1D[:, 0]]


def _checkpointed(layer: nn.Module, *inputs: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    chosen_BSD: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
    return chosen_BSD


class _Layer(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.self_attn = _Attention(spec)
        self.layer_norm1 = _layer_norm(spec)
        self.mlp = _MLP(spec)
        self.layer_norm2 = _layer_norm(spec)

    def forward(self, chosen_BSD: Tensor, tokens_BTD: Tensor) -> Tensor:
        """The new values of the chosen tokens, which see all tokens."""
        seen_BTD = self.layer_norm1(tokens_BTD)
        asking_BSD = seen_BTD if chosen_BSD is tokens_BTD else self.layer_norm1(chosen_BSD)
        chosen_BSD = chosen_BSD + self.self_attn(asking_BSD, seen_BTD)
        return chosen_BSD + self.mlp(self.layer_norm2(chosen_BSD))


class _Attention(nn.Module):
    """Asking tokens attend to all; queries, keys and values are separate layers, which LoRA needs."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_attention_heads
        width = spec.hidden_size
        self.k_proj = nn.Linear(width, width)  # in the order in which transformers lists them
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, asking_BSD: Tensor, tokens_BTD: Tensor) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in self._project(asking_BSD, tokens_BTD)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed_BSD: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return mixed_BSD

    def _project(self, asking_BSD: Tensor, tokens_BTD: Tensor) -> Sequence[Tensor]:
        """Queries of the asking tokens, keys and values of all. Those with LoRA are computed together."""
        layers: tuple[nn.Module, ...] = (self.q_proj, self.k_proj, self.v_proj)
        with_lora = [layer for layer in layers if isinstance(layer, LoraLinear)]
        if asking_BSD is tokens_BTD and len(with_lora) == len(layers):
            return project(tokens_BTD, with_lora)
        return [layer(x) for layer, x in zip(layers, (asking_BSD, tokens_BTD, tokens_BTD), strict=True)]


class _MLP(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.hidden_size, spec.intermediate_size)
        self.activation = QuickGELU() if spec.hidden_act == "quick_gelu" else nn.GELU()
        self.fc2 = nn.Linear(spec.intermediate_size, spec.hidden_size)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and tokens_BTD.requires_grad
        if needs_gradient and isinstance(self.activation, QuickGELU) and _are_frozen(self.fc1, self.fc2):
            return _frozen_mlp(tokens_BTD, self.fc1, self.fc2)
        mapped_BTD: Tensor = self.fc2(self.activation(self.fc1(tokens_BTD)))
        return mapped_BTD


def _are_frozen(*layers: nn.Module) -> bool:
    """Whether they are linear, without LoRA, and do not train."""
    return all(
        isinstance(layer, nn.Linear) and not any(p.requires_grad for p in layer.parameters()) for layer in layers
    )


def _frozen_mlp(tokens_BTD: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """The same where only the gradient of the input is needed."""
    tensors = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    dtype = compute_dtype(tokens_BTD)
    mapped_ND: Tensor = _FrozenMLP.apply(tokens_BTD.to(dtype).flatten(0, -2), *tensors)
    return mapped_ND.unflatten(0, tokens_BTD.shape[:-1])


class _FrozenMLP(torch.autograd.Function):
    """fc2(QuickGELU(fc1(x_ND))), of which one tensor is kept for the gradient, instead of four.

    With y = 1.702 x, QuickGELU(x) is SiLU(y) / 1.702, one pass over memory. The factors come free with the matrix
    products, and in the gradient they cancel.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *tensors: Tensor) -> Tensor:
        weight1_ID, bias1_I, weight2_DI, bias2_D = (tensor.to(x_ND.dtype) for tensor in tensors)
        with torch.autocast(x_ND.device.type, enabled=False):
            y_NI = torch.addmm(bias1_I * SLOPE, x_ND, weight1_ID.T, alpha=SLOPE)
            mapped_ND = torch.addmm(bias2_D, functional.silu(y_NI), weight2_DI.T, alpha=1 / SLOPE)
        ctx.save_for_backward(y_NI, tensors[0], tensors[2])
        return mapped_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        y_NI, weight1_ID, weight2_DI = ctx.saved_tensors
        with torch.autocast(grad_ND.device.type, enabled=False):
            grad_NI = grad_ND @ weight2_DI.to(grad_ND.dtype)
            torch.ops.aten.silu_backward.grad_input(grad_NI, y_NI, grad_input=grad_NI)
            return grad_NI @ weight1_ID.to(grad_ND.dtype), None, None, None, None


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU, which its weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(SLOPE * x)


def _layer_norm(spec: TowerSpec) -> nn.LayerNorm:
    return nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
