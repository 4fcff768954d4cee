"""Detector files -> what they say, and an engine that runs the detector; without torch.

There are two kinds: files of this project, for the forward pass that gapl/graph.onnx describes, and ONNX files of
export.py, which hold their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gapl.config import DetectorConfig, LoraSpec
from gapl.engine import Engine
from gapl.explain.head import PROTOTYPES
from gapl.files import tensorfile
from gapl.files.refusal import check_is_file, refusal
from gapl.files.strict_json import strict_json
from gapl.fingerprint import fingerprint
from gapl.info import FORMAT, DetectorInfo, info_of
from gapl.lora import BASE, LORA_A, LORA_B, is_lora, merge_lora, name_base
from gapl.model_path import as_repository, in_run
from gapl.names import INT8
from gapl.schema import shown

GRAPH = Path(__file__).parent / "graph.onnx"
ONNX_FORMAT = "gapl-onnx-1"
OTHERS = {".xml": "a file of OpenVINO", ".pt2": "a program of torch.export"}  # files of export.py, by suffix
EXPECTED = "a detector file of this project (.safetensors), a run's folder, or an ONNX file of export.py"
OTHERWISE = "inference.py can use it, and export.py can make an ONNX file of it"


def read_engine(path: Path) -> tuple[DetectorInfo, Engine]:
    """Return what a detector file says, and an engine that runs its detector.

    path   of the file, or of the run's folder that holds it

    Raises ValueError, one line, when there is no such file, it is damaged, or it needs torch.
    """
    path = in_run(path)
    if as_repository(path.as_posix()):
        raise ValueError(f"{path}: no such file or folder; if it is a repository of the model hub, {OTHERWISE}")
    check_is_file(path, what=EXPECTED)
    try:
        if path.suffix == ".onnx":
            return _read_onnx(path)
        if path.suffix in OTHERS:
            raise ValueError(f"{OTHERS[path.suffix]}, which inference.py reads")
        header, state = tensorfile.read(path, format=FORMAT)
        info, _ = info_of(header)
    except ValueError as error:
        raise refusal(path, error, what=EXPECTED) from error
    graph, wanted = _read_graph(path, info.config)
    if info.form == "adapter":
        state = _tower_state(path, info) | state
    state = {name: array.astype(np.float32, copy=False) for name, array in state.items()}
    if info.config.lora:
        _check_updates(path, state, info.config.lora)
        state = merge_lora(state, info.config.lora, in_place=True)
    return info, Engine(graph, _select(path, state, wanted))


def _read_onnx(path: Path) -> tuple[DetectorInfo, Engine]:
    engine = Engine(str(path))
    metadata = engine.metadata
    if metadata.get("format") != ONNX_FORMAT or "header" not in metadata:
        raise ValueError(f"an ONNX file that is not of the format {ONNX_FORMAT!r}")
    info, _ = info_of(strict_json(metadata["header"]))
    return info, engine


def _read_graph(path: Path, config: DetectorConfig) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """Return the graph of the forward pass, and the shapes of the tensors that it needs, by name.

    Raises ValueError when a detector of this config computes in another way.
    """
    import onnx

    model = onnx.load_from_string(GRAPH.read_bytes())
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if strict_json(metadata["forward_pass"]) != config.forward_pass():
        raise ValueError(f"{path}: its detector is built otherwise than the one that ships; {OTHERWISE}")
    external = onnx.TensorProto.EXTERNAL
    needed = [each for each in model.graph.initializer if each.data_location == external]
    for each in needed:
        if each.name == PROTOTYPES:  # the graph takes any number of them
            each.dims[0] = config.num_prototypes
    return model.SerializeToString(), {each.name: tuple(each.dims) for each in needed}


def _tower_state(path: Path, info: DetectorInfo) -> dict[str, np.ndarray]:
    """Return the tensors that an adapter leaves out, in its names."""
    from gapl.int8 import clip_vit_b16_state

    config = info.config
    if config.backbone != INT8:
        raise ValueError(f"{path}: its tower is {shown(config.backbone)}; {OTHERWISE}")
    state = clip_vit_b16_state()
    if fingerprint(state) != info.backbone_fingerprint:
        raise ValueError(f"{path}: its adapter belongs to other weights of {config.backbone} than those found")
    names = name_base(state, config.lora) if config.lora else dict(zip(state, state, strict=True))
    return {f"tower.{names[key]}": value for key, value in state.items()}


def _check_updates(path: Path, state: Mapping[str, np.ndarray], spec: LoraSpec) -> None:
    """Raise ValueError unless each weight with an update has its two matrices, and there are no others."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, weight in state.items():
        if name.endswith(f"{BASE}weight") and weight.ndim == 2:
            place, (num_out, num_in) = name.removesuffix(f"{BASE}weight"), weight.shape
            expected |= {place + LORA_A: (spec.rank, num_in), place + LORA_B: (num_out, spec.rank)}
    found = {name: array.shape for name, array in state.items() if is_lora(name)}
    if wrong := sorted(name for name, _ in found.items() ^ expected.items()):
        raise ValueError(f"{path}: tensor {wrong[0]!r} is missing, not expected or of another shape")


def _select(
    path: Path, state: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return the tensors that a graph needs, out of those of a detector. `NAME.T` is the transpose of NAME.

    Raises ValueError that names the first tensor that is missing or of another shape.
    """
    found = {}
    for name, shape in wanted.items():
        plain = name.removesuffix(".T")
        if plain not in state:
            raise ValueError(f"{path}: tensor {plain!r} is missing")
        found[name] = state[plain] if plain == name else state[plain].T
        if found[name].shape != shape:
            raise ValueError(f"{path}: tensor {name!r} has shape {found[name].shape}, expected {shape}")
    return found
