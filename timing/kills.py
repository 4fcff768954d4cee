"""Kills a short run at random moments, also while it saves, and compares the end with that of a run left alone.

    python timing/kills.py --kills 50
    python timing/kills.py --kills 10 --processes 2

Images are made on the spot; the tower is the random one of the tests, a checkpoint is written after every step.
Each killed run gets one SIGKILL at a moment drawn from the length of an undisturbed run, and is then given the
same command again until it has ended. A row a kill: when it came, what it hit, and whether detector and metrics
are the same as without it, to the last bit (rates apart).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # run as a file, from any folder


def main() -> None:
    import cli

    parser = cli.Parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1, help="of each run, by torchrun")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--save-steps", type=int, default=1, help="steps between checkpoints")
    parser.add_argument("--while-saving", type=float, default=0.3, help="share of kills aimed at a save")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    make_images(folder / "images")
    stage1, bank = folder / "stage1", folder / "bank.safetensors"
    common = ["--data", str(folder / "images"), "--preset", "small", "--num-workers", "1", "--device", "cpu"]
    cache = ["--feature-cache", str(folder / "features")]
    first = [
        "train.py",
        "--stage",
        "1",
        "--backbone",
        "tiny",
        "--epochs",
        "2",
        "--out",
        str(stage1),
        *common,
        *cache,
    ]
    check(run(first))
    bank_command = ["prototype/dream_prototype.py", "--stage1", str(stage1 / "detector.safetensors"), "--num", "8"]
    check(run([*bank_command, "--same-data", "--out", str(bank)]))
    command = [
        "train.py",
        "--stage",
        "2",
        "--init",
        str(stage1 / "detector.safetensors"),
        "--prototypes",
        str(bank),
    ]
    command += [*common, "--epochs", "3", "--batch-size", "4", "--lora-dropout", "0.1", "--keep", "best"]
    command += ["--val-fraction", "0.2", "--save-steps", str(args.save_steps), "--out"]
    if args.processes > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes), *command]

    start = time.monotonic()
    check(run([*command, str(folder / "alone")]))
    length = time.monotonic() - start
    expected = outcome(folder / "alone")
    again = outcome_of_run([*command, str(folder / "again")], folder / "again")
    print(f"undisturbed: {length:.1f} s, {len(expected[1])} lines of metrics; the same twice: {again == expected}")

    moments = random.Random(args.seed)
    same = 0
    for number in range(args.kills):
        out = folder / f"killed{number}"
        aimed = moments.random() < args.while_saving
        hit = kill_once(
            [*command, str(out)], out, aimed=aimed, after=moments.uniform(0.3, 1) * length, moments=moments
        )
        restarts = finish([*command, str(out)], out)
        equal = outcome(out) == expected
        same += equal
        print(f"{number + 1:3d}  {hit}  {restarts} restart  {'same' if equal else 'DIFFERENT'}", flush=True)
        shutil.rmtree(out)
    print(f"{same} of {args.kills} ended as the run that was left alone")
    if same < args.kills:
        sys.exit(1)


def make_images(folder: Path) -> None:
    random_ = np.random.default_rng(0)
    for kind, levels in (("real", 256), ("fake", 100)):
        (folder / kind).mkdir(parents=True)
        for i in range(40):
            pixels = random_.integers(0, levels, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i}.png")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True, text=True, check=False)


def check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise ValueError(f"{' '.join(done.args)} failed: {done.stderr.strip().splitlines()[-1:]}")


def kill_once(command: list[str], out: Path, *, aimed: bool, after: float, moments: random.Random) -> str:
    """Starts the command and kills it and its children; says at which step, and whether a save was under way."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    start = time.monotonic()
    wanted = moments.randrange(1, 40)  # the save to hit, counted in files seen half written
    seen = 0
    while process.poll() is None:
        if aimed:
            if half_written(out):
                seen += 1
                if seen >= wanted:
                    break
        elif time.monotonic() - start >= after:
            break
        time.sleep(0.0002 if aimed else 0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    moment = time.monotonic() - start
    what = "during a save" if half_written(out) else "had ended" if (out / "detector.safetensors").exists() else ""
    return f"{moment:6.2f} s  after step {last_step(out):3d}  {what:14s}"


def half_written(out: Path) -> bool:
    return any(out.glob("checkpoints/.*.tmp")) or any(out.glob(".*.tmp"))


def last_step(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return len([line for line in metrics.read_text().splitlines() if '"loss"' in line]) if metrics.exists() else 0


def finish(command: list[str], out: Path) -> int:
    restarts = 0
    while not (out / "detector.safetensors").exists():
        check(run(command))
        restarts += 1
    return restarts


def outcome_of_run(command: list[str], out: Path) -> tuple[bytes, list[dict[str, object]]]:
    check(run(command))
    return outcome(out)


def outcome(out: Path) -> tuple[bytes, list[dict[str, object]]]:
    """The tensors' bytes of the detector file, and the metrics without rates."""
    blob = (out / "detector.safetensors").read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return blob[start:], [{name: line[name] for name in line if name != "images_per_s"} for line in lines]


if __name__ == "__main__":
    import cli

    cli.run(main)
