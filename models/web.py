"""A detector as files that a browser runs: two ONNX graphs with int8 weights, and detector.json.

view.onnx turns one view into class tokens and runs once for each; verdict.onnx turns those of all views into a
logit. A linear weight that the int8 tower holds stays int8, and a LoRA update stays beside it: y = W x + B A x.
Everything else is float32. So the scores are those of torch, and the files have a quarter of the size.

Shape suffixes: C channels, H, W pixels, L layers that every view runs through, T tokens, D width of a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from gapl.calibration import score_of
from gapl.config import DetectorConfig, LoraSpec
from gapl.detector import judge_of
from gapl.files.atomic import replacing
from gapl.files.cache import cache_dir
from gapl.int8 import Int8Weight, int8_weights
from gapl.lora import BASE, LORA_A, LORA_B, is_lora
from gapl.names import INT8
from gapl.verdict import (
    FRAMES_WARNING,
    PLAIN_LEVELS,
    PLAIN_WARNING,
    SEEN_TRANSPARENT,
    small_image_warning,
    transparency_warning,
)
from gapl.views import eval_view
from gapl.wheel import read_int8
from models.detector import TowerHead, build_detector
from models.export import TOLERANCE, graph_of, with_weights
from models.run import run_detector

if TYPE_CHECKING:
    from onnx import ModelProto

    from models.weights.checkpoint import Checkpoint

VIEW, VERDICT, DETECTOR = "view.onnx", "verdict.onnx", "detector.json"
PIXELS, CLASSES, TOKENS = "pixels_1CHW", "classes_LD", "tokens_1TD"
CROPS, WHOLE, LOGIT = "crops_LD", "whole_LD", "logit_1"
INTERPOLATIONS = ("bicubic", "bilinear")


class _View(nn.Module):
    """One view -> its class tokens after each layer that all views run through, normalised, and all tokens."""

    def __init__(self, detector: TowerHead) -> None:
        super().__init__()
        self.detector, self.num_layers = detector, _num_shared(detector)

    def forward(self, pixels_1CHW: Tensor) -> tuple[Tensor, Tensor]:
        tower = self.detector.tower
        tokens_1TD = tower.pre_layrnorm(tower.embeddings(pixels_1CHW))
        classes = []
        for layer in tower.encoder.layers[: self.num_layers]:
            tokens_1TD = layer(tokens_1TD)
            classes.append(_normalised(tokens_1TD[0, 0]))
        if not self.detector.feature_layers:
            classes[-1] = tower.post_layernorm(tokens_1TD[0, 0])
        return torch.stack(classes), tokens_1TD


class _Verdict(nn.Module):
    """The mean of the crops' class tokens, and what view.onnx says of the whole image -> logit."""

    def __init__(self, detector: TowerHead) -> None:
        super().__init__()
        self.detector, self.num_layers = detector, _num_shared(detector)

    def forward(self, crops_LD: Tensor, whole_LD: Tensor, tokens_1TD: Tensor) -> Tensor:
        detector, layers = self.detector, self.detector.tower.encoder.layers
        parts = [crops_LD[number - 1] for number in detector.feature_layers or (self.num_layers,)]
        later = [number for number in detector.whole_layers if number > self.num_layers]
        parts += [whole_LD[number - 1] for number in detector.whole_layers if number <= self.num_layers]
        for number, layer in enumerate(layers[self.num_layers : max(later, default=0)], self.num_layers + 1):
            tokens_1TD = layer(tokens_1TD, class_only=number == later[-1])
            if number in later:
                parts.append(_normalised(tokens_1TD[0, 0]))
        logit_1: Tensor = detector.head(torch.cat(parts)[None]).logit_B
        return logit_1


def _num_shared(detector: TowerHead) -> int:
    """Return how many layers of the tower every view runs through: all that the crops need."""
    return (detector.feature_layers or (detector.tower.spec.num_hidden_layers,))[-1]


def _normalised(class_D: Tensor) -> Tensor:
    return functional.layer_norm(class_D, class_D.shape)


# ---------------------------------------------------------------------------------------------------------
# Files


def save_web(folder: Path, checkpoint: Checkpoint, *, images: Sequence[Image.Image]) -> float:
    """Write both graphs and detector.json, and return by how much P(fake) differs from that of torch.

    checkpoint   its LoRA is not merged
    images       to compare the scores of, beside noise

    Raises ValueError when it differs by more than TOLERANCE, or the page cannot make the views of this detector.
    """
    config = checkpoint.config
    check_config(config)
    state = checkpoint.detector.state_dict()
    weights = int8_tower() if config.backbone == INT8 else {}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / VIEW) as view, replacing(folder / VERDICT) as verdict:
        for path, graph in zip((view, verdict), _graphs(config), strict=True):
            model = web_weights(graph, state, lora=config.lora, weights=weights)
            path.write_bytes(model.SerializeToString(deterministic=True))
        difference = _difference(_engine(view, verdict, config), checkpoint, images)
        if not difference <= TOLERANCE:
            raise ValueError(f"{folder}: not written; its P(fake) differs from that of torch by {difference:.1e}")
    with replacing(folder / DETECTOR) as scratch:
        scratch.write_text(json.dumps(_described(checkpoint), indent=1) + "\n", encoding="utf-8")
    return difference


def check_config(config: DetectorConfig) -> None:
    """Raise ValueError for a detector whose views the page cannot make, or whose graph cannot be cut in two."""
    if config.pixel.interpolation not in INTERPOLATIONS or config.pixel.conversion != "shown":
        raise ValueError(
            f"--format web resizes by {' or '.join(INTERPOLATIONS)} and converts images as they are shown; this "
            f"detector wants {config.pixel.interpolation} and {config.pixel.conversion}"
        )
    if config.whole_layers and not config.feature_layers:
        raise ValueError("--format web needs feature_layers where a detector has whole_layers")


def int8_tower() -> dict[str, Int8Weight]:
    """Return the linear weights of the int8 tower, by their names in a detector."""
    import onnx

    model = onnx.load_from_string(read_int8(cache_dir()))
    return {f"tower.{name}": weight for name, weight in int8_weights(model).items()}


def _graphs(config: DetectorConfig) -> tuple[ModelProto, ModelProto]:
    """Return the graphs of view.onnx and verdict.onnx, without weights."""
    detector = build_detector(replace(config, lora=None))
    tower = config.tower
    pixels = torch.zeros(1, 3, tower.image_size, tower.image_size)
    # Two tensors: torch takes the same tensor twice for one input.
    crops, whole = (torch.zeros(_num_shared(detector), tower.hidden_size) for _ in range(2))
    tokens = torch.zeros(1, tower.num_tokens, tower.hidden_size)
    return (
        graph_of(_View(detector), {PIXELS: pixels}, outputs=[CLASSES, TOKENS]),
        graph_of(_Verdict(detector), {CROPS: crops, WHOLE: whole, TOKENS: tokens}, outputs=[LOGIT]),
    )


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the page must know: how images become pixels, and logits verdicts."""
    judge = judge_of(checkpoint)
    pixel, calibration = checkpoint.config.pixel, judge.calibration
    return {
        "pixel": asdict(pixel),
        "num_views": pixel.num_views,
        "whole": bool(checkpoint.config.whole_layers),
        "scale": calibration.a if calibration else 1,
        "offset": calibration.b if calibration else 0,
        "real_below": judge.rule.real_below,
        "threshold": judge.rule.threshold,
        "notices": list(judge.notices),
        "seen_transparent": SEEN_TRANSPARENT,
        "plain_levels": PLAIN_LEVELS,
        "image_warnings": {
            "small": small_image_warning(pixel, "{width}", "{height}"),
            "transparent": transparency_warning(pixel, "{share}"),
            "several_frames": FRAMES_WARNING,
            "plain": PLAIN_WARNING,
        },
    }


# ---------------------------------------------------------------------------------------------------------
# Weights


def web_weights(
    graph: ModelProto,
    state: Mapping[str, Tensor],
    *,
    lora: LoraSpec | None,
    weights: Mapping[str, Int8Weight],
) -> ModelProto:
    """Return the graph with its weights: int8 where `weights` are those of the detector, and LoRA beside them."""
    plain = {name.replace(BASE, ""): tensor for name, tensor in state.items() if not is_lora(name)}
    model = type(graph)()
    model.CopyFrom(graph)
    if lora:
        _put_updates_beside(model, state, scale=lora.scale)
    _keep_int8(model, plain, weights)
    return with_weights(model, plain)


def _put_updates_beside(model: ModelProto, state: Mapping[str, Tensor], *, scale: float) -> None:
    """Let each product x W whose weight has an update be x W + x A B."""
    from onnx import helper, numpy_helper

    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        place = node.input[1].removesuffix("weight.T") if node.op_type == "MatMul" else ""
        if place + LORA_A not in state:
            continue
        x, y = node.input[0], node.output[0]
        for matrix, factor in ((LORA_A, 1.0), (LORA_B, scale)):
            array = factor * state[place + matrix].T.contiguous().numpy()
            model.graph.initializer.append(numpy_helper.from_array(array, place + matrix))
        node.output[0] = f"{place}base"
        nodes += [
            helper.make_node("MatMul", [x, place + LORA_A], [f"{place}lowered"]),
            helper.make_node("MatMul", [f"{place}lowered", place + LORA_B], [f"{place}update"]),
            helper.make_node("Add", [f"{place}base", f"{place}update"], [y]),
        ]
    _replace(model.graph.node, nodes)


def _keep_int8(model: ModelProto, plain: Mapping[str, Tensor], weights: Mapping[str, Int8Weight]) -> None:
    """Let each weight that equals one of the int8 tower be that one, and a node that makes floats of it."""
    from onnx import helper, numpy_helper

    nodes, kept = [], []
    for each in model.graph.initializer:
        name = each.name.removesuffix(".T")
        weight = weights.get(name)
        if each.name == name or weight is None or not np.array_equal(weight.dequantise().T, plain[name]):
            kept.append(each)
            continue
        parts = {
            f"{name}.int8": weight.quantised_IO,
            f"{name}.scale": weight.scale_O,
            f"{name}.zero_point": weight.zero_point_O,
        }
        kept += [numpy_helper.from_array(array, part) for part, array in parts.items()]
        nodes.append(helper.make_node("DequantizeLinear", list(parts), [each.name], axis=1))
    _replace(model.graph.initializer, kept)
    _replace(model.graph.node, [*nodes, *model.graph.node])


def _replace(field: Any, items: Sequence[Any]) -> None:
    """Make these the items of a repeated field; some of them may be its own."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


# ---------------------------------------------------------------------------------------------------------
# The same as torch?


def _engine(view: Path, verdict: Path, config: DetectorConfig) -> Callable[[np.ndarray], float]:
    """Return what web/worker.js does: pixels_VCHW -> logit."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    views, head = (onnxruntime.InferenceSession(str(path), options, providers) for path in (view, verdict))
    wanted = {each.name for each in head.get_inputs()}

    def judge(pixels_VCHW: np.ndarray) -> float:
        seen = [views.run([CLASSES, TOKENS], {PIXELS: each_CHW[None]}) for each_CHW in pixels_VCHW]
        crops = seen[:-1] if config.whole_layers else seen
        crops_LD = sum(classes_LD for classes_LD, _ in crops) / np.float32(max(1, len(crops)))
        given = {CROPS: crops_LD, WHOLE: seen[-1][0], TOKENS: seen[-1][1]}
        (logit_1,) = head.run([LOGIT], {name: given[name] for name in wanted})
        return float(logit_1[0])

    return judge


def _difference(
    judge: Callable[[np.ndarray], float], checkpoint: Checkpoint, images: Sequence[Image.Image]
) -> float:
    """Return the largest difference between the scores of `judge` and of torch, of noise and of images."""
    view = eval_view(checkpoint.config.pixel)
    shape = (checkpoint.config.pixel.num_views, *view(Image.new("RGB", (8, 8))).shape[-3:])
    pixels = [np.random.default_rng(0).standard_normal(shape).astype(np.float32)]
    pixels += [view(image).reshape(shape) for image in images]
    expected = [
        float(run_detector(checkpoint.detector, torch.from_numpy(each)[None], device="cpu").logit_B[0])
        for each in pixels
    ]
    scores = [
        score_of(np.array(logits), checkpoint.calibration)
        for logits in (expected, [judge(each) for each in pixels])
    ]
    return float(np.abs(scores[0] - scores[1]).max())
