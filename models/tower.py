"""CLIP's vision transformer up to the class tokens that a head reads: pixels -> feature.

Its tensors have the names of transformers' CLIPVisionModel, so that weights need no renaming. It is written out
here because everything depends on it, and because a verdict should not wait for transformers to be imported.

Shape suffixes: B batch, C channels, H, W pixels, T tokens (class token first), D tower width (in a feature, times
the number of layers that it is read from), N tokens of all images, I width inside the MLP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gapl.config import TowerSpec
from models.lora import LoraLinear, compute_dtype, project

HEAD_WIDTH = 64
SLOPE = 1.702  # of QuickGELU


class VisionTower(nn.Module):
    """pixels_BCHW -> feature_BD. `training_options` says how it runs while it trains."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self._activation_checkpointing = False
        self._patch_dropout = 0.0
        self.embeddings = _Embeddings(spec)
        self.pre_layrnorm = _layer_norm(spec)  # spelled as OpenAI's release and all its descendants do
        self.encoder = _Encoder(spec)
        self.post_layernorm = _layer_norm(spec)

    @contextmanager
    def training_options(
        self, *, patch_dropout: float = 0.0, activation_checkpointing: bool = False, compile: bool = False
    ) -> Iterator[None]:
        """Train with these options inside the `with` block. They do not change evaluation.

        patch_dropout   share of the patches that training leaves out, drawn anew for each image (Li et al. 2023,
                        arXiv 2212.00794): half of the patches take half the time
        activation_checkpointing   compute what is inside a layer again for the gradient instead of keeping it:
                        half as much time again, and much less memory. Dropout draws the same numbers both times
        compile         compile the tower by torch.compile; it stays compiled after the block
        """
        before = self._patch_dropout, self._activation_checkpointing
        self._patch_dropout, self._activation_checkpointing = patch_dropout, activation_checkpointing
        if compile:
            self.compile()
        try:
            yield
        finally:
            self._patch_dropout, self._activation_checkpointing = before

    def forward(self, pixels_BCHW: Tensor, feature_layers: Sequence[int] = ()) -> Tensor:
        """Return the class token after the last layer norm (`pooler_output` in transformers).

        feature_layers   instead, return the class tokens after these layers, counted from 1 and ascending, each
                         brought to mean 0 and variance 1, concatenated. Early layers see traces that late ones
                         forget (Koutlis, Papadopoulos 2024, arXiv 2402.19091)
        """
        tokens_BTD = self.pre_layrnorm(self.embeddings(pixels_BCHW))
        if self.training and self._patch_dropout:
            tokens_BTD = _drop_patches(tokens_BTD, self._patch_dropout)
        layers = feature_layers or (self.spec.num_hidden_layers,)
        classes = self.encoder(tokens_BTD, layers=layers, checkpoint=self._activation_checkpointing)
        if not feature_layers:
            feature_BD: Tensor = self.post_layernorm(classes[0])
            return feature_BD
        normalised = [functional.layer_norm(class_BD.float(), class_BD.shape[-1:]) for class_BD in classes]
        return torch.cat(normalised, dim=-1)


def _drop_patches(tokens_BTD: Tensor, share: float) -> Tensor:
    """Keep the class token and a random part of the patches, at least one."""
    num_images, num_tokens, width = tokens_BTD.shape
    num_kept = max(1, round((1 - share) * (num_tokens - 1)))
    order_BT = torch.rand(num_images, num_tokens - 1, device=tokens_BTD.device).argsort(dim=1)
    kept_BT = functional.pad(order_BT[:, :num_kept] + 1, (1, 0))  # token 0 is the class token
    return tokens_BTD.gather(1, kept_BT.unsqueeze(-1).expand(-1, -1, width))


def build_tower(spec: TowerSpec, state: Mapping[str, Tensor]) -> VisionTower:
    """Build a tower around the given tensors without copying them. Raise RuntimeError if one does not fit."""
    with torch.device("meta"):
        tower = VisionTower(spec)
    tower.load_state_dict(state, strict=True, assign=True)
    return tower.eval()


def spec_of(state: Mapping[str, Tensor]) -> TowerSpec:
    """Return the shape of the tower that has these tensors. Heads are 64 wide; the rest is as in OpenAI's CLIP.

    Raise ValueError when a tensor that tells the shape is missing, or when they do not agree.
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
    """Turn an image into tokens: the class token, then the patches, each with a learned position.

    Positions are a bare weight instead of an nn.Embedding, whose normal_() on the device "meta" makes torch import
    its symbolic machinery: that would add more than a second to every start.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        width, patch = spec.hidden_size, spec.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width).uniform_(-0.02, 0.02))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = _Positions(spec)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        patches_BTD = self.patch_embedding(pixels_BCHW).flatten(2).transpose(1, 2)
        class_B1D = self.class_embedding.to(patches_BTD.dtype).expand(patches_BTD.shape[0], 1, -1)
        return torch.cat([class_B1D, patches_BTD], dim=1) + self.position_embedding.weight


class _Positions(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.num_tokens, spec.hidden_size).uniform_(-0.02, 0.02))


class _Encoder(nn.Module):
    """Run the layers on all tokens. The last layer computes the class token alone: nothing else is read of it."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.num_hidden_layers))

    def forward(self, tokens_BTD: Tensor, *, layers: Sequence[int], checkpoint: bool = False) -> list[Tensor]:
        """Return the class tokens, class_BD each, after the given layers, counted from 1 and ascending."""
        run = _checkpointed if checkpoint and torch.is_grad_enabled() else nn.Module.__call__
        classes = []
        for number, layer in enumerate(self.layers[: layers[-1] - 1], 1):
            tokens_BTD = run(layer, tokens_BTD)
            if number in layers:
                classes.append(tokens_BTD[:, 0])
        class_B1D: Tensor = self.layers[layers[-1] - 1](tokens_BTD, class_only=True)
        return [*classes, class_B1D[:, 0]]


def _checkpointed(layer: nn.Module, tokens_BTD: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    new_BTD: Tensor = checkpoint(layer, tokens_BTD, use_reentrant=False)
    return new_BTD


class _Layer(nn.Module):
    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.self_attn = _Attention(spec)
        self.layer_norm1 = _layer_norm(spec)
        self.mlp = _MLP(spec)
        self.layer_norm2 = _layer_norm(spec)

    def forward(self, tokens_BTD: Tensor, *, class_only: bool = False) -> Tensor:
        """Return the new values of all tokens, or class_B1D alone, computed from all tokens."""
        normed_BTD = self.layer_norm1(tokens_BTD)
        if class_only:
            tokens_BTD = tokens_BTD[:, :1]
            mixed_BTD = self.self_attn.of_class_token(self.layer_norm1(tokens_BTD), normed_BTD)
        else:
            mixed_BTD = self.self_attn(normed_BTD)
        tokens_BTD = tokens_BTD + mixed_BTD
        return tokens_BTD + self.mlp(self.layer_norm2(tokens_BTD))


class _Attention(nn.Module):
    """Let tokens attend to all tokens. Queries, keys and values are separate layers, which LoRA needs."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_attention_heads
        width = spec.hidden_size
        self.k_proj = nn.Linear(width, width)  # in the order in which transformers lists them
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Let all tokens attend to all tokens. Layers with LoRA share one pass when all three have it."""
        layers: tuple[nn.Module, ...] = (self.q_proj, self.k_proj, self.v_proj)
        with_lora = [layer for layer in layers if isinstance(layer, LoraLinear)]
        if len(with_lora) == len(layers):
            query, key, value = project(tokens_BTD, with_lora)
        else:
            query, key, value = (layer(tokens_BTD) for layer in layers)
        return self._attend(query, key, value)

    def of_class_token(self, class_B1D: Tensor, tokens_BTD: Tensor) -> Tensor:
        """Let the class token attend to all tokens."""
        return self._attend(self.q_proj(class_B1D), self.k_proj(tokens_BTD), self.v_proj(tokens_BTD))

    def _attend(self, query_BTD: Tensor, key_BTD: Tensor, value_BTD: Tensor) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query_BTD, key_BTD, value_BTD)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed_BTD: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return mixed_BTD


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
    """Tell whether all are plain linear layers, without LoRA, that do not train."""
    return all(
        isinstance(layer, nn.Linear) and not any(p.requires_grad for p in layer.parameters()) for layer in layers
    )


def _frozen_mlp(tokens_BTD: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """Compute the MLP where only the gradient of its input is needed."""
    tensors = (fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    dtype = compute_dtype(tokens_BTD)
    mapped_ND: Tensor = _FrozenMLP.apply(tokens_BTD.to(dtype).flatten(0, -2), *tensors)
    return mapped_ND.unflatten(0, tokens_BTD.shape[:-1])


class _FrozenMLP(torch.autograd.Function):
    """fc2(QuickGELU(fc1(x_ND))), which keeps one tensor for the gradient instead of four.

    With y = 1.702 x, QuickGELU(x) is SiLU(y) / 1.702, which takes one pass over memory. The factors cost nothing
    inside the matrix products, and they cancel in the gradient.
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
    """OpenAI's approximation of GELU, with which its weights were trained."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(SLOPE * x)


def _layer_norm(spec: TowerSpec) -> nn.LayerNorm:
    return nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
