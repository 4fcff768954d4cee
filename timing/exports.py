"""Export a detector in every precision and by quantisers that were tried, and print what each is worth.

    python timing/exports.py --model_path pretrained/gapl-vit-b16-open.safetensors --calibration DIR

DIR has images in class folders, real and fake: half of them judge, and the others move the calibrations for the
last columns. A detector with several views looks at the whole image alone. What is tried takes turns, batch by
batch, and the time is that of the processor, so that other work on the machine changes ratios little. Two threads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import export
from gapl import cli
from gapl.names import FAST, FULL
from models.onnx_weights import PRECISIONS, in_dynamic_int8, linear_layers
from models.weights.hub import find_model
from timing.engines import median_seconds

if TYPE_CHECKING:
    from onnx import ModelProto

    from gapl.engine import Engine
    from models.parity import Parity, Reference
    from models.weights.checkpoint import Checkpoint

NUM_THREADS = 2
BATCHES = (1, 4)
NUM_ROUNDS = 3
COLUMNS = (
    "weights", "MB", "AUROC differs by", "labels that change", "largest difference", "passes",
    "labels that change, own calibration", "balanced accuracy lower by", "passes",
)  # fmt: skip
Run = Callable[[np.ndarray], Any]


def main() -> None:
    args = parse_arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of torch: waiting threads sleep, as in Engine
    import torch

    from gapl.engine import Engine
    from models.export import export_graph, with_weights
    from models.parity import AS_GOOD, EXACT, Reference
    from models.run import run_detector
    from models.weights.checkpoint import load_checkpoint, read_info

    torch.set_num_threads(NUM_THREADS)
    file = find_model(args.model_path)
    whole = read_info(file).config.whole_layers
    checkpoint = load_checkpoint(file, views=FAST if whole else FULL)
    fitted, judged = export.split_images(args.calibration, num_images=args.num_images)
    pixels = export.pixels_of(checkpoint, [path for path, _ in judged])
    reference = Reference(checkpoint, pixels, labels=[label for _, label in judged])
    graph = with_weights(export_graph(checkpoint.config), checkpoint.detector.state_dict())
    engines: dict[str, Run] = {
        "torch": lambda batch: run_detector(checkpoint.detector, torch.from_numpy(batch), device="cpu")
    }
    pixels_to_fit = export.pixels_of(checkpoint, [path for path, _ in fitted])
    judge = partial(_judge, checkpoint, reference, Reference(checkpoint, pixels_to_fit))
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    with TemporaryDirectory() as scratch:
        for name in args.only:
            make = (PRECISIONS | QUANTISERS)[name]
            path = Path(scratch) / f"{name}.onnx"
            path.write_bytes(make(_copy(graph)).SerializeToString())
            run: Run = partial(_run, Engine(str(path)))
            engines[name] = partial(_logits, run)
            judge(f"{name} | {path.stat().st_size / 1e6:.0f}", run, EXACT if name == "fp32" else AS_GOOD)
        if args.static:
            for name, run in static(graph, file, args, Path(scratch)):
                engines[name] = partial(_logits, run)
                judge(f"{name} | -", run, AS_GOOD)
    _time(engines, np.stack(pixels))


def _judge(
    checkpoint: Checkpoint, reference: Reference, fitted: Reference, start: str, run: Run, limits: Parity
) -> None:
    """Print the row of an engine."""
    from models.parity import RANKS_AS_WELL

    logits = _once(partial(_logits, run))
    found = reference.compare(logits)["full"]
    cells = [f"{found.auroc:.4f}", f"{found.flips:.1%}", f"{found.difference:.1e}", _passes(found, limits)]
    try:
        own = reference.compare(logits, fitted.moved(checkpoint, logits))["full"]
        cells += [f"{own.flips:.1%}", f"{own.balanced_accuracy:.4f}", _passes(own, RANKS_AS_WELL)]
    except ValueError:  # no calibration, or another ranking
        cells += ["-"] * 3
    print(f"| {start} | {' | '.join(cells)} |", flush=True)


def _once(logits: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the same function, which judges the same pixels only once."""
    known: dict[bytes, np.ndarray] = {}

    def remembered(pixels: np.ndarray) -> np.ndarray:
        key = hashlib.blake2b(pixels.tobytes()).digest()
        if key not in known:
            known[key] = logits(pixels)
        return known[key]

    return remembered


def _passes(found: Parity, limits: Parity) -> str:
    return "no" if found.excess(limits) else "yes"


def _logits(run: Run, pixels: np.ndarray) -> np.ndarray:
    pixels_BVCHW = pixels[:, None] if pixels.ndim == 4 else pixels
    logit_B: np.ndarray = run(pixels_BVCHW)["logit_B"].astype(np.float64)
    return logit_B


def _run(engine: Engine, pixels_BVCHW: np.ndarray) -> dict[str, np.ndarray]:
    return engine.run(pixels_BVCHW, outputs=["logit_B"])


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help="detector file")
    parser.add_argument("--calibration", type=Path, metavar="DIR", required=True, help="images in class folders")
    parser.add_argument("--num-images", type=int, default=128, help="half of them judge (default: %(default)s)")
    every = [*PRECISIONS, *QUANTISERS]
    parser.add_argument("--only", nargs="*", choices=every, default=every, metavar="NAME", help="default: all")
    text = "also try static int8 by nncf, which takes minutes for each, and needs requirements/export.txt"
    parser.add_argument("--static", action="store_true", help=text)
    return parser.parse_args()


def _time(engines: dict[str, Run], pixels_NCHW: np.ndarray) -> None:
    """Print the images per second of each engine, as a multiple of those of torch, for each size of a batch."""
    names = list(engines)
    print(f"\n| batch | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for size in BATCHES:
        batch = np.ascontiguousarray(pixels_NCHW[:size])
        medians = median_seconds({name: partial(run, batch) for name, run in engines.items()}, rounds=NUM_ROUNDS)
        ratios = [f"{medians['torch'][1] / medians[name][1]:.2f}" for name in names]
        print(f"| {size} | {' | '.join(ratios)} |")


# ---------------------------------------------------------------------------------------------------------
# Quantisers of onnxruntime that were tried


def _copy(model: ModelProto) -> ModelProto:
    from onnx import ModelProto

    copied = ModelProto()
    copied.CopyFrom(model)
    return copied


def _blocks(model: ModelProto, *, block: int) -> ModelProto:
    """Linear layers in int8, a scale for each block of inputs; what they are multiplied by is rounded, too."""
    import logging

    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    linear = set(linear_layers(model))
    others = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in linear]
    quantiser = MatMulNBitsQuantizer(
        model, block_size=block, is_symmetric=True, accuracy_level=4, nodes_to_exclude=others, bits=8
    )
    quantiser.process()
    made: ModelProto = quantiser.model.model
    return made


QUANTISERS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "int8, blocks of 128": lambda model: _blocks(model, block=128),
    "int8, blocks of 32": lambda model: _blocks(model, block=32),
    "int8-dynamic without fc2": lambda model: in_dynamic_int8(model, without=".fc2."),
}


# ---------------------------------------------------------------------------------------------------------
# Static int8 of nncf, which OpenVINO runs

STATIC = {
    "static int8": (),
    "static int8 without fc2": (".fc2.",),
    "static int8 of queries, keys, values and fc1": (".fc2.", ".out_proj."),
}  # and the words in the names of the layers that stay in float


def static(graph: ModelProto, file: Path, args: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Run]]:
    """Yield the name of each try, and what runs it. It is fitted to the half of the images that does not judge."""
    from models.openvino_engine import compiled, import_optional
    from models.openvino_file import quantised
    from models.weights.checkpoint import load_checkpoint

    fitted, _ = export.split_images(args.calibration, num_images=args.num_images)
    calibration = export.pixels_of(load_checkpoint(file), [path for path, _ in fitted])  # in all views
    path = scratch / "float.onnx"
    path.write_bytes(graph.SerializeToString())
    for name, words in STATIC.items():
        products = [node for node in graph.node if node.op_type == "MatMul"]
        kept = [node.name for node in products if any(word in each for word in words for each in node.input)]
        model = quantised(import_optional("openvino").convert_model(path), calibration, kept=kept)
        yield name, compiled(model, precision="fp32")


if __name__ == "__main__":
    cli.run(main)
