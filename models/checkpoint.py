"""Self-describing detector files: safetensors whose JSON header rebuilds the detector from the path alone.

Two forms. `adapter`: all that training changed (LoRA, projection, attention, classifier, prototypes), a few
MB, beside a backbone that is named and fingerprinted. `merged`: one whole network without LoRA.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import tensorfile
from models.adapt import has_lora, merge_lora
from models.backbone import TINY, fingerprint, load_backbone
from models.config import DetectorConfig
from models.detector import TowerHead, build_detector

FORMAT = "gapl-detector-1"
FORMS = ("adapter", "merged")
PACKAGES = ("torch", "torchvision", "transformers", "peft", "safetensors", "numpy", "pillow")


@dataclass
class Checkpoint:
    """A detector and all that its file says of it.

    threshold   score from which an image is called fake
    backbone_fingerprint   of the tower without LoRA, see models.backbone.fingerprint
    notice      what a user must know of its verdicts, or nothing
    provenance  prototypes (method, sources, seed), recipe, training data, seed
    versions    of the packages that made the file
    """

    detector: TowerHead
    config: DetectorConfig
    backbone_fingerprint: str
    threshold: float = 0.5
    notice: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    form: str = "adapter"
    versions: dict[str, str] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the file whole or not at all. For `merged`, the LoRA is merged into the detector, in place."""
    if checkpoint.form not in FORMS:
        raise ValueError(f"unknown form {checkpoint.form!r}; choose from {', '.join(FORMS)}")
    config, detector = checkpoint.config, checkpoint.detector
    if checkpoint.form == "merged":
        merge_lora(detector.tower)
        config = replace(config, lora=None)
    elif config.lora and not has_lora(detector.tower):
        raise ValueError("the LoRA of this detector is merged into its tower; it can only be saved as merged")
    state = detector.state_dict()
    names = state if checkpoint.form == "merged" else adapter_names(state)
    header = {
        "form": checkpoint.form,
        "config": config.to_json(),
        "backbone_fingerprint": checkpoint.backbone_fingerprint,
        "threshold": checkpoint.threshold,
        "notice": checkpoint.notice,
        "provenance": checkpoint.provenance,
        "versions": package_versions(),
    }
    tensorfile.write(path, {name: state[name] for name in names}, format=FORMAT, header=header)


def load_checkpoint(path: Path, *, merge: bool = True, allow_tiny: bool = False) -> Checkpoint:
    """The detector of a file, in evaluation mode, on the CPU.

    merge       fold LoRA into the weights (faster; scores agree within 1e-5)
    allow_tiny  accept a detector on the random test tower, whose verdicts mean nothing

    Raises ValueError that names what is wrong: no file, another format, a missing, extra or misshaped tensor,
    a backbone whose weights differ from those the adapter was trained on.
    """
    header, tensors = tensorfile.read(path, format=FORMAT, what="a detector", made_by="train.py")
    config = DetectorConfig.from_json(header["config"])
    if config.backbone == TINY and not allow_tiny:
        raise ValueError(
            f"{path}: trained on the random `{TINY}` tower, for tests only; its verdicts mean nothing"
        )
    if header["form"] == "adapter":
        tower = load_backbone(config.backbone).tower
        if fingerprint(tower.state_dict()) != header["backbone_fingerprint"]:
            raise ValueError(f"{path}: its adapter belongs to other weights of {config.backbone} than those found")
        detector = build_detector(config, tower)
        check_names(tensors, adapter_names(detector.state_dict()), source=path)
    else:
        detector = build_detector(config)
        check_names(tensors, detector.state_dict(), source=path)
    detector.load_state_dict(detector.state_dict() | tensors)  # an adapter leaves the tower's own weights
    if merge:
        merge_lora(detector.tower)
    kept = ("backbone_fingerprint", "threshold", "notice", "provenance", "form", "versions")
    return Checkpoint(detector.eval(), config, **{name: header[name] for name in kept})


def adapter_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a detector's state that training changes, prototypes included."""
    return {name: value for name, value in state.items() if not name.startswith("tower.") or ".lora_" in name}


def check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: Path) -> None:
    """Raises ValueError that names the first missing, extra or misshaped tensor."""
    for problem, names in (
        ("is missing", sorted(set(expected) - set(found))),
        ("is not part of this detector", sorted(set(found) - set(expected))),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"{source}: tensor {names[0]!r} {problem}{more}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            shapes = f"{tuple(found[name].shape)}, expected {tuple(value.shape)}"
            raise ValueError(f"{source}: tensor {name!r} has shape {shapes}")


def package_versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}
