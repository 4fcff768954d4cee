"""Detector files -> detectors: ours, and the authors'. `python -m models.weights` converts and inspects them.

Ours are safetensors whose JSON header rebuilds the detector from the path alone, in three forms:

    adapter   what training changed (LoRA, projection, attention, classifier, prototypes), beside a backbone that
              is named and fingerprinted
    full      the same and the backbone
    merged    one network without LoRA, its tower in float32, bfloat16 or float16
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import PickleFile, TensorFile, WeightFile, open_weights, refusal, tensorfile
from gapl.calibration import BALANCED, Calibration
from models.adapt import add_lora_shapes, base_tower, has_lora, is_lora, merge_lora, name_base
from models.config import DetectorConfig
from models.detector import TowerHead, build_detector
from models.weights.backbone import fingerprint, load_backbone
from models.weights.names import DEFAULT, DETECTOR_FILE, DTYPES, FORMS, TINY
from models.weights.released import LABELS, THRESHOLD, Official, check_values, read_official, release_pixels
from models.weights.versions import package_versions

log = logging.getLogger(__name__)

FORMAT = "gapl-detector-1"


@dataclass
class Checkpoint:
    """A detector and all that its file says of it.

    threshold   score from which an image is called fake
    calibration what turns logits into probabilities and verdicts that may be "unsure"; None: the sigmoid does
    backbone_fingerprint   of the tower without LoRA, see models.weights.backbone.fingerprint
    notice      what a user must know of its verdicts, or nothing
    provenance  prototypes (method, sources, seed), recipe, training data, seed
    form        adapter, full or merged; official or projection for the authors' files
    versions    of the packages that made the file
    """

    detector: TowerHead
    config: DetectorConfig
    backbone_fingerprint: str
    threshold: float = THRESHOLD
    notice: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    form: str = "adapter"
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Stored:
    """What a detector file holds, found sound but not built. `config` of a projection is None: it has no tower."""

    form: str
    described: str
    config: DetectorConfig | None
    tensors: dict[str, Tensor]
    backbone_fingerprint: str = ""
    threshold: float = THRESHOLD
    notice: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None


# ---------------------------------------------------------------------------------------------------------
# Writing


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, dtype: str = "float32") -> None:
    """Writes the file whole or not at all. dtype: of the tower, in the form `merged`."""
    config, form = checkpoint.config, checkpoint.form
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose from {', '.join(FORMS)}")
    if dtype not in DTYPES or (dtype != "float32" and form != "merged"):
        raise ValueError(f"a {form} file cannot be of type {dtype}; only a merged one can be {', '.join(DTYPES)}")
    if form != "merged" and config.lora and not has_lora(checkpoint.detector.tower):
        raise ValueError("the LoRA of this detector is merged into its tower; it can only be saved as merged")
    if form == "adapter" and not config.backbone:
        raise ValueError(
            "an adapter leaves out the backbone, and this detector names none; save it as full or merged"
        )
    state: Mapping[str, Tensor] = checkpoint.detector.state_dict()
    if form == "merged":
        state = merge_lora(state, config.lora) if config.lora else state
        state = {name: _shorten(name, value, getattr(torch, dtype)) for name, value in state.items()}
        config = replace(config, lora=None)
    names = adapter_names(state) if form == "adapter" else state
    header = {
        "form": form,
        "dtype": dtype,
        "labels": LABELS,
        "config": config.to_json(),
        "backbone_fingerprint": checkpoint.backbone_fingerprint,
        "threshold": checkpoint.threshold,
        "notice": checkpoint.notice,
        "provenance": checkpoint.provenance,
        "versions": package_versions(),
        "calibration": checkpoint.calibration and checkpoint.calibration.to_dict(),
    }
    tensorfile.write(path, {name: state[name] for name in names}, format=FORMAT, header=header)


def store_calibration(source: Path, calibration: Calibration, *, out: Path) -> None:
    """The detector file with its calibration, and the threshold of the operating point "balanced"; else the same.

    But for where its training images lay, of which the names are left: such a file goes to others.
    Raises ValueError when `source` is no detector file of this project.
    """
    file = open_weights(source, what=DETECTOR_FILE)
    if isinstance(file, PickleFile):
        raise ValueError(f"{source} cannot hold a calibration; convert it: python -m models.weights convert")
    read_checkpoint(file)
    header, tensors = TensorFile(source).read()
    stored = {"calibration": calibration.to_dict(), "threshold": calibration.threshold(BALANCED)}
    if isinstance(data := header["provenance"].get("data"), dict):
        names = [Path(path).name for path in data.get("paths", ())]
        header["provenance"]["data"] = data | {"paths": names, "root": None}
    tensorfile.write(out, tensors, format=FORMAT, header=header | stored)


def _shorten(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tower in a shorter type; the head is small, and keeps its precision."""
    short = tensor.to(dtype) if name.startswith("tower.") else tensor
    check_values(name, short)  # float16 ends at 65,504
    return short


def adapter_names(names: Mapping[str, Any]) -> list[str]:
    """The names of what training changes, prototypes included."""
    return [name for name in names if not name.startswith("tower.") or is_lora(name)]


# ---------------------------------------------------------------------------------------------------------
# Reading


def load_checkpoint(
    source: Path | WeightFile,
    *,
    merge: bool = True,
    backbone: str | None = None,
    allow_tiny: bool = False,
    allow_projection: bool = False,
) -> Checkpoint:
    """The detector of a file, ours or the authors', in evaluation mode, on the CPU, computing in float32.

    merge       fold LoRA into the weights (faster; scores agree within 1e-5)
    backbone    where the tower is that the file leaves out; default: what the file names
    allow_tiny  accept a detector on the random test tower, whose verdicts mean nothing
    allow_projection  accept the authors' stage 1, which holds no classifier and so gives no verdict

    Raises ValueError that names what is wrong: no file, another format, a missing, extra or misshaped tensor,
    a backbone whose weights differ from those the adapter was trained on.
    """
    stored = read_checkpoint(source)
    path = source if isinstance(source, Path) else source.path
    log.info("%s: %s", path, stored.described)
    if stored.config is None:
        if not allow_projection:
            raise ValueError(
                f"{path}: {stored.described}, which gives no verdict; it is for train.py --init and "
                "dream_prototype.py --stage1"
            )
        return _add_projection(path, stored, backbone or DEFAULT)
    config = stored.config
    if config.backbone == TINY and not allow_tiny:
        raise ValueError(
            f"{path}: trained on the random `{TINY}` tower, for tests only; its verdicts mean nothing"
        )
    state = stored.tensors
    if stored.form == "adapter":
        state = _tower_state(path, stored, config, backbone or config.backbone) | state
    if config.lora and merge:
        state = merge_lora(state, config.lora, in_place=True)
    detector = build_detector(replace(config, lora=None) if merge else config)
    detector.load_state_dict(state, strict=True, assign=True)
    kept = ("backbone_fingerprint", "threshold", "notice", "provenance", "form", "versions", "calibration")
    return Checkpoint(detector.eval(), config, **{name: getattr(stored, name) for name in kept})


def read_checkpoint(source: Path | WeightFile) -> Stored:
    """What a detector file holds, every tensor of it named, shaped, typed and finite as it should be."""
    file = open_weights(source, what=DETECTOR_FILE) if isinstance(source, Path) else source
    try:
        return _stored_official(read_official(file)) if isinstance(file, PickleFile) else _stored(file)
    except ValueError as error:
        raise refusal(file.path, error, what=DETECTOR_FILE) from error


def _stored_official(official: Official) -> Stored:
    if official.kind == "prototypes":
        raise ValueError("prototypes, which are for train.py --prototypes")
    if official.config is None:
        return Stored("projection", official.described, None, official.tensors)
    check_shapes(official.tensors, expected_shapes(official.config, "full"))
    provenance = {"source": official.described}
    print_of_tower = fingerprint(base_tower(official.tensors))
    return Stored(
        "official", official.described, official.config, official.tensors, print_of_tower, provenance=provenance
    )


def _stored(file: TensorFile) -> Stored:
    if file.format != FORMAT:
        raise ValueError(f"a safetensors file of the format {file.format or 'of others'!r}")
    header, tensors = file.read()
    match header:
        case {
            "form": str(form),
            "dtype": str(dtype),
            "labels": labels,
            "config": config_json,
            "backbone_fingerprint": str(backbone_fingerprint),
            "threshold": float(threshold) | int(threshold),
            "notice": str(notice),
            "provenance": dict(provenance),
            "versions": dict(versions),
        } if form in FORMS and dtype in DTYPES and notice.isprintable():
            pass
        case _:
            raise ValueError("its header is not that of a detector: a field is missing or of another type")
    if labels != LABELS:
        raise ValueError(f"its labels are {labels!r}; a detector's are {LABELS}")
    if isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ValueError(f"its threshold is {threshold}; a score is between 0 and 1")
    config = DetectorConfig.from_json(config_json)
    check_shapes(tensors, expected_shapes(config, form))
    for name, tensor in tensors.items():
        expected = getattr(torch, dtype) if name.startswith("tower.") else torch.float32
        if tensor.dtype != expected:
            raise ValueError(f"tensor {name!r} is of type {tensor.dtype}; expected {expected}")
        check_values(name, tensor)
    stated = header.get("calibration")  # files written before there was any have no such field
    if not isinstance(stated, dict | None):
        raise ValueError(f"its calibration is of type {type(stated).__name__}")
    calibration = None if stated is None else Calibration.from_dict(stated)
    described = f"{form} file of a stage-{config.stage} detector on {config.backbone or 'a tower without a name'}"
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    of_header = (backbone_fingerprint, float(threshold), notice, provenance, versions, calibration)
    return Stored(form, described, config, tensors, *of_header)


def expected_shapes(config: DetectorConfig, form: str) -> dict[str, torch.Size]:
    """Names and shapes of the tensors that a file of that form and config has.

    All layers are alike: one is built, so that a file that claims a thousand costs no more than one of two.
    """
    one_layer = replace(config, lora=None, feature_layers=(), tower=replace(config.tower, num_hidden_layers=1))
    layers = range(config.tower.num_hidden_layers)
    shapes = {
        name.replace(".layers.0.", f".layers.{layer}."): tensor.shape
        for name, tensor in build_detector(one_layer).state_dict().items()
        for layer in (layers if ".layers.0." in name else (0,))
    }
    shapes["project.weight"] = torch.Size((config.embed_dim, config.feature_width))
    if config.lora is not None:
        of_tower = {name: shape for name, shape in shapes.items() if name.startswith("tower.")}
        shapes = {name: shapes[name] for name in shapes.keys() - of_tower} | add_lora_shapes(of_tower, config.lora)
    return {name: shapes[name] for name in adapter_names(shapes)} if form == "adapter" else shapes


def check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises ValueError that names the first missing, extra or misshaped tensor."""
    for problem, names in (
        ("is missing", sorted(set(expected) - set(found))),
        ("is not part of this detector", sorted(set(found) - set(expected))),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ValueError(f"tensor {names[0]!r} {problem}{more}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ValueError(f"tensor {name!r} has shape {tuple(found[name].shape)}, expected {tuple(shape)}")


def _tower_state(path: Path, stored: Stored, config: DetectorConfig, name: str) -> dict[str, Tensor]:
    """The tensors that an adapter leaves out, in its names."""
    tower = load_backbone(name).tower
    state = tower.state_dict()
    if tower.spec != config.tower or fingerprint(state) != stored.backbone_fingerprint:
        raise ValueError(f"{path}: its adapter belongs to other weights of {config.backbone} than those found")
    names = name_base(state, config.lora) if config.lora else dict(zip(state, state, strict=True))
    return {f"tower.{names[key]}": value for key, value in state.items()}


def _add_projection(path: Path, stored: Stored, name: str) -> Checkpoint:
    """The authors' stage 1 on a backbone. Its classifier is not in the file: a new one stands there."""
    source = load_backbone(name)
    weight_ED = stored.tensors["project.weight"]
    spec = source.tower.spec
    if weight_ED.shape[1] != spec.hidden_size:
        raise ValueError(
            f"{path}: a projection of {weight_ED.shape[1]} numbers, but features of {name} have "
            f"{spec.hidden_size}; name another --backbone"
        )
    config = DetectorConfig(1, name, spec, release_pixels(spec.image_size), embed_dim=len(weight_ED))
    detector = build_detector(config, source.tower)
    detector.project.load_state_dict({"weight": weight_ED})
    provenance = {"source": stored.described}
    found = fingerprint(source.tower.state_dict())
    return Checkpoint(detector.eval(), config, found, form="projection", provenance=provenance)
