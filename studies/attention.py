"""Maps of a view by the attention of the tower, to compare with covering parts of the view.

Shape suffixes: B batch, C channels, H, W pixels, or patches in a map, T tokens (class token first), A attention
heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.detector import TowerHead
from models.precision import autocast


def attention_maps(detector: TowerHead, pixels_CHW: np.ndarray, *, precision: str) -> dict[str, np.ndarray]:
    """Return map_HW by the name of each method: which patches of a view that is judged alone speak for fake.

    rollout                the attention of all layers, multiplied (Abnar, Zuidema 2020, arXiv 2005.00928)
    gradient x attention   the same of what raises the logit (Chefer, Gur, Wolf 2021, arXiv 2103.15679)

    detector   of torch, placed for this precision; LoRA merged or not
    """
    device = detector.project.weight.device
    with torch.enable_grad(), autocast(device.type, precision):
        logit, attention = run(detector, torch.from_numpy(pixels_CHW)[None].to(device))
        gradient = torch.autograd.grad(logit, attention)
    num = attention[0].shape[-1]
    identity_TT = torch.eye(num, device=device)
    rollout_TT = relevance_TT = identity_TT
    for found, slope in zip(attention, gradient, strict=True):
        mean_TT = found.detach().float().mean(dim=1)[0]
        rollout_TT = (mean_TT + identity_TT) / 2 @ rollout_TT
        raising_TT = (found.detach().float() * slope.float()).clamp(min=0).mean(dim=1)[0]
        relevance_TT = relevance_TT + raising_TT @ relevance_TT
    return {"rollout": _of_patches(rollout_TT), "gradient x attention": _of_patches(relevance_TT)}


def run(detector: TowerHead, pixels_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logit_B by one view alone, and attention_BATT of each layer: the forward pass, written out."""
    tower = detector.tower
    layers: list[Any] = list(tower.encoder.layers)
    read = detector.whole_layers or detector.feature_layers
    tokens_BTD = tower.pre_layrnorm(tower.embeddings(pixels_BCHW)).detach().requires_grad_()
    attention, classes = [], {}
    for number, layer in enumerate(layers[: max(read, default=len(layers))], 1):
        attention_BATT, mixed_BTD = _attend(layer.self_attn, layer.layer_norm1(tokens_BTD))
        tokens_BTD = tokens_BTD + mixed_BTD
        tokens_BTD = tokens_BTD + layer.mlp(layer.layer_norm2(tokens_BTD))
        attention.append(attention_BATT)
        classes[number] = tokens_BTD[:, 0]
    feature_BD = _feature(detector, classes, read)
    if detector.whole_layers:
        feature_BD = functional.pad(feature_BD, (detector.crop_width, 0))
    return detector.head(feature_BD).logit_B, attention


def _feature(detector: TowerHead, classes: dict[int, Tensor], read: Sequence[int]) -> Tensor:
    if not read:
        last: Tensor = detector.tower.post_layernorm(classes[max(classes)])
        return last
    normalised = [functional.layer_norm(classes[number].float(), classes[number].shape[-1:]) for number in read]
    return torch.cat(normalised, dim=-1)


def _attend(layer: Any, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention_BATT and what it makes of the tokens, mixed_BTD."""

    def by_head(project: nn.Module) -> Tensor:
        found: Tensor = project(tokens_BTD)
        return found.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)

    query, key, value = map(by_head, (layer.q_proj, layer.k_proj, layer.v_proj))
    attention_BATT = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    mixed = attention_BATT.to(value.dtype) @ value
    return attention_BATT, layer.out_proj(mixed.transpose(1, 2).flatten(2))


def _of_patches(relevance_TT: Tensor) -> np.ndarray:
    """Return what the class token takes from each patch: map_HW."""
    of_class_T = relevance_TT[0, 1:].cpu().numpy()
    side = math.isqrt(len(of_class_T))
    return of_class_T.reshape(side, side)
