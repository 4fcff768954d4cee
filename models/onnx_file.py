"""Write a detector as an ONNX file, in a precision, when its verdicts are those of torch."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gapl.engine import Engine
from gapl.files.atomic import replacing
from models.about import metadata_of, write_about
from models.export import export_graph, with_weights
from models.onnx_weights import PRECISIONS
from models.parity import Parity, Reference, require

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

MAX_BYTES = 2_000_000_000


def save_onnx(
    path: Path, checkpoint: Checkpoint, *, precision: str, reference: Reference, limits: Parity
) -> dict[str, Parity]:
    """Write a detector with its weights, and a JSON file beside it; return how near its verdicts are.

    checkpoint   its LoRA is merged
    precision    of PRECISIONS
    reference    what the file is compared with
    limits       how near it must be

    Raises ValueError when it is not, or the file would be too large; OSError when it cannot be written.
    """
    model = with_weights(export_graph(checkpoint.config), checkpoint.detector.state_dict())
    model = PRECISIONS[precision](model)
    if model.ByteSize() > MAX_BYTES:
        raise ValueError(
            f"{path}: an ONNX file holds at most {MAX_BYTES:,} bytes, and this has {model.ByteSize():,}"
        )
    metadata = metadata_of(checkpoint, precision=precision)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    with replacing(path) as scratch:
        scratch.write_bytes(model.SerializeToString(deterministic=True))
        engine = Engine(str(scratch))
        found = reference.compare(lambda pixels_BVCHW: engine(pixels_BVCHW).logit_B)
        require(path, found, limits)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    write_about(path.with_suffix(".json"), metadata, files=[path], parity=found, versions=versions)
    return found
