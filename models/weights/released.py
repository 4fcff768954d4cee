"""Released files: those of the method's authors and of their trainer <-> our tensors and config.

There are four kinds, recognised by what is in the file, never by its name:

    a dictionary with `model` and `prototype`, or `propVec` from the released trainer   stage 2, with the tower
    a dictionary with `model`, which holds `foren_proj.weight` alone                    stage 1's projection
    a bare tensor (E, D)                                                                stage 1's projection
    a bare tensor (P, E) of unit rows, real first, then fake                            prototypes

Prefixes of DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) are taken off, as is
`vision_model.` before the tower's names.

Shape suffixes: P prototypes, E embedding, D tower width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapl.config import VIT_L14, DetectorConfig, LoraSpec
from gapl.info import LABELS, RELEASED_FORM, DetectorInfo
from gapl.lora import LORA_A
from gapl.names import DEFAULT
from gapl.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from models import torchfile
from models.adapt import base_tower
from models.tower import spec_of
from models.weights.backbone import fingerprint
from models.weights.stored import Stored
from models.weights.tensors import PROTOTYPES, check_dtype, check_shapes, check_values, expected_shapes

log = logging.getLogger(__name__)

NUM_HEADS = 4
LORA_SCALE = 2  # alpha / r
MODULES = {
    "feature_extractor": "tower",
    "cross_attention": "attention",
    "foren_proj": "project",
    "fc": "classifier",
}
PROTOTYPE_NAMES = ("prototype", "propVec")  # of the release, and of the released trainer
LABEL_MAPS = ("class_to_idx", "label_map", "labels", "label2id", "classes", "idx_to_class", "id2label")


def read_released(path: Path) -> Stored:
    """Return what a released file holds, in our names.

    Raises ValueError, one line: what is damaged, missing, extra, not finite, or of another shape or type.
    """
    data = torchfile.read(path)
    if isinstance(data, Tensor):
        stored = _from_tensor(data)
    elif isinstance(data, dict):
        stored = _from_dictionary(data)
    else:
        raise ValueError(f"a {type(data).__name__}, but no released file is one")
    for name, tensor in stored.tensors.items():
        check_values(name, tensor)
    return stored


def _from_tensor(tensor: Tensor) -> Stored:
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}; stage 1's projection and prototypes have two sides"
        )
    rows = _plain("the tensor", tensor)
    if ((rows.norm(dim=1) - 1).abs() < 1e-3).all():
        return Stored("released prototypes", {PROTOTYPES: _halves(rows)})
    return Stored("released stage 1 projection", {"project.weight": rows})


def _from_dictionary(data: dict[Any, Any]) -> Stored:
    _check_label_maps(data)
    model = data.get("model", data)
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"a dictionary of {_some(data)}; expected `model`, a dictionary of tensors")
    tensors = _our_names(model)
    if model is not data:
        _log_ignored(data)
    if set(tensors) == {"project.weight"}:
        return Stored("stage 1 of the released trainer", tensors)
    names = [name for name in PROTOTYPE_NAMES if isinstance(data.get(name), Tensor)]
    if len(names) != 1:
        raise ValueError("its prototypes are missing: expected the tensor `prototype`, or the trainer's `propVec`")
    tensors[PROTOTYPES] = _halves(_plain(names[0], data[names[0]]))
    described = "released checkpoint" if names[0] == "prototype" else "checkpoint of the released trainer"
    config = _config_of(tensors)
    check_shapes(tensors, expected_shapes(config, "full"))
    info = DetectorInfo(
        config=config,
        backbone_fingerprint=fingerprint(base_tower(tensors)),
        provenance={"source": described},
        form=RELEASED_FORM,
    )
    return Stored(described, tensors, info)


def _log_ignored(data: dict[Any, Any]) -> None:
    ignored = sorted(str(name) for name in data if name not in ("model", *PROTOTYPE_NAMES))
    if ignored:
        log.info("not needed and left out: %s", ", ".join(filter(str.isprintable, ignored))[:200])


def _our_names(model: dict[Any, Tensor]) -> dict[str, Tensor]:
    """Raise ValueError that names a tensor that no GAPL detector has, or one that two names stand for."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.items():
        name = re.sub(r"^(?:module\.|_orig_mod\.)+", "", str(key))
        module, _, rest = name.partition(".")
        rest = rest.removeprefix("vision_model.") if module == "feature_extractor" else rest
        if module not in MODULES or not rest:
            raise ValueError(f"tensor {key!r} is not part of a GAPL detector")
        if rest == "embeddings.position_ids":  # older versions of transformers save them
            _check_dense(str(key), tensor)
            if tensor.flatten().tolist() != list(range(tensor.numel())):
                raise ValueError(f"tensor {key!r} is not 0, 1, 2, ... as in every CLIP")
            continue
        ours = f"{MODULES[module]}.{rest}"
        if ours in tensors:
            raise ValueError(f"two tensors stand for {name!r}")
        tensors[ours] = _plain(str(key), tensor)
    return tensors


def _config_of(tensors: Mapping[str, Tensor]) -> DetectorConfig:
    """Return what the shapes tell, and the rest as the release has it."""
    of_tower = {name.removeprefix("tower."): value for name, value in tensors.items() if name.startswith("tower.")}
    tower = spec_of(of_tower)
    rank = _num_rows("its LoRA", of_tower.get(f"encoder.layers.0.self_attn.q_proj.{LORA_A}"))
    embed_dim = _num_rows("tensor 'foren_proj.weight'", tensors.get("project.weight"))
    return DetectorConfig(
        stage=2,
        backbone=DEFAULT if tower == VIT_L14 else "",
        tower=tower,
        pixel=released_pixels(tower.image_size),
        embed_dim=embed_dim,
        num_heads=NUM_HEADS,
        num_prototypes=len(tensors[PROTOTYPES]),
        lora=LoraSpec(rank=rank, alpha=LORA_SCALE * rank),
    )


def _num_rows(what: str, tensor: Tensor | None) -> int:
    if tensor is None or tensor.ndim != 2:
        raise ValueError(f"{what} is missing, or no matrix")
    return len(tensor)


def released_pixels(size_px: int) -> PixelSpec:
    """Return the release's evaluation view: centre crop without resizing, ImageNet's normalisation for a CLIP."""
    return PixelSpec(size_px=size_px, mean=IMAGENET_MEAN, std=IMAGENET_STD, small_image="pad", conversion="pillow")


def to_released(config: DetectorConfig, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what torch.save makes a released checkpoint of, from a detector's tensors with LoRA.

    Raises ValueError for a detector whose scores the release's code would not reproduce.
    """
    differences = {
        "stage": config.stage != 2,
        "merged LoRA": config.lora is None,
        "LoRA's scale or targets": config.lora is not None
        and (config.lora.scale, config.lora.targets) != (LORA_SCALE, LoraSpec().targets),
        "feature layers": bool(config.feature_layers),
        "attention heads": config.num_heads != NUM_HEADS,
        "tower": spec_of(base_tower(tensors)) != config.tower,
        "preprocessing": _view(config.pixel) != _view(released_pixels(config.tower.image_size)),
    }
    if different := [name for name, differs in differences.items() if differs]:
        raise ValueError(f"the released form cannot hold this detector; it differs in its {', '.join(different)}")
    model: dict[str, Tensor] = {}
    for theirs, ours in MODULES.items():
        of_module = {key: value for key, value in tensors.items() if key.startswith(f"{ours}.")}
        model |= {f"{theirs}{key.removeprefix(ours)}": value for key, value in of_module.items()}
    return {"model": model, "prototype": tensors[PROTOTYPES]}


def _view(pixel: PixelSpec) -> tuple[Any, ...]:
    """Return what of a PixelSpec changes the scores of ordinary images."""
    return pixel.size_px, pixel.mean, pixel.std, pixel.resize_px, pixel.small_image, pixel.views


def _check_label_maps(data: dict[Any, Any]) -> None:
    """Raise ValueError when the file says that classes have other numbers than the method's: 0 real, 1 fake."""
    for map_name in LABEL_MAPS:
        labels = data.get(map_name)
        labels = dict(enumerate(labels)) if isinstance(labels, list | tuple) else labels
        for key, value in labels.items() if isinstance(labels, dict) else ():
            label, number = (value, key) if isinstance(key, int) else (key, value)
            _check_label(map_name, label, number)


def _check_label(map_name: str, label: Any, number: Any) -> None:
    for name, expected in LABELS.items():
        if not isinstance(label, str) or name not in label.lower():
            continue
        shown = number if isinstance(number, int | str) else f"a {type(number).__name__}"
        if shown not in (expected, str(expected)):
            raise ValueError(f"{map_name} says {label!r} is {shown}; the method's labels are real 0, fake 1")


def _halves(prototypes_PE: Tensor) -> Tensor:
    """Check that they can be halved: the files do not say which rows are real, but the first half is."""
    if prototypes_PE.ndim != 2 or len(prototypes_PE) < 2 or len(prototypes_PE) % 2:
        raise ValueError(f"prototypes of shape {tuple(prototypes_PE.shape)}; expected an even number of vectors")
    return prototypes_PE


def _plain(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor in order of its indices, if it is a dense one of type float32."""
    check_dtype(name, tensor, torch.float32)
    _check_dense(name, tensor)
    return tensor.detach().contiguous()


def _check_dense(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless each element is in the file: a stride of 0 would make terabytes of a few bytes."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(f"tensor {name!r} is sparse or quantized")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise ValueError(f"damaged: tensor {name!r} is larger than its bytes")


def _some(names: Any) -> str:
    return ", ".join(map(repr, list(names)[:4]))[:160] or "nothing"
