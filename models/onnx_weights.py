"""Weights of an ONNX graph in fewer bits: they are stored short, and computed with in float32.

onnxruntime turns them into float32 once, when it loads the file. So verdicts take as long as with float32. The
exception is int8-dynamic, which computes in int8: faster where the processor can, and with other scores.

Shape suffixes: I inputs, O outputs of a linear layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LARGEST = 127  # of int8, on both sides
EXACT = 1e-5  # of the largest weight: what a rounding to int8 changes where the weights were rounded so before


def in_fp32(model: ModelProto) -> ModelProto:
    """Return the graph as it is."""
    return model


def in_fp16(model: ModelProto) -> ModelProto:
    """Return the graph with its tower's matrices in float16."""
    return _with_first(model, [_shorten(each, "FLOAT16") for each in _matrices(model)])


def in_bf16(model: ModelProto) -> ModelProto:
    """Return the graph with its tower's matrices in bfloat16."""
    return _with_first(model, [_shorten(each, "BFLOAT16") for each in _matrices(model)])


def in_int8(model: ModelProto) -> ModelProto:
    """Return the graph with its tower's linear weights in int8, with a scale for each output; others in float16.

    That is exact for weights that were rounded in this way before. Where some were, as in the int8 backbone, those
    that training changed are in float16. Where none were, all are rounded.
    """
    matrices = _matrices(model)
    linear = [each for each in matrices if each.name.endswith(".T")]  # (in, out)
    rounded = [each for each in linear if _is_rounded(each)] or linear
    nodes = [_shorten(each, "FLOAT16") for each in matrices if each not in rounded]
    for each in rounded:
        nodes += _round(model, each)
    return _with_first(model, nodes)


def in_dynamic_int8(model: ModelProto, *, without: str = "none") -> ModelProto:
    """Return the graph with its tower's linear layers in int8, their weights with a scale for each output.

    What a weight is multiplied by is rounded, too, with one scale for all of it, which is found in each pass.

    without  a word in the names of the layers that stay in float32
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "dynamic.onnx"
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises a step for graphs with sizes that are not known
        try:
            quantize_dynamic(
                model,
                path,
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=linear_layers(model, without=without),
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.disable(before)
        return onnx.load(path)


def linear_layers(model: ModelProto, *, without: str = "none") -> list[str]:
    """Return the names of the tower's linear layers, without those that have a word in their name."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and any(name.startswith("tower.") and without not in name for name in node.input)
    ]


PRECISIONS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "fp32": in_fp32,
    "fp16": in_fp16,
    "bf16": in_bf16,
    "int8": in_int8,
    "int8-dynamic": in_dynamic_int8,
}


def _matrices(model: ModelProto) -> list[TensorProto]:
    """Return the weights of the tower that are no vectors: more than nine tenths of a file."""
    return [each for each in model.graph.initializer if each.name.startswith("tower.") and len(each.dims) > 1]


def _shorten(weight: TensorProto, type_name: str) -> NodeProto:
    """Store a weight in a shorter type, and return the node that makes float32 of it."""
    from onnx import TensorProto, helper, numpy_helper

    name, dtype = weight.name, helper.tensor_dtype_to_np_dtype(getattr(TensorProto, type_name))
    short = numpy_helper.to_array(weight).astype(dtype)
    weight.CopyFrom(numpy_helper.from_array(short, f"{name}.short"))
    return helper.make_node("Cast", [f"{name}.short"], [name], to=TensorProto.FLOAT)


def _round(model: ModelProto, weight: TensorProto) -> list[NodeProto]:
    """Store a weight in int8, and return the nodes that make float32 of it.

    They are no DequantizeLinear: onnxruntime would run that in each pass, and round what it is multiplied by.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = weight.name
    int8_IO, scale_O = _int8_of(numpy_helper.to_array(weight))
    weight.CopyFrom(numpy_helper.from_array(int8_IO, f"{name}.int8"))
    model.graph.initializer.append(numpy_helper.from_array(scale_O, f"{name}.scale"))
    return [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]),
    ]


def _int8_of(array_IO: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8_IO and scale_O, whose product comes nearest to an array."""
    largest_O = np.abs(array_IO).max(axis=0)
    scale_O = np.where(largest_O > 0, largest_O / LARGEST, 1).astype(np.float32)
    return np.rint(array_IO / scale_O).astype(np.int8), scale_O


def _is_rounded(weight: TensorProto) -> bool:
    """Return whether the rounding to int8 leaves a weight as it is."""
    from onnx import numpy_helper

    array_IO = numpy_helper.to_array(weight)
    int8_IO, scale_O = _int8_of(array_IO)
    return bool(np.abs(int8_IO * scale_O - array_IO).max() <= EXACT * np.abs(array_IO).max())


def _with_first(model: ModelProto, nodes: list[NodeProto]) -> ModelProto:
    """Put nodes before all others of a graph."""
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model
