"""Scores a detector on every benchmark below a folder: per-image scores to parquet, then a table.

    python benchmarks.py --model_path runs/stage2/detector.safetensors --data-root DIR
    python benchmarks.py --model_path runs/stage2/detector.safetensors --data-root DIR --benchmarks GenImage,UFD

A data root with a folder `bench` is searched there. Every image of every subset is scored: <out>/scores.parquet
has a row for each, <out>/metrics.csv the table.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import cli
from data.catalog import Absent, Benchmark, find_benchmarks
from data.loaders import ordered_batches
from data.transforms import eval_view
from evaluation.predict import ScoreRow, predict, write_scores
from evaluation.report import make_table, to_text
from models.checkpoint import Checkpoint, load_checkpoint
from models.hub import MODEL_HELP, find_model


def main() -> None:
    args = parse_arguments()
    device = cli.pick_device(args.device)
    names = args.benchmarks.split(",") if args.benchmarks else None
    inner = args.data_root / "bench"
    found = find_benchmarks(inner if inner.is_dir() else args.data_root, names=names)
    benchmarks = [each for each in found if isinstance(each, Benchmark)]
    if not benchmarks:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in found if isinstance(each, Absent))
        raise ValueError(f"{args.data_root}: no benchmark found ({reasons})")
    print(f"[INFO] Loading model from {args.model_path}...", flush=True)
    checkpoint = load_checkpoint(find_model(args.model_path), allow_tiny=args.allow_tiny)
    checkpoint.detector.to(device)
    args.out.mkdir(parents=True, exist_ok=True)  # before the work: it may be refused

    scores = {each.name: score(checkpoint, each, args, device) for each in benchmarks}
    every_row = [row for rows in scores.values() for row in rows]
    of_benchmark = [name for name, rows in scores.items() for _ in rows]
    write_scores(args.out / "scores.parquet", every_row, benchmark=of_benchmark)

    table = make_table(found, scores, threshold=checkpoint.threshold)
    table.to_csv(args.out / "metrics.csv", index=False)
    print(to_text(table))
    print(f"threshold {checkpoint.threshold}; scores of {len(every_row)} images in {args.out / 'scores.parquet'}")
    if checkpoint.notice:
        print(f"note: {checkpoint.notice}")


def score(checkpoint: Checkpoint, benchmark: Benchmark, args: argparse.Namespace, device: str) -> list[ScoreRow]:
    """Each image once, even if subsets share it."""
    images = benchmark.images()
    view = eval_view(**asdict(checkpoint.config.pixel))
    loader = ordered_batches(images, view, batch_size=args.batch_size, num_workers=args.num_workers)
    return predict(checkpoint.detector, loader, device=device, total=len(images), desc=benchmark.name)


def parse_arguments() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", "--model-path", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--data-root", type=Path, default=os.environ.get("GAPL_DATA_ROOT") or None, help="default: GAPL_DATA_ROOT"
    )
    parser.add_argument("--benchmarks", help="names, separated by commas; default: all that are found")
    parser.add_argument("--out", type=Path, help="default: runs/benchmarks/<name of the run>")
    parser.add_argument("--device", choices=cli.DEVICES, default="auto")
    parser.add_argument("--batch-size", type=int, default=32, help="images a forward pass")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--allow-tiny", action="store_true", help="for tests: accept the random test tower")
    args = parser.parse_args()
    if args.data_root is None:
        raise ValueError("no benchmarks to score: give --data-root or set GAPL_DATA_ROOT")
    args.out = args.out or Path("runs/benchmarks") / Path(args.model_path).resolve().parent.name
    return args


if __name__ == "__main__":
    cli.run(main)
