"""The forward pass of a detector as an ONNX graph, with or without its weights.

The graph takes any number of images in any number of views; one view alone is the whole image. The weights are
inputs while torch exports it, so that none is folded into a constant: the graph is the same for all detectors that
compute alike.

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gapl.config import DetectorConfig
from gapl.files.atomic import replacing
from models.detector import Output, TowerHead, build_detector

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4  # of P(fake), between a graph in fp32 and torch
PIXELS = "pixels_BVCHW"
OUTPUTS = ("logit_B", "embedding_BE", "attention_BP")  # named as the fields of Output
FORWARD_PASS = "forward_pass"  # the entry of the metadata with DetectorConfig.forward_pass


class _AnyViews(nn.Module):
    """A detector that gives OUTPUTS. It does not ask whether there are crops: a graph cannot."""

    def __init__(self, detector: TowerHead) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels_BVCHW: Tensor) -> tuple[Tensor, ...]:
        detector = self.detector
        if not detector.whole_layers:
            return _tensors(detector(pixels_BVCHW))
        whole_BD = detector.feature(pixels_BVCHW[:, -1:])
        crops_BVCHW = pixels_BVCHW[:, :-1]
        crops_ND = detector.tower(crops_BVCHW.flatten(0, 1), detector.feature_layers)
        num_crops = torch.clamp(torch.scalar_tensor(crops_BVCHW.shape[1]), min=1)
        crops_BD = crops_ND.unflatten(0, crops_BVCHW.shape[:2]).sum(dim=1) / num_crops
        return _tensors(detector.head(torch.cat([crops_BD, whole_BD[:, detector.crop_width :]], dim=-1)))


def _tensors(output: Output) -> tuple[Tensor, ...]:
    return tuple(each for each in output if each is not None)


class _WithTensors(nn.Module):
    """The same with the tensors as an input. It hides the module, whose own tensors have no values, from torch."""

    def __init__(self, detector: TowerHead) -> None:
        super().__init__()
        self.hidden = (_AnyViews(detector).eval(),)

    def forward(self, pixels_BVCHW: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        named = {f"detector.{name}": tensor for name, tensor in tensors.items()}
        outputs: tuple[Tensor, ...] = functional_call(self.hidden[0], named, (pixels_BVCHW,))
        return outputs


def export_graph(config: DetectorConfig) -> ModelProto:
    """Return the graph of a detector without LoRA: pixels_BVCHW -> OUTPUTS. Its weights are external, by name.

    A detector of stage 1 has no attention. `NAME.T` is the transpose of the tensor NAME of the detector.

    Raises ValueError when a package is missing that torch needs for this.
    """
    detector = build_detector(replace(config, lora=None))
    shapes = {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}
    example = torch.zeros(2, 3, 3, config.tower.image_size, config.tower.image_size)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    outputs = OUTPUTS if config.stage == 2 else OUTPUTS[:-1]
    model = _export(_WithTensors(detector).eval(), example, zeros, outputs=outputs)
    _keep_transposed(model, shapes)
    _make_external(model, shapes)
    _strip(model)
    model.metadata_props.add(key=FORWARD_PASS, value=json.dumps(config.forward_pass(), sort_keys=True))
    return model


def _export(
    module: nn.Module, example: Tensor, tensors: dict[str, Tensor], *, outputs: Sequence[str]
) -> ModelProto:
    sizes = {0: torch.export.Dim("B", min=1, max=4096), 1: torch.export.Dim("V", min=2, max=64)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        try:
            program = torch.onnx.export(
                module,
                (example,),
                kwargs={"tensors": tensors},
                input_names=[PIXELS, *tensors],
                output_names=list(outputs),
                dynamic_shapes={PIXELS: sizes, "tensors": dict.fromkeys(tensors)},
                dynamo=True,
                verbose=False,
            )
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}; install it: pip install -r requirements.txt") from error
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _keep_transposed(model: ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Replace each matrix that the graph transposes first by its transpose, called NAME.T, in `shapes` too."""
    graph, renamed, kept = model.graph, {}, []
    for node in graph.node:
        name = node.input[0] if node.input else ""
        if node.op_type == "Transpose" and len(shapes.get(name, ())) == 2:
            renamed[node.output[0]] = f"{name}.T"
            shapes[f"{name}.T"] = shapes[name][::-1]
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


def _make_external(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Turn the inputs of the graph other than the pixels into initializers whose values are elsewhere."""
    from onnx import TensorProto

    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    (pixels,) = (each for each in graph.input if each.name == PIXELS)
    assert {each.name for each in graph.input} - {PIXELS} <= shapes.keys()
    del graph.input[:]
    graph.input.append(pixels)
    for name in sorted(used & shapes.keys()):
        each = graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shapes[name])
        each.data_location = TensorProto.EXTERNAL
        each.external_data.add(key="location", value="weights")


def _strip(model: ModelProto) -> None:
    """Remove what only people who debug torch read: 1.3 MB of it."""
    graph = model.graph
    del graph.value_info[:]
    for each in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


def with_weights(model: ModelProto, state: Mapping[str, Tensor]) -> ModelProto:
    """Return a copy of the graph that holds its weights, out of the tensors of a detector without LoRA."""
    from onnx import ModelProto, TensorProto

    complete = ModelProto()
    complete.CopyFrom(model)
    for each in complete.graph.initializer:
        if each.data_location == TensorProto.EXTERNAL:
            tensor = state[each.name.removesuffix(".T")].detach().float().cpu()
            array = (tensor.T if each.name.endswith(".T") else tensor).contiguous().numpy()
            assert array.shape == tuple(each.dims), each.name
            each.ClearField("external_data")
            each.ClearField("data_location")
            each.raw_data = array.tobytes()
    return complete


# ---------------------------------------------------------------------------------------------------------
# Files


def save_graph(path: Path, config: DetectorConfig) -> None:
    """Write the graph of a detector without weights. Raises OSError when it cannot be written."""
    with replacing(path) as scratch:
        scratch.write_bytes(export_graph(config).SerializeToString(deterministic=True))
