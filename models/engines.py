"""Which engine runs a detector, and in which precision.

A file of export.py has an engine and a precision of its own, in which its verdicts were compared with those of
torch. A detector file is run by torch, or by onnxruntime as `gapl` does. docs/export.md has the figures that the
rule comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.device import pick_device
from models.precision import resolve_precision

AUTO, TORCH, ONNXRUNTIME, OPENVINO = "auto", "torch", "onnxruntime", "openvino"
ENGINES = (AUTO, TORCH, ONNXRUNTIME, OPENVINO)
ENGINE_OF = {".onnx": ONNXRUNTIME, ".xml": OPENVINO, ".pt2": TORCH}  # by the suffix of a file of export.py


@dataclass(frozen=True)
class Way:
    """How a detector is run: the engine, the precision that it computes in, and the device."""

    engine: str
    precision: str
    device: str

    def __str__(self) -> str:
        return f"{self.engine} in {self.precision} on the {self.device}"


def check_engine(file: Path, *, engine: str, precision: str, device: str) -> None:
    """Raise ValueError, one line, when an engine does not run a file in this way. torch is not imported."""
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}")
    own = ENGINE_OF.get(file.suffix)
    if own and engine not in (AUTO, own):
        raise ValueError(f"{file}: {own} runs this file of export.py; leave out --engine {engine}")
    if own and precision not in (AUTO, "fp32"):
        raise ValueError(f"{file}: an exported file has its own precision; leave out --precision")
    if engine == OPENVINO and not own:
        made = "python export.py --format openvino"
        raise ValueError(f"{file}: OpenVINO runs files of export.py; write one: {made}")
    if engine == ONNXRUNTIME and precision not in (AUTO, "fp32"):
        raise ValueError(f"--engine onnxruntime computes in fp32; --precision {precision} needs --engine torch")
    if engine == ONNXRUNTIME and device not in (AUTO, "cpu"):
        raise ValueError(f"--engine onnxruntime runs on the CPU; leave out --device {device}")


def choose_way(file: Path, *, engine: str, precision: str, device: str) -> Way:
    """Return how to run a detector that check_engine let pass: `auto` is decided here.

    precision   of models.precision.PRECISIONS; fp32 is never replaced by another
    device      of models.device.DEVICES

    Raises ValueError when there is no such device, or it lacks the precision.
    """
    if own := ENGINE_OF.get(file.suffix):
        return Way(own, "fp32", "cpu")  # what it is handed; the file says what it computes in
    if engine == ONNXRUNTIME:
        return Way(ONNXRUNTIME, "fp32", "cpu")
    picked = pick_device(device)
    return Way(TORCH, resolve_precision(precision, device=picked), picked)
