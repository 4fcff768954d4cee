"""Which engine runs a detector, and in which precision.

A file of export.py has an engine and a precision of its own, in which its verdicts were compared with those of
torch. A detector file is run by torch, or by onnxruntime where gapl/graph.onnx is its forward pass. docs/export.md
has the figures that the rule comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def check_engine(file: Path, *, engine: str, precision: str) -> None:
    """Raise ValueError, one line, when an engine cannot run a file in a precision. torch is not imported."""
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


def choose_way(file: Path, *, engine: str, precision: str, device: str) -> Way:
    """Return the fastest way to run a detector that these allow; `auto` is decided here.

    file        what check_engine let pass
    precision   of models.precision.PRECISIONS; fp32 is never replaced by another
    device      cpu or cuda

    Raises ValueError for a precision that the device lacks, or a device that the engine lacks.
    """
    if own := ENGINE_OF.get(file.suffix):
        return Way(own, "fp32", "cpu")  # what it is handed; the file says what it computes in
    if engine == ONNXRUNTIME:
        if device != "cpu":
            raise ValueError("--engine onnxruntime runs on the CPU; add --device cpu, or leave out --engine")
        return Way(ONNXRUNTIME, "fp32", device)
    resolved = resolve_precision(precision, device=device)
    if engine == AUTO and resolved == "fp32" and device == "cpu" and _without_torch(file):
        return Way(ONNXRUNTIME, resolved, device)
    return Way(TORCH, resolved, device)


def _without_torch(file: Path) -> bool:
    """Return whether onnxruntime runs a detector file without an export."""
    from gapl.weights import has_graph
    from models.torchfile import is_torch_file
    from models.weights.checkpoint import read_info

    return not is_torch_file(file) and has_graph(read_info(file))
