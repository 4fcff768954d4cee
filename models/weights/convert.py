"""Detector files from one form to another."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gapl.config import DetectorConfig
from gapl.files.checksum import sha256_of
from gapl.info import RELEASED_FORM, THRESHOLD
from models import torchfile
from models.adapt import base_tower
from models.weights.backbone import load_backbone
from models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.weights.released import to_released

log = logging.getLogger(__name__)


def convert(
    source: Path,
    out: Path,
    *,
    form: str,
    dtype: str = "float32",
    backbone: str | None = None,
    save_backbone: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the detector of `source` to `out` in another form: adapter, full, merged or released.

    dtype          of a merged file's tower; nothing else changes scores
    backbone       of an adapter: where its tower is, or what it is to be called; compared to the bit
    save_backbone  for an adapter: a transformers folder to which the source's own tower is written, and which
                   the adapter then names

    Raises ValueError when that cannot be, or when a file is there already and `overwrite` is not set.
    """
    for path in (out, save_backbone):
        if path and path.exists() and not overwrite:
            raise ValueError(f"{path} exists; name another, or pass --overwrite to replace it")
    if save_backbone and (form != "adapter" or backbone):
        raise ValueError("--save-backbone is for --form adapter, and instead of --backbone")
    whole = load_checkpoint(source, merge=False, backbone=backbone, allow_tiny=True)
    if whole.form == "merged" and form != "merged":
        raise ValueError(f"{source}: its LoRA is merged and cannot be taken out again; only --form merged is left")
    if form == RELEASED_FORM:
        _warn_of_losses(whole)
        torchfile.write(out, to_released(whole.config, whole.detector.state_dict()))
        return
    if form == "adapter" and whole.form != "adapter":
        name = _name_backbone(whole, source, backbone=backbone, save_backbone=save_backbone)
        whole.config = replace(whole.config, backbone=name)
    whole.provenance.setdefault("converted", {"from": whole.form, "sha256": sha256_of(source)})
    save_checkpoint(out, replace(whole, form=form), dtype=dtype)


def _warn_of_losses(whole: Checkpoint) -> None:
    """Log what the released form does not hold: logits survive in it, but not all else that a user may rely on."""
    lost = {
        "the calibration, so that scores differ": whole.calibration is not None,
        f"the threshold {whole.threshold}": whole.threshold != THRESHOLD,
        f"the notice {whole.notice!r}": bool(whole.notice),
        "how images become RGB": whole.config.pixel.conversion != "pillow",
    }
    if named := [name for name, is_lost in lost.items() if is_lost]:
        log.warning("the released form does not hold %s", ", ".join(named))


def _name_backbone(whole: Checkpoint, source: Path, *, backbone: str | None, save_backbone: Path | None) -> str:
    """Return what the adapter is to call its backbone, once that is known to be this tower to the bit."""
    state = base_tower(whole.detector.state_dict())
    if save_backbone:
        write_backbone(save_backbone, state, whole.config)
        return str(save_backbone)
    name = backbone or whole.config.backbone
    if not name:
        raise ValueError(f"{source}: its tower has no name; give --backbone, or --save-backbone FOLDER")
    try:
        found = load_backbone(name).tower.state_dict()
    except ValueError as error:
        raise ValueError(f"{error}; or --save-backbone FOLDER, which takes it out of {source}") from error
    if differing := [key for key in state if key not in found or not torch.equal(found[key], state[key])]:
        raise ValueError(f"--backbone {name}: not the tower of {source}; {differing[0]!r} differs")
    return name


def write_backbone(folder: Path, state: dict[str, Tensor], config: DetectorConfig) -> None:
    """Write a tower as a folder that transformers, and so --backbone, can read."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tower = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"], **asdict(config.tower)}
    (folder / "config.json").write_text(json.dumps(tower, indent=2))
    pixel = {
        "image_mean": config.pixel.mean,
        "image_std": config.pixel.std,
        "image_processor_type": "CLIPImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixel, indent=2))
