"""Write a detector as an ONNX file, in a precision, when its verdicts are those of torch."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gapl.engine import Engine
from gapl.files.atomic import replacing
from gapl.info import DetectorInfo
from models.about import metadata_of, write_about
from models.export import export_graph, with_weights
from models.onnx_weights import PRECISIONS
from models.parity import Exam, Parity

if TYPE_CHECKING:
    from onnx import ModelProto

    from models.weights.checkpoint import Checkpoint

MAX_BYTES = 2_000_000_000


def save_onnx(path: Path, checkpoint: Checkpoint, *, precision: str, exam: Exam) -> dict[str, Parity]:
    """Write a detector with its weights, and a JSON file beside it; return how near its verdicts are.

    checkpoint   its LoRA is merged
    precision    of PRECISIONS
    exam         what the file has to pass

    Raises ValueError when it does not, or the file would be too large; OSError when it cannot be written.
    """
    model = with_weights(export_graph(checkpoint.config), checkpoint.detector.state_dict())
    model = PRECISIONS[precision](model)
    if model.ByteSize() > MAX_BYTES:
        raise ValueError(
            f"{path}: an ONNX file holds at most {MAX_BYTES:,} bytes, and this has {model.ByteSize():,}"
        )
    with replacing(path) as scratch:
        metadata = _write(model, scratch, checkpoint, precision=precision)
        engine = Engine(str(scratch))
        info, found = exam.take(path, checkpoint, lambda pixels_BVCHW: engine(pixels_BVCHW).logit_B)
        if info is not checkpoint:
            metadata = _write(model, scratch, info, precision=precision)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    write_about(path.with_suffix(".json"), metadata, files=[path], parity=found, versions=versions)
    return found


def _write(model: ModelProto, path: Path, info: DetectorInfo, *, precision: str) -> dict[str, str]:
    """Write a graph with its metadata, and return these."""
    metadata = metadata_of(info, precision=precision)
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return metadata
