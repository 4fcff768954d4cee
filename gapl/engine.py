"""Run a detector's forward pass by onnxruntime: pixels -> logits and embeddings.

Shape suffixes: B batch, V views, C channels, H, W pixels, E embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gapl.files.refusal import first_line

QUIET = 3  # errors alone are logged
_NAMES = ("logit_B", "embedding_BE", "feature_BD")


class Outcome(NamedTuple):
    """What an engine computes of a batch of pixels.

    logit_B        float64
    embedding_BE   float32; None where an ONNX file of others does not give it
    feature_BD     float32, what the head read; None where a file of export.py does not give it
    by_whole_B     whether the whole image alone decided; None where no image was judged by that first
    """

    logit_B: np.ndarray
    embedding_BE: np.ndarray | None = None
    feature_BD: np.ndarray | None = None
    by_whole_B: np.ndarray | None = None


class Engine:
    """A detector that onnxruntime runs. Threads may share it."""

    def __init__(self, model: bytes | str, weights: Mapping[str, np.ndarray] | None = None) -> None:
        """Start a session.

        model    the ONNX file, or its path
        weights  the tensors that the file leaves out, float32, by name

        Raises ValueError, one line, when onnxruntime cannot run that.
        """
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _num_cores()
        options.log_severity_level = QUIET
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads sleep
        if weights is not None:
            # They are used as they are: a copy in the order in which they are multiplied would save a seventh of
            # each pass, but takes 0.4 s and 220 MB.
            options.add_session_config_entry("session.disable_prepacking", "1")
        # The session uses these arrays; it does not keep them.
        self._weights = {name: np.ascontiguousarray(array) for name, array in (weights or {}).items()}
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        try:
            options.add_external_initializers(list(self._weights), values)
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each of its errors, and none for all
            found = f"onnxruntime {onnxruntime.__version__}"
            raise ValueError(f"{found} cannot run it ({first_line(error)})") from error

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata of the ONNX file."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def __call__(self, pixels: np.ndarray) -> Outcome:
        """Judge pixels_BCHW, or pixels_BVCHW where an image has several views."""
        pixels_BVCHW = pixels[:, None] if pixels.ndim == 4 else pixels
        # One by one: many at once are not faster, but take more memory.
        names = [name for name in _NAMES if name in self.outputs]
        found = [self.run(each_VCHW[None], outputs=names) for each_VCHW in pixels_BVCHW]
        joined = {name: np.concatenate([each[name] for each in found]) for name in names}
        return Outcome(joined["logit_B"].astype(np.float64), joined.get("embedding_BE"), joined.get("feature_BD"))

    @property
    def outputs(self) -> list[str]:
        """Return the names of what the graph gives: logit_B, embedding_BE, and others if it has them."""
        return [each.name for each in self._session.get_outputs()]

    def run(self, pixels_BVCHW: np.ndarray, *, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Return these of the outputs, by name, of all images at once."""
        found = self._session.run(list(outputs), {"pixels_BVCHW": np.ascontiguousarray(pixels_BVCHW)})
        return dict(zip(outputs, found, strict=True))


def _import_onnxruntime() -> Any:
    """Return the package. Raises ValueError when it is missing, or too old to be given weights.

    It is told to send no telemetry, unless the variable says otherwise: who judges images asked for none.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        reason = f"cannot be imported ({first_line(error)})"
    else:
        if hasattr(onnxruntime.SessionOptions, "add_external_initializers"):
            return onnxruntime
        reason = f"{onnxruntime.__version__} is too old"
    raise ValueError(f"onnxruntime {reason}; install it: pip install --upgrade onnxruntime")


def _num_cores() -> int:
    """Return how many cores this process may use; where that cannot be told, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
