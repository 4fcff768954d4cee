"""Measure how many images a second each way of running a detector judges, beside the authors' way.

    python timing/engines.py --model_path pretrained/gapl-vit-b16-open.safetensors
    python timing/engines.py --tower vit-l14 --exported runs/openvino/detector.xml

The authors' way is transformers and peft, LoRA not merged, float32, an image at a time. The others judge a batch.
A detector with several views looks at the whole image alone, so that an image is one pass through the tower. The
ways take turns. The first table has images a second of the clock, and needs a machine without other work; the
second compares processor time, which other work changes little. The last one compares the tower with matrix
products of its size.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.config import VIT_B16, VIT_L14, DetectorConfig, LoraSpec, TowerSpec
from gapl.names import FAST, FULL
from models.weights.hub import find_model

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

NUM_THREADS = 2
NUM_PROTOTYPES = 64
TOWERS = {"vit-b16": VIT_B16, "vit-l14": VIT_L14}
RELEASE, BASE = "the authors' way", "torch fp32"
ONNX_PRECISIONS = ("fp32", "fp16", "int8")
FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "amx_tile")
Run = Callable[[np.ndarray], Any]  # pixels_BCHW -> what the way gives


def main() -> None:
    args = parse_arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of torch: waiting threads sleep, as in Engine
    import torch

    torch.set_num_threads(NUM_THREADS)
    has = torch.cpu.get_capabilities()
    print(f"{NUM_THREADS} threads; the processor has: {', '.join(each for each in FEATURES if has.get(each))}\n")
    with TemporaryDirectory() as scratch:
        checkpoint = load(args)
        ways = make_ways(checkpoint, args, Path(scratch))
        ways |= products(checkpoint.config.tower)
        side = checkpoint.config.tower.image_size
        turns = {size: take_turns(ways, (size, 3, side, side), args.rounds) for size in args.batch_sizes}
    report(turns, images_flop(checkpoint))


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    detector = parser.add_mutually_exclusive_group(required=True)
    detector.add_argument("--model_path", "--model-path", help="detector file")
    detector.add_argument("--tower", choices=TOWERS, help="random weights of this shape, as the method has them")
    parser.add_argument("--exported", nargs="+", type=Path, default=[], help="files of export.py to measure, too")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default: %(default)s)")
    return parser.parse_args()


def load(args: argparse.Namespace) -> Checkpoint:
    """Return the detector, its LoRA merged."""
    from models.detector import build_detector
    from models.tower import VisionTower
    from models.weights.checkpoint import Checkpoint, load_checkpoint, read_info
    from models.weights.released import released_pixels

    if args.model_path:
        file = find_model(args.model_path)
        return load_checkpoint(file, views=FAST if read_info(file).config.whole_layers else FULL)
    spec = TOWERS[args.tower]
    config = DetectorConfig(2, "", spec, released_pixels(spec.image_size), num_prototypes=NUM_PROTOTYPES)
    detector = build_detector(config, VisionTower(spec)).eval()
    return Checkpoint(config=config, detector=detector, backbone_fingerprint="")


# ---------------------------------------------------------------------------------------------------------
# Ways to run it


def make_ways(checkpoint: Checkpoint, args: argparse.Namespace, scratch: Path) -> dict[str, Run]:
    """Return each way by its name; print which are missing, and why."""
    from gapl.weights import read_engine
    from models.casting import cast_frozen_linears
    from models.exported import READERS
    from models.precision import dtype_of

    short = copy.deepcopy(checkpoint.detector)
    cast_frozen_linears(short.tower, dtype_of("bf16"))
    ways: dict[str, Run] = {
        RELEASE: release(checkpoint.config.tower),
        BASE: partial(_by_torch, checkpoint.detector, "fp32"),
        "torch bf16": partial(_by_torch, short, "bf16"),
    }
    if args.model_path:
        try:
            ways["gapl"] = partial(_by_onnxruntime, read_engine(find_model(args.model_path))[1])
        except ValueError as error:
            print(f"not measured: gapl ({error})")
    ways |= exported_ways(checkpoint, scratch)
    for path in args.exported:
        _, _, run = READERS[path.suffix](path)
        ways[path.name] = partial(_by_file, run)
    return ways


def exported_ways(checkpoint: Checkpoint, scratch: Path) -> dict[str, Run]:
    """Return what runs the files that export.py would write, by onnxruntime and OpenVINO."""
    from gapl.engine import Engine
    from models.export import export_graph, with_weights
    from models.onnx_weights import PRECISIONS
    from models.openvino_engine import compiled, import_optional

    ways: dict[str, Run] = {}
    bare = export_graph(checkpoint.config)
    for precision in ONNX_PRECISIONS:
        graph = with_weights(bare, checkpoint.detector.state_dict())
        path = scratch / f"{precision}.onnx"
        path.write_bytes(PRECISIONS[precision](graph).SerializeToString())
        ways[f"onnxruntime {precision}"] = partial(_by_onnxruntime, Engine(str(path)))
    try:
        model = import_optional("openvino").convert_model(scratch / "fp32.onnx")
    except ValueError as error:
        print(f"not measured: OpenVINO ({error})")
        return ways
    for precision in ("fp32", "bf16"):
        ways[f"OpenVINO {precision}"] = partial(_by_file, compiled(model, precision=precision))
    return ways


def release(spec: TowerSpec) -> Run:
    """Return transformers and peft around random weights of a shape, which judge an image at a time."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPVisionConfig, CLIPVisionModel

    lora = LoraSpec()
    adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    tower = get_peft_model(CLIPVisionModel(CLIPVisionConfig(**vars(spec))), adapter).eval()

    def run(pixels_BCHW: np.ndarray) -> None:
        with torch.no_grad():
            for pixels_CHW in torch.from_numpy(pixels_BCHW):
                tower(pixel_values=pixels_CHW[None])

    return run


def products(spec: TowerSpec) -> dict[str, Run]:
    """Return matrix products of the size of the tower's largest, for as many images, in fp32 and bf16."""
    import torch

    made: dict[str, Run] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        weight_ID = torch.randn(spec.intermediate_size, spec.hidden_size).to(dtype)

        def multiply(pixels_BCHW: np.ndarray, weight_ID: torch.Tensor = weight_ID) -> None:
            x_ND = torch.ones(len(pixels_BCHW) * spec.num_tokens, spec.hidden_size, dtype=weight_ID.dtype)
            for _ in range(spec.num_hidden_layers):
                torch.nn.functional.linear(x_ND, weight_ID)

        made[f"product {precision}"] = multiply
    return made


def _by_torch(detector: Any, precision: str, pixels_BCHW: np.ndarray) -> None:
    import torch

    from models.run import run_detector

    run_detector(detector, torch.from_numpy(pixels_BCHW), device="cpu", precision=precision)


def _by_onnxruntime(engine: Any, pixels_BCHW: np.ndarray) -> None:
    engine.run(pixels_BCHW[:, None], outputs=["logit_B"])


def _by_file(run: Run, pixels_BCHW: np.ndarray) -> None:
    run(pixels_BCHW[:, None])


# ---------------------------------------------------------------------------------------------------------
# Time


def take_turns(ways: Mapping[str, Run], shape: tuple[int, ...], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each way for a batch of random pixels of a shape, as median_seconds does."""
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return median_seconds({name: partial(run, batch) for name, run in ways.items()}, rounds=rounds)


def median_seconds(ways: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each way, which take turns: by the clock, and of the processor.

    A turn before the first is not counted.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if number:
                seconds[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: tuple(np.median(each, axis=0).tolist()) for name, each in seconds.items()}


def images_flop(checkpoint: Checkpoint) -> tuple[float, float]:
    """Return the floating-point operations of an image, and of the products that it is compared with."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    spec = checkpoint.config.tower
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.detector(torch.zeros(1, 3, spec.image_size, spec.image_size))
    one = 2 * spec.num_tokens * spec.hidden_size * spec.intermediate_size * spec.num_hidden_layers
    return float(counter.get_total_flops()), float(one)


def report(turns: Mapping[int, Mapping[str, tuple[float, float]]], flop: tuple[float, float]) -> None:
    sizes = list(turns)
    names = [name for name in turns[sizes[0]] if not name.startswith("product ")]
    head = f"{' | '.join(f'batch {size}' for size in sizes)} |\n|---|{'---|' * len(sizes)}"
    print(f"\n| images/s, and as a multiple of {BASE} | {head}")
    for name in names:
        cells = [
            f"{size / turns[size][name][0]:.1f} ({turns[size][BASE][0] / turns[size][name][0]:.2f})"
            for size in sizes
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| processor time, as a multiple of {BASE} | {head}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{turns[s][BASE][1] / turns[s][name][1]:.2f}' for s in sizes)} |")
    print()
    print("| precision | batch | products, GFLOP/s of a core | share that torch reaches |\n|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        for size in sizes:
            ours, product = (turns[size][f"{name} {precision}"][1] for name in ("torch", "product"))
            rate = size * flop[1] / product / 1e9
            share = (flop[0] / ours) / (flop[1] / product)
            print(f"| {precision} | {size} | {rate:.0f} | {share:.0%} |")


if __name__ == "__main__":
    cli.run(main)
