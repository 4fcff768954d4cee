"""Detector files -> detectors, and back.

Our files are safetensors whose JSON header rebuilds the detector from the path alone, in three forms:

    adapter   what training changed (LoRA, projection, attention, classifier, prototypes), beside a backbone that
              is named and fingerprinted
    full      the same and the backbone
    merged    one network without LoRA, its tower in float32, bfloat16 or float16

Released files are read, too; models/weights/released.py says which.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapl.calibration import BALANCED, Calibration
from gapl.config import DetectorConfig, LoraSpec
from gapl.files.refusal import check_is_file, refusal
from gapl.info import FORMAT, PROJECTION, DetectorInfo, header_of, info_of
from gapl.lora import is_lora, merge_lora, name_base
from gapl.names import DEFAULT, DETECTOR_FILE, DTYPES, FORMS, FULL, TINY, VIEWS
from gapl.schema import check_choice
from models import tensorfile
from models.cascade import WholeFirst
from models.detector import TowerHead, build_detector
from models.torchfile import is_torch_file
from models.weights.backbone import fingerprint, load_backbone
from models.weights.released import read_released, released_pixels
from models.weights.stored import Stored
from models.weights.tensors import (
    PROTOTYPES,
    adapter_names,
    check_dtype,
    check_shapes,
    check_values,
    expected_shapes,
)
from models.weights.versions import package_versions

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Checkpoint(DetectorInfo):
    """A detector, and all that its file says of it."""

    detector: TowerHead


# ---------------------------------------------------------------------------------------------------------
# Writing


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, dtype: str = "float32") -> None:
    """Write a detector file of the form `checkpoint.form`, whole or not at all.

    dtype: of the tower, in the form `merged`.

    Raises ValueError for a detector that this form or type cannot hold, OSError when it cannot be written.
    """
    _check_form(checkpoint, dtype)
    config = checkpoint.config
    state: Mapping[str, Tensor] = checkpoint.detector.state_dict()
    if checkpoint.form == "merged":
        state, config = _merged(state, config.lora, dtype), replace(config, lora=None)
    names = adapter_names(state) if checkpoint.form == "adapter" else state
    stated = vars(checkpoint) | {"config": config, "versions": package_versions()}
    stated.pop("detector")
    header = header_of(DetectorInfo(**stated), dtype=dtype)
    tensorfile.write(path, {name: state[name] for name in names}, format=FORMAT, header=header)


def _check_form(checkpoint: Checkpoint, dtype: str) -> None:
    """Raise ValueError when a file of this form and type could not hold the detector."""
    config, form = checkpoint.config, checkpoint.form
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; choose from {', '.join(FORMS)}")
    if dtype not in DTYPES or (dtype != "float32" and form != "merged"):
        raise ValueError(f"a {form} file cannot be of type {dtype}; only a merged one can be {', '.join(DTYPES)}")
    if form != "merged" and config.lora and not any(map(is_lora, checkpoint.detector.tower.state_dict())):
        raise ValueError("the LoRA of this detector is merged into its tower; it can only be saved as merged")
    if form == "adapter" and not config.backbone:
        raise ValueError(
            "an adapter leaves out the backbone, and this detector names none; save it as full or merged"
        )


def _merged(state: Mapping[str, Tensor], lora: LoraSpec | None, dtype: str) -> dict[str, Tensor]:
    """Return the tensors without LoRA, the tower's in the given type; the head is small and stays in float32."""
    merged = merge_lora(state, lora) if lora else dict(state)
    for name, tensor in merged.items():
        if name.startswith("tower."):
            merged[name] = tensor.to(getattr(torch, dtype))
        check_values(name, merged[name])  # float16 ends at 65,504
    return merged


def store_calibration(source: Path, calibration: Calibration, *, out: Path, fast: bool = False) -> None:
    """Write a copy of a detector file with its calibration, and the threshold of the operating point "balanced".

    fast: it is the calibration of the view "whole" alone.

    Folders are left out of its provenance, since such a file is given to others.

    Raises ValueError when `source` is no detector file of this project.
    """
    check_is_file(source, what=DETECTOR_FILE)
    if is_torch_file(source):
        raise ValueError(f"{source} cannot hold a calibration; convert it: python -m models.weights convert")
    info = read_info(source)
    header, tensors = tensorfile.read(source, format=FORMAT)
    if fast:
        info.fast()
        stored: dict[str, Any] = {"fast_calibration": asdict(calibration)}
    else:
        stored = {"calibration": asdict(calibration), "threshold": calibration.threshold(BALANCED)}
    if isinstance(data := header["provenance"].get("data"), dict):
        names = [Path(path).name for path in data.get("paths", ())]
        header["provenance"]["data"] = data | {"paths": names, "root": None}
    if isinstance(init := header["provenance"].get("init"), str):
        header["provenance"]["init"] = Path(init).name
    tensorfile.write(out, tensors, format=FORMAT, header=header | stored)


# ---------------------------------------------------------------------------------------------------------
# Reading


def load_checkpoint(
    path: Path,
    *,
    merge: bool = True,
    backbone: str | None = None,
    views: str = FULL,
    allow_tiny: bool = False,
    allow_projection: bool = False,
) -> Checkpoint:
    """Return the detector of a file, ours or released, in evaluation mode, on the CPU, computing in float32.

    merge       fold LoRA into the weights (faster; scores agree within 1e-5)
    views       "full": all that the detector was trained with; "fast": the whole image alone; "auto": that
                first, and all where it is not clear
    backbone    where the tower is that the file leaves out; default: what the file names
    allow_tiny  accept a detector on the random test tower, whose verdicts mean nothing
    allow_projection  accept the released stage 1, which holds no classifier and so gives no verdict

    Raises ValueError that names what is wrong: no file, another format, a missing, extra or misshaped tensor,
    a backbone whose weights differ from those the adapter was trained on.
    """
    check_choice("views", views, *VIEWS)
    stored = read_checkpoint(path)
    log.info("%s: %s", path, stored.described)
    info = stored.info
    if info is None:
        if not allow_projection:
            raise _gives_no_verdict(path, stored)
        return _add_projection(path, stored, backbone or DEFAULT)
    if not allow_tiny:
        refuse_tiny(path, info)
    info, cascade = look(path, info, views)
    state = stored.tensors
    if info.form == "adapter":
        state = _tower_state(path, info, backbone or info.config.backbone) | state
    detector = _build(info.config, state, merge=merge)
    detector.cascade = cascade
    return Checkpoint(**vars(info), detector=detector)


def _build(config: DetectorConfig, state: dict[str, Tensor], *, merge: bool) -> TowerHead:
    if config.lora and merge:
        state = merge_lora(state, config.lora, in_place=True)
    detector = build_detector(replace(config, lora=None) if merge else config)
    detector.load_state_dict(state, strict=True, assign=True)
    return detector.eval()


def refuse_tiny(path: Path, info: DetectorInfo) -> None:
    """Raise ValueError for a detector on the random test tower."""
    if info.config.backbone == TINY:
        raise ValueError(
            f"{path}: trained on the random `{TINY}` tower, for tests only; its verdicts mean nothing"
        )


def look(path: Path, info: DetectorInfo, views: str) -> tuple[DetectorInfo, WholeFirst | None]:
    """Return what a detector is that looks at these of its views, and how it judges by them.

    Raises ValueError when it was not trained or calibrated for these.
    """
    try:
        info, rule = info.looking_at(views)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return info, WholeFirst(rule) if rule else None


def _gives_no_verdict(path: Path, stored: Stored) -> ValueError:
    return ValueError(
        f"{path}: {stored.described}, which gives no verdict; it is for train.py --init and "
        "dream_prototype.py --stage1"
    )


def read_info(path: Path) -> DetectorInfo:
    """Return what a detector file says of itself. Raises ValueError when it is none that gives verdicts."""
    stored = read_checkpoint(path)
    if stored.info is None:
        raise _gives_no_verdict(path, stored)
    return stored.info


def read_checkpoint(path: Path) -> Stored:
    """Return what a detector file, or the released stage 1, holds.

    Raises ValueError, one line, unless it has exactly the tensors that it must have, and finite numbers in them.
    """
    stored = read_stored(path)
    if PROTOTYPES in stored.tensors and stored.info is None:
        reason = ValueError("prototypes, which are for train.py --prototypes")
        raise refusal(path, reason, what=DETECTOR_FILE)
    return stored


def read_stored(path: Path) -> Stored:
    """Return what read_checkpoint returns, or released prototypes."""
    check_is_file(path, what=DETECTOR_FILE)
    try:
        return read_released(path) if is_torch_file(path) else _read_ours(path)
    except ValueError as error:
        raise refusal(path, error, what=DETECTOR_FILE) from error


def _read_ours(path: Path) -> Stored:
    header, tensors = tensorfile.read(path, format=FORMAT)
    info, dtype = info_of(header)
    check_shapes(tensors, expected_shapes(info.config, info.form))
    for name, tensor in tensors.items():
        check_dtype(name, tensor, getattr(torch, dtype if name.startswith("tower.") else "float32"))
        check_values(name, tensor)
    backbone = info.config.backbone or "a tower without a name"
    described = f"{info.form} file of a stage-{info.config.stage} detector on {backbone}"
    return Stored(described, {name: tensor.float() for name, tensor in tensors.items()}, info)


def _tower_state(path: Path, info: DetectorInfo, name: str) -> dict[str, Tensor]:
    """Return the tensors that an adapter leaves out, in its names, from the backbone called `name`."""
    config, tower = info.config, load_backbone(name).tower
    state = tower.state_dict()
    if tower.spec != config.tower or fingerprint(state) != info.backbone_fingerprint:
        raise ValueError(f"{path}: its adapter belongs to other weights of {config.backbone} than those found")
    names = name_base(state, config.lora) if config.lora else dict(zip(state, state, strict=True))
    return {f"tower.{names[key]}": value for key, value in state.items()}


def _add_projection(path: Path, stored: Stored, name: str) -> Checkpoint:
    """Return the released stage 1 on a backbone. Its classifier is not in the file: it gets a new one."""
    source = load_backbone(name)
    weight_ED = stored.tensors["project.weight"]
    spec = source.tower.spec
    if weight_ED.shape[1] != spec.hidden_size:
        raise ValueError(
            f"{path}: a projection of {weight_ED.shape[1]} numbers, but features of {name} have "
            f"{spec.hidden_size}; name another --backbone"
        )
    config = DetectorConfig(1, name, spec, released_pixels(spec.image_size), embed_dim=len(weight_ED))
    detector = build_detector(config, source.tower).eval()
    detector.project.load_state_dict({"weight": weight_ED})
    return Checkpoint(
        detector=detector,
        config=config,
        backbone_fingerprint=fingerprint(source.tower.state_dict()),
        provenance={"source": stored.described},
        form=PROJECTION,
    )
