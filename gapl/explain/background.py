"""What is known of the images that a detector was trained on: an explainer file, beside the detector file.

Shape suffixes: D width of a feature, F families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gapl.explain.families import BIAS, WEIGHT, Families, FamilySpec
from gapl.explain.memory import MEMORY, Memory, MemorySpec
from gapl.files import tensorfile
from gapl.files.refusal import check_is_file, refusal
from gapl.schema import build_spec, is_name

FORMAT = "gapl-explainer-1"
SUFFIX = ".explainer"  # in place of the suffix of the detector file
NOTHING = "few training images are nearest to it"
WHAT = "an explainer file of prototype/explainer.py"


@dataclass(frozen=True)
class Described:
    """The training images that are nearer to a prototype than to any other: their families or styles, with shares.

    The smallest shares are left out; all of them where too few images are nearest to it.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        if not all(is_name(name) and 0 <= share <= 1 for name, share in self.shares.items()):
            raise ValueError("a description has names, and shares in [0, 1]")

    def __str__(self) -> str:
        return ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items()) or NOTHING


@dataclass(frozen=True)
class BackgroundSpec:
    """The JSON header of an explainer file.

    head        the fingerprint of the head that this belongs to, see gapl/explain/head.py
    described   of each prototype
    families    None: they cannot be told apart well enough
    memory      None: the distance says nothing of errors
    provenance  how it was made
    """

    head: str
    described: tuple[Described, ...]
    families: FamilySpec | None = None
    memory: MemorySpec | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Background:
    """What an explainer file holds."""

    spec: BackgroundSpec
    families: Families | None
    memory: Memory | None


def read_background(path: Path) -> Background:
    """Read an explainer file. Raises ValueError, one line, when it is damaged, or no file at all."""
    check_is_file(path, what=WHAT)
    try:
        header, tensors = tensorfile.read(path, format=FORMAT)
        spec: BackgroundSpec = build_spec(BackgroundSpec, header)
        return background_of(spec, tensors)
    except ValueError as error:
        raise refusal(path, error, what=WHAT) from error


def background_of(spec: BackgroundSpec, tensors: Mapping[str, np.ndarray]) -> Background:
    """Return what a header and its tensors make. Raises ValueError for tensors that do not fit."""
    if expected := _expected(spec).difference(tensors):
        raise ValueError(f"tensor {min(expected)!r} is missing")
    for name in _expected(spec):
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"tensor {name!r} has values that are no finite numbers")
    families = memory = None
    if spec.families:
        weight_FD, bias_F = (tensors[name].astype(np.float32) for name in (WEIGHT, BIAS))
        num = len(spec.families.names)
        if weight_FD.ndim != 2 or len(weight_FD) != num or bias_F.shape != (num,):
            raise ValueError(f"{len(spec.families.names)} families with weights of shape {weight_FD.shape}")
        families = Families(spec.families, weight_FD=weight_FD, bias_F=bias_F)
    if spec.memory:
        if tensors[MEMORY].ndim != 2:
            raise ValueError(f"a memory of shape {tensors[MEMORY].shape}")
        memory = Memory(spec.memory, memory_NE=tensors[MEMORY])
    return Background(spec, families, memory)


def _expected(spec: BackgroundSpec) -> set[str]:
    return ({WEIGHT, BIAS} if spec.families else set()) | ({MEMORY} if spec.memory else set())
