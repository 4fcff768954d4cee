"""Write a detector as files of OpenVINO, NAME.xml and NAME.bin, when its verdicts are those of torch.

    fp32   as in torch
    fp16   weights in float16, computed with in float32
    bf16   weights in float16, computed with in bfloat16 where the processor can
    int8   weights and what they are multiplied by, quantised by nncf with its preset for transformers

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.about import metadata_of, write_about
from models.export import export_graph, with_weights
from models.openvino_engine import SECTION, import_optional, read_openvino
from models.parity import Parity, Reference, require

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)


def save_openvino(
    path: Path,
    checkpoint: Checkpoint,
    *,
    precision: str,
    calibration: Sequence[np.ndarray],
    reference: Reference,
    limits: Parity,
) -> dict[str, Parity]:
    """Write a detector as NAME.xml, NAME.bin and NAME.json; return how near its verdicts are.

    path         NAME.xml
    checkpoint   its LoRA is merged
    calibration  pixels_VCHW of images that int8 is fitted to
    reference    what the file is compared with
    limits       how near it must be

    Raises ValueError when it is not, or a package is missing; OSError when it cannot be written.
    """
    openvino = import_optional("openvino")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = metadata_of(checkpoint, precision=precision)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        model = _converted(checkpoint, written.with_suffix(".onnx"))
        if precision == "int8":
            model = quantised(model, calibration)
        for key, value in metadata.items():
            model.set_rt_info(value, [SECTION, key])
        openvino.save_model(model, written, compress_to_fp16=precision in ("fp16", "bf16"))
        _, _, run = read_openvino(written)
        found = reference.compare(lambda pixels_BVCHW: run(pixels_BVCHW)["logit_B"].astype(np.float64))
        require(path, found, limits)
        files = [path.with_suffix(".bin"), path]
        for file in files:
            written.with_suffix(file.suffix).replace(file)
    packages = ("torch", "onnx", "openvino", *(["nncf"] if precision == "int8" else []))
    versions = {name: version(name) for name in packages}
    write_about(path.with_suffix(".json"), metadata, files=files, parity=found, versions=versions)
    return found


def _converted(checkpoint: Checkpoint, onnx_file: Path) -> Any:
    """Return the model that OpenVINO makes of the ONNX graph of a detector."""
    graph = with_weights(export_graph(checkpoint.config), checkpoint.detector.state_dict())
    onnx_file.write_bytes(graph.SerializeToString())
    return import_optional("openvino").convert_model(onnx_file)


def quantised(model: Any, calibration: Sequence[np.ndarray], *, kept: Sequence[str] = ()) -> Any:
    """Return a model of OpenVINO in int8, all but the operations `kept`, fitted to pixels_VCHW of images."""
    nncf = import_optional("nncf")
    log.info("nncf quantises it, fitted to %d images", len(calibration))
    batches = [pixels_VCHW[None] for pixels_VCHW in calibration]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(names=list(kept)),
    )
