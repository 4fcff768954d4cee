"""Measure what scoring costs besides the forward pass, and check that killed runs end with the same table.

    python timing/scoring.py --model_path runs/stage2/detector.safetensors --data-root DIR
    python timing/scoring.py --model_path runs/stage2/detector.safetensors --data-root DIR --kills 30

The share is of the wall time between the first and the last row: the sum of the times that forward passes took,
measured around each, against the whole; decoding has --num-workers processes of its own. With --kills, the command
`benchmarks.py run` is killed (SIGKILL) that many times at random moments, each time started again, and its table
is compared, byte by byte, with that of a run which was left alone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROJECT = Path(__file__).resolve().parent.parent
OUT, TABLE = "scored", "scores.parquet"
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--benchmarks", help="names, separated by commas")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0, help="kill this many times instead of measuring the share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-tiny", action="store_true")
    args = parser.parse_args()
    if args.kills:
        count_kills(args)
    else:
        measure_share(args)


def measure_share(args: argparse.Namespace) -> None:
    from data.benchmarks.find import Benchmark, find_benchmarks
    from evaluation.scoring.folder import JobFolder
    from evaluation.scoring.job import Job, place_images
    from evaluation.scoring.score import ScoredModel, score_job
    from gapl.names import FULL
    from models.weights.hub import find_model

    names = args.benchmarks.split(",") if args.benchmarks else None
    found = [each for each in find_benchmarks(args.data_root, names=names) if isinstance(each, Benchmark)]
    file = find_model(args.model_path)
    model = ScoredModel.load("detector", args.model_path, file, views=FULL, allow_tiny=args.allow_tiny)
    starts: list[float] = []
    passes: list[float] = []
    model.detector.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    model.detector.register_forward_hook(lambda *_: passes.append(time.perf_counter() - starts[-1]))
    job = Job(place_images(found), {model.name: model.about}, batch_size=args.batch_size)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        score_job(JobFolder(Path(folder), job), [model], device="cpu", num_workers=args.num_workers)
        whole = time.perf_counter() - start
    after_first = time.perf_counter() - starts[0]
    print(f"{len(job.images)} images, {len(job.images) / whole:.2f} a second, {args.num_workers} workers")
    print(f"forward passes {sum(passes):.1f} of {whole:.1f} s: {sum(passes) / whole:.3f}")
    print(f"from the first pass on, without the start of the workers: {sum(passes) / after_first:.3f}")


def count_kills(args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    with TemporaryDirectory() as scratch:
        # The table quotes its command: both are given the same folder's name, in folders of their own.
        alone, killed = Path(scratch) / "alone", Path(scratch) / "killed"
        start = time.monotonic()
        finish(args, alone)
        seconds = time.monotonic() - start
        kills = unfinished = 0
        while kills < args.kills:
            killed.mkdir()
            before = kills
            while kills < args.kills and not (killed / OUT / TABLE).exists():
                killing = kill_at(args, killed, rng.uniform(0, seconds))
                kills += killing
                unfinished += killing and bool(list((killed / OUT / "parts").glob(".*")))
            finish(args, killed)
            equal = (alone / OUT / TABLE).read_bytes() == (killed / OUT / TABLE).read_bytes()
            print(f"{kills - before} kills, then to the end: {'equal' if equal else 'DIFFERENT'}", flush=True)
            shutil.rmtree(killed)
        print(f"{kills} kills in runs of {seconds:.0f} s, {unfinished} while a part was half written")


def kill_at(args: argparse.Namespace, folder: Path, seconds: float) -> bool:
    """Start the run, kill it after so many seconds, and return whether it was still going on."""
    process = subprocess.Popen(command(args), cwd=folder, start_new_session=True, **SILENT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def finish(args: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(command(args), cwd=folder, check=True, **SILENT)


def command(args: argparse.Namespace) -> list[str]:
    model, root = Path(args.model_path).absolute(), args.data_root.absolute()
    given = ["--model_path", str(model), "--data-root", str(root), "--out", OUT]
    if args.benchmarks:
        given += ["--benchmarks", args.benchmarks]
    sizes = ["--batch-size", str(args.batch_size), "--num-workers", str(args.num_workers)]
    return [sys.executable, str(PROJECT / "benchmarks.py"), *given, *sizes, *["--allow-tiny"] * args.allow_tiny]


if __name__ == "__main__":
    cli.run(main)
