"""open_clip's vision towers -> ours, with the same feature."""

from __future__ import annotations

import re

import open_clip
import torch
from open_clip.transformer import QuickGELU, VisionTransformer

from gapl.config import TowerSpec
from gapl.pixels import PixelSpec
from models.tower import VisionTower, build_tower


def load_open_clip(model_name: str, weights: str) -> tuple[VisionTower, PixelSpec]:
    """Return the tower of an open_clip model and how its pixels are made.

    weights: a tag that open_clip knows, or a file.

    Raises ValueError for an unknown model, or one that our tower cannot express.
    """
    if weights == "openai" and not model_name.endswith("-quickgelu"):
        model_name += "-quickgelu"
    if open_clip.get_model_config(model_name) is None:
        raise ValueError(f"open_clip has no model {model_name!r}; see open_clip.list_models()")
    visual = open_clip.create_model(model_name, pretrained=weights).visual
    tower = convert_open_clip(visual)
    (r, g, b), (std_r, std_g, std_b) = visual.image_mean, visual.image_std
    return tower, PixelSpec(size_px=tower.spec.image_size, mean=(r, g, b), std=(std_r, std_g, std_b))


def convert_open_clip(visual: torch.nn.Module) -> VisionTower:
    """Return open_clip's VisionTransformer as our tower, with the same output before the visual projection.

    Raises ValueError for towers that ours cannot express (convolutional, average-pooled, ...).
    """
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
        raise ValueError("only open_clip towers with a class token and no attention pooling can be used")
    if not isinstance(visual.ln_pre, torch.nn.LayerNorm):
        raise ValueError("only open_clip towers with a layer norm before the first block can be used")
    block = visual.transformer.resblocks[0]
    spec = TowerSpec(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        hidden_act="quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
        layer_norm_eps=visual.ln_post.eps,
    )
    return build_tower(spec, _rename({key: value.float() for key, value in visual.state_dict().items()}))


def _rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors by transformers' names, which are ours."""
    renamed = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
    }
    parts = {
        "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for key, value in state.items():
        path, _, kind = key.rpartition(".")
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", path)
        prefix, path = (f"encoder.layers.{block[1]}.", block[2]) if block else ("", path)
        if path == "attn":  # in_proj_weight and in_proj_bias hold q, k and v one after the other
            for name, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}self_attn.{name}_proj.{kind.removeprefix('in_proj_')}"] = part
        elif path in parts:
            renamed[f"{prefix}{parts[path]}.{kind}"] = value
        elif key not in ("class_embedding", "positional_embedding", "conv1.weight", "proj"):
            raise ValueError(f"open_clip tensor {key!r} has no place in a CLIP vision tower")
    return renamed
