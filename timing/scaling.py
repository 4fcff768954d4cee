"""Estimate what a step of stage 2 costs on 1 to 1,024 processes, from figures that can be measured.

    python timing/scaling.py
    python timing/scaling.py --tflops 989 --decode-ms 25 --storage-gb 10

Each process has one GPU and its own part of a batch that grows with them. A step is the tower's arithmetic, then
the exchange of gradients (a ring for the bytes, a tree for the latency), then one small sum over all processes.
Images are read and decoded meanwhile; if that takes longer, it sets the pace. The defaults are those of an A100
and of the shards of CommunityForensics-Small; docs/scaling.md says what was measured. The hours are for --images
images at the rate of the row.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROCESSES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RELEASE_IMAGES = 10 * 0.99 * 556_541  # epochs, without validation, CommunityForensics-Small


def main() -> None:
    args = parse_arguments()
    from stage2 import num_flops

    from gapl.config import VIT_L14, LoraSpec

    flops = num_flops(VIT_L14, LoraSpec(16, 32, 0.1))
    gradient_bytes = 4 * args.trainable
    compute_s = args.batch * flops / (args.tflops * 1e12 * args.utilisation)
    print(f"{flops / 1e9:.0f} GFLOP an image; {compute_s:.3f} s of arithmetic a step of {args.batch} a process")
    print(" processes  gradients ms  agree ms  read x  GB/s  cores  images/s  of ideal  set by      hours")
    for world in PROCESSES:
        print(row(world, compute_s, gradient_bytes, args))


def row(world: int, compute_s: float, gradient_bytes: int, args: argparse.Namespace) -> str:
    """Return one line of the table."""
    hops = 2 * math.ceil(math.log2(world)) if world > 1 else 0
    latency_s = hops * args.latency_us * 1e-6
    gradients_s = 2 * (world - 1) / world * gradient_bytes / (args.network_gb * 1e9) + latency_s
    step_s = compute_s + gradients_s + latency_s
    amplified = read_amplification(world, args.shards)
    wanted = world * args.batch / step_s
    limits = {
        "arithmetic": wanted,
        "reading": args.storage_gb * 1e9 / (args.image_mb * 1e6 * amplified),
        "decoding": world * args.cores * 1000 / args.decode_ms,
    }
    by, rate = min(limits.items(), key=lambda item: item[1])
    ideal = world * args.batch / compute_s
    gigabytes = wanted * args.image_mb * amplified / 1000
    cores = wanted * args.decode_ms / 1000
    return (
        f"{world:10d}  {gradients_s * 1e3:12.2f}  {latency_s * 1e3:8.2f}  {amplified:6.1f}  {gigabytes:4.1f}"
        f"  {cores:5.0f}  {rate:8.0f}  {rate / ideal:8.1%}  {by:10s}  {args.images / rate / 3600:6.2f}"
    )


def read_amplification(world: int, shards: int) -> float:
    """Return how often a byte is read.

    A shard that is cut in k pieces for k readers is read (k + 1) / 2 times: what lies before a piece is read and
    dropped.
    """
    from data.shards.order import open_in_part

    units = world * max(2, open_in_part(shards, num_parts=world, open_shards=4))
    pieces = max(1.0, units / shards)
    return (pieces + 1) / 2


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images a step and process")
    parser.add_argument("--trainable", type=int, default=2_556_544, help="parameters with gradients")
    parser.add_argument("--tflops", type=float, default=312, help="of a GPU, in bfloat16")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of that which is reached")
    parser.add_argument("--network-gb", type=float, default=25, help="GB/s between processes")
    parser.add_argument("--latency-us", type=float, default=20, help="microseconds of one hop")
    parser.add_argument("--storage-gb", type=float, default=5, help="GB/s of the shards' storage, in all")
    parser.add_argument("--image-mb", type=float, default=1.3, help="MB of an image")
    parser.add_argument("--decode-ms", type=float, default=20, help="core milliseconds per image")
    parser.add_argument("--cores", type=int, default=12, help="cores for each process")
    parser.add_argument("--shards", type=int, default=92, help="shards of the class that has fewer")
    parser.add_argument("--images", type=float, default=RELEASE_IMAGES, help="images of the whole run")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
