"""The tensors of a tower with LoRA: their names, which are peft's, and how updates become part of the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gapl.config import LoraSpec

BASE = "base_layer."
LORA_A, LORA_B = "lora_A.default.weight", "lora_B.default.weight"


def is_lora(name: str) -> bool:
    """Tell whether a tensor of this name is part of an update."""
    return ".lora_" in name


def has_updates(name: str, spec: LoraSpec) -> bool:
    """Tell whether a module or tensor of this name is in a layer that has updates, or in no layer at all."""
    layer = re.search(r"\bencoder\.layers\.(\d+)\.", name)
    return not spec.num_layers or layer is None or int(layer[1]) < spec.num_layers


def name_base(names: Iterable[str], spec: LoraSpec) -> dict[str, str]:
    """Map each name of a plain tower to its name with LoRA, where an updated layer is called `base_layer`."""
    targets = re.compile(rf"(.+\.(?:{'|'.join(map(re.escape, spec.targets))})\.)(weight|bias)")
    found = {name: targets.fullmatch(name) if has_updates(name, spec) else None for name in names}
    return {name: f"{target[1]}{BASE}{target[2]}" if target else name for name, target in found.items()}


def merge_lora(state: Mapping[str, Any], spec: LoraSpec, *, in_place: bool = False) -> dict[str, Any]:
    """Return the tensors without LoRA: every update is added to its weight, W + alpha/r B A.

    state      arrays of NumPy, or tensors of torch that need no gradient
    in_place   change the weights of `state` themselves, which saves the memory of copies
    """
    merged = {}
    for name, weight in state.items():
        if is_lora(name):
            continue
        plain = name.replace(BASE, "")
        path = plain.removesuffix("weight")
        if path + LORA_A in state:
            update = spec.scale * (state[path + LORA_B] @ state[path + LORA_A])
            if in_place:
                weight += update
            else:
                weight = weight + update
        merged[plain] = weight
    return merged
