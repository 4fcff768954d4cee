"""Read the programs of torch.export that export.py writes, NAME.pt2, and run their detectors on the CPU.

Shape suffixes: B batch, V views, C channels, H, W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from gapl.files.refusal import first_line
from gapl.files.strict_json import strict_json
from gapl.info import DetectorInfo, info_of
from gapl.weights import ONNX_FORMAT
from models.export import OUTPUTS

METADATA = ("format", "header", "precision")
Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # pixels_BVCHW -> the outputs, by name


def read_program(path: Path) -> tuple[DetectorInfo, str, Run]:
    """Return what a file says of its detector, its precision, and what runs it.

    Raises ValueError, one line, when it is no file of export.py.
    """
    found = dict.fromkeys(METADATA, "")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then refused
            program = torch.export.load(file, extra_files=found).module()
    except OSError:
        raise
    except Exception as error:  # torch raises whatever it meets first
        raise ValueError(f"{path}: no program of torch.export ({first_line(error)})") from error
    if found["format"] != ONNX_FORMAT:
        raise ValueError(f"{path}: no file of export.py; its format is {found['format']!r}, not {ONNX_FORMAT!r}")
    info, _ = info_of(strict_json(found["header"]))
    names: Sequence[str] = OUTPUTS if info.config.stage == 2 else OUTPUTS[:-1]

    def run(pixels_BVCHW: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = program(torch.from_numpy(pixels_BVCHW))
        if len(outputs) != len(names):
            raise ValueError(f"{path}: written by another version of export.py; write it anew")
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return info, found["precision"], run
