"""Compare a step of stage 2 (forward, backward, AdamW) with a plain loop of transformers and peft.

    python timing/stage2.py
    python timing/stage2.py --dropout 0 --steps 3 --rounds 5
    python timing/stage2.py --curve 20

The plain loop is float32 in eager mode, as a user would write it; ours runs in --precision. Both start from the
same weights and see the same batches: views of --images, or else random numbers. Each is a process of its own;
they take steps in turns, and the first step of each does not count. On a shared machine only the ratios mean
something, above all that of CPU time, which waiting does not change.

--curve trains both for that many steps without dropout and compares the losses. They fall, because a few batches
are seen again and again.

Shape suffixes: B batch, C channels, H, W pixels, D tower width, P prototypes, E embedding.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

if TYPE_CHECKING:
    from torch import Tensor

    from gapl.config import LoraSpec, TowerSpec

RANK, ALPHA, LR, HEAD_LR = 16, 32, 2e-4, 3e-3
NUM_PROTOTYPES, EMBED_DIM = 64, 128
NUM_BATCHES = 4  # that the steps see again and again

Step = Callable[["Tensor", "Tensor"], float]  # pixels_BCHW, labels_B -> loss, after one step


def main() -> None:
    args = parse_arguments()
    if args.run:
        return serve(args)
    with TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        prepare(Path(scratch), args)
        ways = {way: stack.enter_context(started(way, Path(scratch), args)) for way in ("plain", "ours")}
        if args.curve:
            return report_curve({way: ask(process, args.curve) for way, process in ways.items()})
        for process in ways.values():
            ask(process, 1)
        turns = [{way: ask(process, args.steps) for way, process in ways.items()} for _ in range(args.rounds)]
        report({way: [step for turn in turns for step in turn[way]] for way in ways}, args)


def parse_arguments() -> argparse.Namespace:
    from models.precision import PRECISIONS

    parser = cli.Parser(__doc__)
    parser.add_argument("--backbone", default="clip-vit-b16-int8")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="steps of each in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns")
    parser.add_argument("--dropout", type=float, default=0.1, help="of LoRA")
    parser.add_argument(
        "--precision", choices=[p for p in PRECISIONS if p != "fp16"], default="auto", help="of ours"
    )
    parser.add_argument("--images", type=Path, help="folder of class folders, as train.py reads them")
    parser.add_argument("--curve", type=int, metavar="STEPS", help="compare losses instead of time")
    parser.add_argument("--checkpointing", action="store_true", help="ours computes activations twice")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.dropout = 0.0 if args.curve else args.dropout
    return args


# ---------------------------------------------------------------------------------------------------------
# The same start and the same batches


def prepare(scratch: Path, args: argparse.Namespace) -> None:
    """Write start.pt, the tensors of a new detector, and batches.pt, a list of (pixels_BCHW, labels_B)."""
    import torch

    from models.weights.backbone import load_backbone

    torch.manual_seed(0)
    source = load_backbone(args.backbone)
    detector = build(source, args)
    detector.prototypes_PE.copy_(torch.nn.functional.normalize(torch.randn(NUM_PROTOTYPES, EMBED_DIM), dim=1))
    torch.save(detector.state_dict(), scratch / "start.pt")
    torch.save(list(itertools.islice(make_batches(source.pixel, args), NUM_BATCHES)), scratch / "batches.pt")
    (scratch / "tower.json").write_text(json.dumps(asdict(source.tower.spec)))


def build(source: Any, args: argparse.Namespace) -> Any:
    from gapl.config import DetectorConfig
    from models.detector import build_detector

    config = DetectorConfig(
        2,
        source.name,
        source.tower.spec,
        source.pixel,
        EMBED_DIM,
        num_prototypes=NUM_PROTOTYPES,
        lora=lora_of(args),
    )
    return build_detector(config, source.tower)


def lora_of(args: argparse.Namespace) -> LoraSpec:
    from gapl.config import LoraSpec

    return LoraSpec(RANK, ALPHA, args.dropout)


def make_batches(pixel: Any, args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels_BCHW, labels_B) endlessly: views of --images, or else random numbers."""
    import torch

    if args.images is None:
        while True:
            pixels_BCHW = torch.randn(args.batch_size, 3, pixel.size_px, pixel.size_px)
            yield pixels_BCHW, (torch.rand(args.batch_size) > 0.5).float()
    from data.folders import scan_folder
    from data.images.augment import train_view
    from data.loading.epochs import train_batches
    from data.loading.plan import BatchPlan

    manifest = scan_folder(args.images)
    if len(manifest) < args.batch_size:
        raise ValueError(f"--images {args.images}: {len(manifest)} images are less than one batch")
    view = train_view("crop_flip", size_px=pixel.size_px, mean=pixel.mean, std=pixel.std)
    for epoch in itertools.count():
        for batch in train_batches(manifest, view, BatchPlan(args.batch_size), sampling="class", epoch=epoch):
            if len(batch.labels_B) == args.batch_size:
                yield batch.pixels_BCHW, batch.labels_B


# ---------------------------------------------------------------------------------------------------------
# The two ways


def ours(args: argparse.Namespace) -> Step:
    import torch
    from torch.nn import functional

    from models.casting import cast_frozen_linears
    from models.precision import autocast, dtype_of, resolve_precision
    from models.weights.backbone import load_backbone
    from training.processes import keep_freed_memory

    keep_freed_memory()
    detector = build(load_backbone(args.backbone), args).train()
    detector.load_state_dict(torch.load(args.scratch / "start.pt"))
    precision = resolve_precision(args.precision, device="cpu")
    if precision != "fp32":
        cast_frozen_linears(detector.tower, dtype_of(precision))
    named = [(name, p) for name, p in detector.named_parameters() if p.requires_grad]
    tower = [p for name, p in named if name.startswith("tower.")]
    head = [p for name, p in named if not name.startswith("tower.")]
    optimizer = torch.optim.AdamW([{"params": tower, "lr": LR}, {"params": head, "lr": HEAD_LR}])

    def step(pixels_BCHW: Tensor, labels_B: Tensor) -> float:
        optimizer.zero_grad()
        with detector.tower.training_options(activation_checkpointing=args.checkpointing):
            with autocast("cpu", precision):
                logit_B = detector(pixels_BCHW).logit_B
            loss = functional.binary_cross_entropy_with_logits(logit_B.double(), labels_B.double())
            loss.backward()
        optimizer.step()
        return loss.item()

    return step


def plain(args: argparse.Namespace) -> Step:
    """Train without this project, except for the weights to start from."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from torch.nn import functional
    from transformers import CLIPVisionConfig, CLIPVisionModel

    start = torch.load(args.scratch / "start.pt")
    shape = json.loads((args.scratch / "tower.json").read_text())
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=args.dropout, target_modules=["q_proj", "k_proj", "v_proj"]
    )
    clip = get_peft_model(CLIPVisionModel(CLIPVisionConfig(**shape)), lora)
    project = nn.Linear(shape["hidden_size"], EMBED_DIM, bias=False)
    attention = nn.MultiheadAttention(EMBED_DIM, 4, batch_first=True)
    classifier = nn.Linear(EMBED_DIM, 1, bias=False)
    prototypes_PE = start.pop("prototypes_PE")
    model = nn.ModuleDict({"tower": clip, "project": project, "attention": attention, "classifier": classifier})
    model.load_state_dict(
        {name.replace("tower.", "tower.base_model.model."): value for name, value in start.items()}
    )
    model.train()
    adapter = [p for p in clip.parameters() if p.requires_grad]
    head = [p for part in (project, attention, classifier) for p in part.parameters()]
    optimizer = torch.optim.AdamW([{"params": adapter, "lr": LR}, {"params": head, "lr": HEAD_LR}])

    def step(pixels_BCHW: Tensor, labels_B: Tensor) -> float:
        feature_BD = clip(pixel_values=pixels_BCHW).pooler_output
        query_B1E = functional.normalize(project(feature_BD), dim=1).unsqueeze(1)
        keys_BPE = prototypes_PE.expand(len(query_B1E), -1, -1)
        mixture_B1E, _ = attention(query_B1E, keys_BPE, keys_BPE)
        logit_B = classifier(mixture_B1E.squeeze(1)).squeeze(1)
        loss = functional.binary_cross_entropy_with_logits(logit_B.double(), labels_B.double())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(args: argparse.Namespace) -> None:
    """Read how many steps to take, and answer with a line of JSON, again and again."""
    import torch

    torch.manual_seed(0)
    step = {"ours": ours, "plain": plain}[args.run](args)
    batches = torch.load(args.scratch / "batches.pt")
    taken = 0
    for line in sys.stdin:
        answer = []
        for _ in range(int(line)):
            start, cpu_start = time.perf_counter(), time.process_time()
            loss = step(*batches[taken % len(batches)])
            taken += 1
            answer.append(
                {"s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu_start, "loss": loss}
            )
            answer[-1]["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(answer), flush=True)


@contextlib.contextmanager
def started(way: str, scratch: Path, args: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    options = ["--run", way, "--scratch", str(scratch), "--backbone", args.backbone, "--precision", args.precision]
    options += ["--dropout", str(args.dropout), *(["--checkpointing"] if args.checkpointing else [])]
    process = subprocess.Popen(
        [sys.executable, __file__, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},  # waiting threads would count as CPU time
    )
    with process:
        yield process


def ask(process: subprocess.Popen[str], num_steps: int) -> list[dict[str, float]]:
    assert process.stdin
    assert process.stdout
    print(num_steps, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        raise ValueError("a way failed; its error is above")
    answer: list[dict[str, float]] = json.loads(line)
    return answer


# ---------------------------------------------------------------------------------------------------------
# Figures


def num_flops(spec: TowerSpec, lora: LoraSpec) -> float:
    """Count the floating-point operations of the matrix products that one image needs in a step of ours.

    A product of (n, i) and (i, o) takes 2 n i o. All layers except the last compute T tokens; the last computes
    keys and values of all tokens, and otherwise the class token alone. Backward, a frozen layer needs one product,
    for the gradient of its input, and none where nothing before it trains: the patches and q, k and v of the first
    layer. An update takes two products forward and four backward, attention two and four. The head and all
    elementwise operations are left out.
    """
    tokens, width = spec.num_tokens, spec.hidden_size
    square, mlp = 2 * width**2, 4 * width * spec.intermediate_size
    update, attention = 4 * lora.rank * width, 4 * tokens * width  # of a token
    patches = (tokens - 1) * 2 * 3 * spec.patch_size**2 * width
    full = tokens * (4 * square + mlp)
    last = tokens * 2 * square + 2 * square + mlp
    frozen = (spec.num_hidden_layers - 1) * full + last
    updates = (spec.num_hidden_layers - 1) * tokens * 3 * update + (2 * tokens + 1) * update
    mixing = (spec.num_hidden_layers - 1) * tokens * attention + attention
    return patches + 2 * frozen - tokens * 3 * square + 3 * (updates + mixing)


def matmul_gflops(dtype_name: str, *, seconds: float = 3.0) -> float:
    """Measure the matrix product of this machine in GFLOP/s: the best of many of the size of an MLP's."""
    import torch

    dtype = getattr(torch, dtype_name)
    x, weight = torch.randn(3152, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    out = torch.empty(3152, 3072, dtype=dtype)
    best_s, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(x, weight.T, out=out)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * 3152 * 768 * 3072 / best_s / 1e9


def report(steps: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    import torch

    from models.precision import resolve_precision
    from models.weights.backbone import architecture

    precision = resolve_precision(args.precision, device="cpu")
    machine = matmul_gflops("bfloat16" if precision == "bf16" else "float32")
    capabilities = [name for name, has in torch.cpu.get_capabilities().items() if has is True]
    print(f"{torch.get_num_threads()} threads; {', '.join(capabilities)}")
    print(f"{args.backbone}, batches of {args.batch_size}, dropout {args.dropout}; ours in {precision}")
    print(f"{'':18}{'plain':>10}{'ours':>10}{'ratio':>10}")
    medians = {
        way: {key: statistics.median(s[key] for s in found) for key in found[0]} for way, found in steps.items()
    }
    for name, key in (("s a step", "s"), ("CPU s a step", "cpu_s"), ("peak GB", "peak_gb")):
        line(name, medians["plain"][key], medians["ours"][key], medians["plain"][key] / medians["ours"][key])
    rates = {way: args.batch_size / found["s"] for way, found in medians.items()}
    line("images/s", rates["plain"], rates["ours"], rates["ours"] / rates["plain"])
    flops = args.batch_size * num_flops(architecture(args.backbone), lora_of(args))
    reached = flops / medians["ours"]["s"] / 1e9
    share = reached / machine
    print(f"ours: {flops / 1e9:,.0f} GFLOP a step, {reached:.0f} GFLOP/s, {share:.0%} of a matrix product's")
    print(f"matrix products of {machine:.0f} GFLOP/s and nothing else: {flops / 1e9 / machine:.2f} s a step")


def line(name: str, *values: float) -> None:
    print(f"{name:18}" + "".join(f"{value:10.2f}" for value in values))


def report_curve(steps: dict[str, list[dict[str, float]]]) -> None:
    losses = [(of_plain["loss"], of_ours["loss"]) for of_plain, of_ours in zip(*steps.values(), strict=True)]
    print(f"{'step':>5}{'plain':>12}{'ours':>12}{'difference':>12}")
    for i, (of_plain, of_ours) in enumerate(losses, 1):
        print(f"{i:5}{of_plain:12.6f}{of_ours:12.6f}{abs(of_plain - of_ours):12.1e}")
    print(f"largest difference of the losses: {max(abs(a - b) for a, b in losses):.1e}")


if __name__ == "__main__":
    cli.run(main)
