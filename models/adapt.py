"""LoRA on a vision tower: added, named as peft does, and merged into the weights by one matrix product each."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from models.config import LoraSpec
from models.lora import LORA_A, LORA_B, LoraLinear

BASE = "base_layer."  # peft's name

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def add_lora(tower: nn.Module, spec: LoraSpec) -> None:
    """Freezes the tower and puts low-rank updates beside its target projections, in place.

    The updates start as zero (B = 0), so the tower's output is unchanged until training.
    Raises ValueError when targets name no layer, or one that is not linear.
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
    """Whether the layer of the tower that a module or tensor of this name is in, if in any, has updates."""
    layer = re.search(r"\bencoder\.layers\.(\d+)\.", name)
    return not spec.num_layers or layer is None or int(layer[1]) < spec.num_layers


def has_lora(tower: nn.Module) -> bool:
    """Whether there are updates that are not merged."""
    return any(name.endswith(LORA_A) for name in tower.state_dict())


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is part of an update."""
    return ".lora_" in name


def base_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tower's own tensors, without LoRA and under their own names, of those of a detector."""
    named = {name.removeprefix("tower."): value for name, value in state.items() if name.startswith("tower.")}
    return {name.replace(BASE, ""): value for name, value in named.items() if not is_lora(name)}


def name_base(names: Iterable[str], spec: LoraSpec) -> dict[str, str]:
    """Name without LoRA -> name with it: what an update is added to is called `base_layer` then."""
    targets = re.compile(rf"(.+\.(?:{'|'.join(map(re.escape, spec.targets))})\.)(weight|bias)")
    found = {name: targets.fullmatch(name) if _has_updates(name, spec) else None for name in names}
    return {name: f"{target[1]}{BASE}{target[2]}" if target else name for name, target in found.items()}


def add_lora_shapes(shapes: Mapping[str, torch.Size], spec: LoraSpec) -> dict[str, torch.Size]:
    """Names and shapes of tensors once the tower has LoRA, from those that it has without."""
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
    """The tensors without LoRA: every update is added to the weight that it updates, W + alpha/r B A.

    in_place changes the weights of `state` themselves, which saves their copies.
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


def cast_frozen_linears(tower: nn.Module, dtype: torch.dtype) -> None:
    """Stores the linear weights that do not train in `dtype`, so that autocast need not, at every step."""
    for module in tower.modules():
        if isinstance(module, nn.Linear) and not any(p.requires_grad for p in module.parameters()):
            module.to(dtype)


def keep_freed_memory() -> None:
    """Lets this process reuse the memory of freed tensors, for training on a processor.

    As it is, glibc gives large blocks back to the system at once, and every step's activations are cleared anew,
    page by page. Other C libraries are left as they are.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters."""
    every = sum(parameter.numel() for parameter in module.parameters())
    return every, sum(p.numel() for p in module.parameters() if p.requires_grad)
