"""Read the files of OpenVINO that export.py writes, and run their detectors on the CPU.

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gapl.files.strict_json import strict_json
from gapl.info import DetectorInfo, info_of
from gapl.weights import ONNX_FORMAT
from models.export import PIXELS

SECTION = "gapl"  # of a file's runtime information
INSTALL = "pip install -r requirements/export.txt"


Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # pixels_BVCHW -> the outputs, by name


def read_openvino(path: Path) -> tuple[DetectorInfo, str, Run]:
    """Return what a file says of its detector, its precision, and what runs it.

    Raises ValueError, one line, when it is none of export.py, or OpenVINO is not installed.
    """
    openvino = import_optional("openvino")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        metadata = {
            key: model.get_rt_info([SECTION, key]).astype(str) for key in ("format", "header", "precision")
        }
    except RuntimeError as error:
        raise ValueError(f"{path}: no file of OpenVINO that export.py wrote") from error
    if metadata["format"] != ONNX_FORMAT:
        raise ValueError(f"{path}: its format is {metadata['format']!r}; expected {ONNX_FORMAT!r}")
    info, _ = info_of(strict_json(metadata["header"]))
    return info, metadata["precision"], compiled(model, precision=metadata["precision"])


def compiled(model: Any, *, precision: str) -> Run:
    """Return what runs a model of OpenVINO on the CPU; `precision` bf16 computes in it where the processor can."""
    hint = "bf16" if precision == "bf16" else "f32"
    ready = import_optional("openvino").Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def run(pixels_BVCHW: np.ndarray) -> dict[str, np.ndarray]:
        found = ready({PIXELS: pixels_BVCHW})
        return {output.get_any_name(): np.array(value) for output, value in found.items()}

    return run


def import_optional(name: str) -> Any:
    """Import openvino or nncf. Raises ValueError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed; install it: {INSTALL}") from error
