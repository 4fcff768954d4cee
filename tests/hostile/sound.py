"""Sound files of every form, small, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapl.pixels import PixelSpec
from models.config import DetectorConfig, LoraSpec, TowerSpec
from models.detector import build_detector
from models.tower import VisionTower
from models.weights.backbone import fingerprint, load_backbone
from models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.weights.names import TINY
from models.weights.released import release_pixels, to_official
from prototype.bank import PrototypeBank

IMAGE = Path(__file__).resolve().parent.parent.parent / "assets" / "test_image.jpg"
SPEC = TowerSpec(64, 64, 2, 1, image_size=32, patch_size=8)
LORA = LoraSpec(rank=2, alpha=4)
EMBED_DIM, NUM_PROTOTYPES = 128, 4
SUFFIXES = {"official": ".pt", "trainer": ".pt", "stage1": ".pt", "prototypes": ".pt"}
ZIPS, OURS = tuple(SUFFIXES), ("full", "merged", "adapter", "bank")

Change = Callable[[dict[str, Any]], object]
Made = Iterator[tuple[str, str, bytes]]  # kind, base, content


@dataclass(frozen=True)
class Case:
    """A hostile file: the kind of its damage, the sound file it was made of, and where it is."""

    kind: str
    base: str
    path: Path


def load(base: str, path: Path) -> dict[str, Tensor]:
    """All tensors of what a file made of the sound one called `base` is read as."""
    if base in ("bank", "prototypes"):
        read = PrototypeBank.load(path)
        return {"vectors": read.vectors_PE, "labels": read.labels_P}
    projection = base == "stage1"
    found = load_checkpoint(
        path, allow_tiny=True, allow_projection=projection, backbone=TINY if projection else None
    )
    return {
        name: tensor for name, tensor in found.detector.state_dict().items() if not projection or "proj" in name
    }


def good_files(folder: Path) -> dict[str, Path]:
    """Sound files of every form, each with random weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {base: folder / f"{base}{SUFFIXES.get(base, '.safetensors')}" for base in (*ZIPS, *OURS)}
    half_PE = torch.linalg.qr(torch.randn(EMBED_DIM, NUM_PROTOTYPES))[0].T.contiguous()
    released = _checkpoint("", SPEC, release_pixels(SPEC.image_size), VisionTower(SPEC))
    theirs = to_official(released.config, released.detector.state_dict())
    torch.save(theirs, paths["official"])
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}},
        "param_groups": [{"lr": 0.1}],
    }
    resumed = {"optimizer": optimizer, "epoch": 3, "scheduler": {"last_epoch": 3, "betas": (0.9, 0.999)}}
    torch.save({"model": theirs["model"], "propVec": theirs["prototype"], **resumed}, paths["trainer"])
    torch.save(torch.randn(EMBED_DIM, 32), paths["stage1"])
    torch.save(half_PE, paths["prototypes"])
    save_checkpoint(paths["full"], replace(released, form="full"))
    save_checkpoint(paths["merged"], replace(released, form="merged"), dtype="bfloat16")
    tiny = load_backbone(TINY)
    save_checkpoint(paths["adapter"], _checkpoint(TINY, tiny.tower.spec, tiny.pixel, tiny.tower))
    labels_P = torch.arange(2).repeat_interleave(NUM_PROTOTYPES // 2)
    PrototypeBank(half_PE, labels_P, {"method": "kmeans", "seed": 0}).save(paths["bank"])
    return paths


def _checkpoint(name: str, spec: TowerSpec, pixel: PixelSpec, tower: VisionTower) -> Checkpoint:
    found = fingerprint(tower.state_dict())
    config = DetectorConfig(2, name, spec, pixel, num_prototypes=NUM_PROTOTYPES, lora=LORA)
    detector = build_detector(config, tower)
    with torch.no_grad():
        for key, tensor in detector.state_dict().items():
            if not key.startswith("tower.") or ".lora_" in key:
                tensor.normal_(0, 0.3)
    return Checkpoint(detector.eval(), config, found)
