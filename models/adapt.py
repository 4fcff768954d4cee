"""LoRA on a vision tower: add it, name its tensors as peft does, merge it into the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from models.config import LoraSpec
from models.lora import LORA_A, LORA_B, LoraLinear

BASE = "base_layer."  # peft's name


def add_lora(tower: nn.Module, spec: LoraSpec) -> None:
    """Freeze the tower and put low-rank updates beside its target projections, in place.

    The updates start as zero (B = 0), so the tower's output does not change before training.
    Raise ValueError when the targets name no layer, or one that is not linear.
    """
    tower.requires_grad_(False)
    ends = tuple(f".{target}" for target in spec.targets)
    found = {
        path: module
        for path, module in tower.named_modules()
        if f".{path}".endswith(ends) and _has_updates(path, spec)
    }
    if not found or not all(isinstance(module, nn.Linear) for module in found.values()):
        raise ValueError(f"LoRA targets {', '.join(spec.targets)}: they must name linear layers of the tower")
    for path, linear in found.items():
        assert isinstance(linear, nn.Linear)
        tower.set_submodule(path, LoraLinear(linear, spec))


def _has_updates(name: str, spec: LoraSpec) -> bool:
    """Tell whether a module or tensor of this name is in a layer that has updates, or in no layer at all."""
    layer = re.search(r"\bencoder\.layers\.(\d+)\.", name)
    return not spec.num_layers or layer is None or int(layer[1]) < spec.num_layers


def is_lora(name: str) -> bool:
    """Tell whether a tensor of this name is part of an update."""
    return ".lora_" in name


def base_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the tower's own tensors from those of a detector: without LoRA, under the names of a plain tower."""
    named = {name.removeprefix("tower."): value for name, value in state.items() if name.startswith("tower.")}
    return {name.replace(BASE, ""): value for name, value in named.items() if not is_lora(name)}


def name_base(names: Iterable[str], spec: LoraSpec) -> dict[str, str]:
    """Map each name of a plain tower to its name with LoRA, where an updated layer is called `base_layer`."""
    targets = re.compile(rf"(.+\.(?:{'|'.join(map(re.escape, spec.targets))})\.)(weight|bias)")
    found = {name: targets.fullmatch(name) if _has_updates(name, spec) else None for name in names}
    return {name: f"{target[1]}{BASE}{target[2]}" if target else name for name, target in found.items()}


def add_lora_shapes(shapes: Mapping[str, torch.Size], spec: LoraSpec) -> dict[str, torch.Size]:
    """Return the names and shapes of a tower with LoRA from those of the same tower without it."""
    with_lora = {}
    for name, based in name_base(shapes, spec).items():
        with_lora[based] = shape = shapes[name]
        if based != name and len(shape) == 2:
            path = name.removesuffix("weight")
            with_lora[path + LORA_A] = torch.Size((spec.rank, shape[1]))
            with_lora[path + LORA_B] = torch.Size((shape[0], spec.rank))
    return with_lora


@torch.no_grad()
def merge_lora(state: Mapping[str, Tensor], spec: LoraSpec, *, in_place: bool = False) -> dict[str, Tensor]:
    """Return the tensors without LoRA: every update is added to its weight, W + alpha/r B A.

    in_place   change the weights of `state` themselves, which saves the memory of copies
    """
    merged = {}
    for name, tensor in state.items():
        if is_lora(name):
            continue
        plain = name.replace(BASE, "")
        path = plain.removesuffix("weight")
        if path + LORA_A in state:
            add = tensor.addmm_ if in_place else tensor.addmm
            tensor = add(state[path + LORA_B], state[path + LORA_A], alpha=spec.scale)
        merged[plain] = tensor
    return merged
