"""The forward pass of a detector as an ONNX graph, with or without its weights.

The graph takes any number of images in any number of views; one view alone is the whole image. The weights are
inputs while torch exports it, so that none is folded into a constant: the graph is the same for all detectors that
compute alike.

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gapl.config import DetectorConfig
from gapl.explain.head import PROTOTYPES
from gapl.files.atomic import replacing
from gapl.schema import MAX_SIZE
from models.detector import Output, TowerHead, build_detector

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of P(fake), between a graph in fp32 and torch
PIXELS = "pixels_BVCHW"
OUTPUTS = ("logit_B", "embedding_BE", "feature_BD", "attention_BP")  # of Output; stage 1 has no attention
FORWARD_PASS = "forward_pass"  # the entry of the metadata with DetectorConfig.forward_pass


class _AnyViews(nn.Module):
    """A detector that gives OUTPUTS. It does not ask whether there are crops: a graph cannot."""

    def __init__(self, detector: TowerHead) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels_BVCHW: Tensor) -> tuple[Tensor, ...]:
        detector = self.detector
        if not detector.whole_layers:
            return tensors_of(detector(pixels_BVCHW))
        whole_BD = detector.feature(pixels_BVCHW[:, -1:])
        crops_BVCHW = pixels_BVCHW[:, :-1]
        crops_ND = detector.tower(crops_BVCHW.flatten(0, 1), detector.feature_layers)
        num_crops = torch.clamp(torch.scalar_tensor(crops_BVCHW.shape[1]), min=1)
        crops_BD = crops_ND.unflatten(0, crops_BVCHW.shape[:2]).sum(dim=1) / num_crops
        return tensors_of(detector.head(torch.cat([crops_BD, whole_BD[:, detector.crop_width :]], dim=-1)))


def tensors_of(output: Output) -> tuple[Tensor, ...]:
    """Return what an exported detector gives, in the order of OUTPUTS."""
    return tuple(each for name in OUTPUTS if (each := getattr(output, name)) is not None)


class _WithTensors(nn.Module):
    """A module with its tensors as an input. It hides the module, whose own tensors have no values, from torch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.hidden = (module.eval(),)

    def forward(self, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Any:
        named = {f"detector.{name}": tensor for name, tensor in tensors.items()}
        return functional_call(self.hidden[0], named, tuple(inputs))


def export_graph(config: DetectorConfig) -> ModelProto:
    """Return the graph of a detector without LoRA: pixels_BVCHW -> OUTPUTS. Its weights are external, by name.

    A detector of stage 1 has no attention. `NAME.T` is the transpose of the tensor NAME of the detector.

    Raises ValueError when a package is missing that torch needs for this.
    """
    detector = build_detector(replace(config, lora=None))
    example = torch.zeros(2, 3, 3, config.tower.image_size, config.tower.image_size)
    sizes = {0: torch.export.Dim("B", min=1, max=4096), 1: torch.export.Dim("V", min=2, max=64)}
    outputs = OUTPUTS if config.stage == 2 else OUTPUTS[:-1]
    model = graph_of(_AnyViews(detector), {PIXELS: example}, outputs=outputs, sizes=[sizes])
    model.metadata_props.add(key=FORWARD_PASS, value=json.dumps(config.forward_pass(), sort_keys=True))
    return model


def graph_of(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    outputs: Sequence[str],
    sizes: Sequence[Mapping[int, Any] | None] | None = None,
) -> ModelProto:
    """Return the graph of a module around a `detector` without values. Its weights are external, by name.

    inputs   an example of each, by name
    sizes    of each input, which of its dimensions vary; default: none

    Raises ValueError when a package is missing that torch needs for this.
    """
    assert isinstance(module.detector, nn.Module)
    log.info("Torch makes a graph of the detector")
    shapes = {name: tuple(tensor.shape) for name, tensor in module.detector.state_dict().items()}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    examples = {"inputs": list(inputs.values()), "tensors": zeros}
    varying = {"inputs": list(sizes or [None] * len(inputs)), "tensors": {name: _varying(name) for name in zeros}}
    model = _export(
        _WithTensors(module).eval(), examples, names=([*inputs, *zeros], list(outputs)), varying=varying
    )
    _keep_transposed(model, shapes)
    _make_external(model, shapes, inputs=list(inputs))
    _strip(model)
    return model


def _varying(name: str) -> dict[int, Any] | None:
    """Return which dimensions of a tensor of the detector vary: there may be any number of prototypes."""
    return {0: torch.export.Dim("P", min=2, max=MAX_SIZE)} if name == PROTOTYPES else None


def _export(
    module: nn.Module, examples: dict[str, Any], *, names: tuple[list[str], list[str]], varying: dict[str, Any]
) -> ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        try:
            program = torch.onnx.export(
                module,
                kwargs=examples,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=varying,
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


def _make_external(model: ModelProto, shapes: Mapping[str, tuple[int, ...]], *, inputs: Sequence[str]) -> None:
    """Turn the other inputs of the graph, its weights, into initializers whose values are elsewhere."""
    from onnx import TensorProto

    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.input if each.name in inputs]
    assert {each.name for each in graph.input} - set(inputs) <= shapes.keys()
    del graph.input[:]
    graph.input.extend(kept)
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
            if each.name == PROTOTYPES:
                each.dims[0] = len(array)
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
