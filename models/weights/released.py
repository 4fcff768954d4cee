"""The authors' released files and what their trainer saves <-> our tensors and config.

Four kinds, recognised by what is in the file, never by its name:

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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from files.picklefile import PickleFile
from gapl.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from models.adapt import LORA_A, base_tower
from models.config import VIT_L14, DetectorConfig, LoraSpec
from models.tower import spec_of
from models.weights.names import DEFAULT

log = logging.getLogger(__name__)

NUM_HEADS = 4
LORA_SCALE = 2  # alpha / r
THRESHOLD = 0.5
MODULES = {
    "feature_extractor": "tower",
    "cross_attention": "attention",
    "foren_proj": "project",
    "fc": "classifier",
}
PROTOTYPES = "prototypes_PE"
LABELS = {"real": 0, "fake": 1}
LABEL_MAPS = ("class_to_idx", "label_map", "labels", "label2id", "classes", "idx_to_class", "id2label")


@dataclass(frozen=True)
class Official:
    """One of the authors' files, in our names.

    kind        "detector", "projection" or "prototypes"
    described   what the log and `inspect` call it
    tensors     those of a PrototypeDetector with LoRA; `project.weight` alone; `prototypes_PE` alone
    config      of a detector
    """

    kind: str
    described: str
    tensors: dict[str, Tensor]
    config: DetectorConfig | None = None


def read_official(file: PickleFile) -> Official:
    """Raises ValueError, one line: what is damaged, hostile, missing, extra, misshaped or not finite."""
    data = file.read()
    if isinstance(data, Tensor):
        official = _from_tensor(data)
    elif isinstance(data, dict):
        official = _from_dictionary(data)
    else:
        raise ValueError(f"a {type(data).__name__}, but none of the authors' files is one")
    for name, tensor in official.tensors.items():
        check_values(name, tensor)
    return official


def _from_tensor(tensor: Tensor) -> Official:
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)}; stage 1's projection and prototypes have two sides"
        )
    rows = _plain("the tensor", tensor)
    if ((rows.norm(dim=1) - 1).abs() < 1e-3).all():
        return Official("prototypes", "the authors' prototypes", {PROTOTYPES: _halves(rows)})
    return Official("projection", "the authors' stage 1 projection", {"project.weight": rows})


def _from_dictionary(data: dict[Any, Any]) -> Official:
    _check_label_maps(data)
    model = data.get("model", data)
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"a dictionary of {_some(data)}; expected `model`, a dictionary of tensors")
    tensors = _our_names(model)
    ignored = sorted(
        str(name) for name in data if model is not data and name not in ("model", "prototype", "propVec")
    )
    if ignored:
        log.info("not needed and left out: %s", ", ".join(filter(str.isprintable, ignored))[:200])
    if set(tensors) == {"project.weight"}:
        return Official("projection", "stage 1 of the released trainer", tensors)
    names = [name for name in ("prototype", "propVec") if isinstance(data.get(name), Tensor)]
    if len(names) != 1:
        raise ValueError("its prototypes are missing: expected the tensor `prototype`, or the trainer's `propVec`")
    tensors[PROTOTYPES] = _halves(_plain(names[0], data[names[0]]))
    described = "the authors' release" if names[0] == "prototype" else "a checkpoint of the released trainer"
    return Official("detector", described, tensors, _config_of(tensors))


def _our_names(model: dict[Any, Tensor]) -> dict[str, Tensor]:
    """Raises ValueError that names a tensor that no GAPL detector has, or one that two names stand for."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.items():
        name = re.sub(r"^(?:module\.|_orig_mod\.)+", "", str(key))
        module, _, rest = name.partition(".")
        rest = rest.removeprefix("vision_model.") if module == "feature_extractor" else rest
        if module not in MODULES or not rest:
            raise ValueError(f"tensor {key!r} is not part of a GAPL detector")
        if rest == "embeddings.position_ids":  # older versions of transformers save them
            if not torch.equal(tensor.flatten(), torch.arange(tensor.numel())):
                raise ValueError(f"tensor {key!r} is not 0, 1, 2, ... as in every CLIP")
            continue
        ours = f"{MODULES[module]}.{rest}"
        if ours in tensors:
            raise ValueError(f"two tensors stand for {name!r}")
        tensors[ours] = _plain(str(key), tensor)
    return tensors


def _config_of(tensors: Mapping[str, Tensor]) -> DetectorConfig:
    """What the shapes tell, and the rest as the release has it."""
    of_tower = {name.removeprefix("tower."): value for name, value in tensors.items() if name.startswith("tower.")}
    tower = spec_of(of_tower)
    rank = _num_rows("its LoRA", of_tower.get(f"encoder.layers.0.self_attn.q_proj.{LORA_A}"))
    embed_dim = _num_rows("tensor 'foren_proj.weight'", tensors.get("project.weight"))
    return DetectorConfig(
        stage=2,
        backbone=DEFAULT if tower == VIT_L14 else "",
        tower=tower,
        pixel=release_pixels(tower.image_size),
        embed_dim=embed_dim,
        num_heads=NUM_HEADS,
        num_prototypes=len(tensors[PROTOTYPES]),
        lora=LoraSpec(rank=rank, alpha=LORA_SCALE * rank),
    )


def _num_rows(what: str, tensor: Tensor | None) -> int:
    if tensor is None or tensor.ndim != 2:
        raise ValueError(f"{what} is missing, or no matrix")
    return len(tensor)


def release_pixels(size_px: int) -> PixelSpec:
    """The release's evaluation view: centre crop without resizing, and ImageNet's normalisation for a CLIP."""
    return PixelSpec(size_px=size_px, mean=IMAGENET_MEAN, std=IMAGENET_STD, small_image="pad", grey16="clip")


def to_official(config: DetectorConfig, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What torch.save makes a released checkpoint of, from a detector's tensors with LoRA.

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
        "preprocessing": _view(config.pixel) != _view(release_pixels(config.tower.image_size)),
    }
    if different := [name for name, differs in differences.items() if differs]:
        raise ValueError(f"the authors' form cannot hold this detector; it differs in its {', '.join(different)}")
    theirs = {ours: name for name, ours in MODULES.items()}
    model: dict[str, Tensor] = {}
    for ours, name in theirs.items():
        of_module = {key: value for key, value in tensors.items() if key.startswith(f"{ours}.")}
        model |= {f"{name}{key.removeprefix(ours)}": value for key, value in of_module.items()}
    return {"model": model, "prototype": tensors[PROTOTYPES]}


def _view(pixel: PixelSpec) -> tuple[Any, ...]:
    """What of a PixelSpec changes the scores of ordinary images."""
    return pixel.size_px, pixel.mean, pixel.std, pixel.resize_px, pixel.small_image


def _check_label_maps(data: dict[Any, Any]) -> None:
    """A file that says which class is which must say what the method says: 0 is real, 1 is fake."""
    for map_name in LABEL_MAPS:
        labels = data.get(map_name)
        labels = dict(enumerate(labels)) if isinstance(labels, list | tuple) else labels
        for key, value in labels.items() if isinstance(labels, dict) else ():
            _check_label(map_name, *((value, key) if isinstance(key, int) else (key, value)))


def _check_label(map_name: str, label: Any, number: Any) -> None:
    for name, expected in LABELS.items():
        if isinstance(label, str) and name in label.lower() and number not in (expected, str(expected)):
            shown = number if isinstance(number, int | str) else f"a {type(number).__name__}"
            raise ValueError(f"{map_name} says {label!r} is {shown}; the method's labels are real 0, fake 1")


def _halves(prototypes_PE: Tensor) -> Tensor:
    """The files do not say which rows stand for which class: the first half is real, the second fake."""
    if prototypes_PE.ndim != 2 or len(prototypes_PE) < 2 or len(prototypes_PE) % 2:
        raise ValueError(f"prototypes of shape {tuple(prototypes_PE.shape)}; expected an even number of vectors")
    return prototypes_PE


def _plain(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        raise ValueError(f"tensor {name!r} is of type {tensor.dtype}; expected torch.float32")
    return tensor.detach().contiguous()


def check_values(name: str, tensor: Tensor) -> None:
    """Raises ValueError for numbers that are not finite, and for a prototype that is zero."""
    if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is cheap, but it may overflow
        raise ValueError(f"tensor {name!r} has values that are not finite numbers")
    if name == PROTOTYPES and not tensor.norm(dim=-1).all():
        raise ValueError("a prototype is zero")


def _some(names: Any) -> str:
    return ", ".join(map(repr, list(names)[:4]))[:160] or "nothing"
