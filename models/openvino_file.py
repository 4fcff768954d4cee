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

from gapl.info import DetectorInfo
from models.about import metadata_of, write_about
from models.export import export_graph, with_weights
from models.openvino_engine import SECTION, import_optional, read_openvino
from models.parity import Exam, Parity

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)


def save_openvino(
    path: Path,
    checkpoint: Checkpoint,
    *,
    precision: str,
    calibration: Sequence[np.ndarray],
    exam: Exam,
) -> dict[str, Parity]:
    """Write a detector as NAME.xml, NAME.bin and NAME.json; return how near its verdicts are.

    path         NAME.xml
    checkpoint   its LoRA is merged
    calibration  pixels_VCHW of images that int8 is fitted to
    exam         what the file has to pass

    Raises ValueError when it does not, or a package is missing; OSError when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        model = _converted(checkpoint, written.with_suffix(".onnx"))
        if precision == "int8":
            model = quantised(model, calibration)
        metadata = _save(model, written, checkpoint, precision=precision)
        _, _, run = read_openvino(written)
        info, found = exam.take(
            path, checkpoint, lambda pixels_BVCHW: run(pixels_BVCHW)["logit_B"].astype(np.float64)
        )
        if info is not checkpoint:
            metadata = _save(model, written, info, precision=precision)
        files = [path.with_suffix(".bin"), path]
        for file in files:
            written.with_suffix(file.suffix).replace(file)
    packages = ("torch", "onnx", "openvino", *(["nncf"] if precision == "int8" else []))
    versions = {name: version(name) for name in packages}
    write_about(path.with_suffix(".json"), metadata, files=files, parity=found, versions=versions)
    return found


def _save(model: Any, path: Path, info: DetectorInfo, *, precision: str) -> dict[str, str]:
    """Write a model with its metadata, and return these."""
    metadata = metadata_of(info, precision=precision)
    for key, value in metadata.items():
        model.set_rt_info(value, [SECTION, key])
    import_optional("openvino").save_model(model, path, compress_to_fp16=precision in ("fp16", "bf16"))
    return metadata


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
