"""Kill a short run at random moments, also while it saves, and compare its end with that of an undisturbed run.

    python timing/kills.py --kills 50

Images are made on the spot, the tower is the random one of the tests, and a checkpoint is written after every
step. Each run gets one SIGKILL at a random moment within the length of an undisturbed run; then the same command
is given again until the run has ended. A row for each kill says when it came, what it hit, and whether the
detector and the metrics, except rates, are the same as without it, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROJECT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--save-steps", type=int, default=1, help="steps between checkpoints")
    parser.add_argument("--while-saving", type=float, default=0.3, help="share of kills aimed at a save")
    args = parser.parse_args()
    import accelerate  # noqa: F401 - for all the processes to come
    import datasets  # noqa: F401
    import matplotlib.figure  # noqa: F401

    import train  # noqa: F401

    with TemporaryDirectory() as folder:
        measure(Path(folder), args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    make_images(folder / "images")
    first, bank = folder / "stage1/detector.safetensors", folder / "bank.safetensors"
    cache = f"--feature-cache {folder}/features"
    common = f"--data {folder}/images --preset small --num-workers 1 --device cpu {cache}"
    run(f"train.py --stage 1 --backbone tiny --epochs 2 --out {first.parent} {common}".split())
    run(f"prototype/dream_prototype.py --stage1 {first} --num 8 --same-data {cache} --out {bank}".split())
    recipe = "--epochs 3 --batch-size 4 --lora-dropout 0.1 --keep best --val-fraction 0.2"
    start_from = f"--stage 2 --init {first} --prototypes {bank}"
    command = f"train.py {start_from} {common} {recipe} --save-steps {args.save_steps} --out".split()

    began = time.monotonic()
    run([*command, str(folder / "alone")])
    length_s = time.monotonic() - began
    expected = outcome(folder / "alone")
    run([*command, str(folder / "again")])
    twice = "the same twice" if outcome(folder / "again") == expected else "NOT the same twice"
    print(f"undisturbed: {length_s:.1f} s, {len(expected[1])} lines of metrics, {twice}", flush=True)

    rng = random.Random(args.seed)
    same = 0
    for number in range(args.kills):
        out = folder / f"killed{number}"
        aimed = rng.random() < args.while_saving
        after_s = rng.uniform(0.1, 1) * length_s
        hit = kill_once([*command, str(out)], out, aimed=aimed, after_s=after_s, rng=rng)
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


def start(command: list[str]) -> BaseProcess:
    """Start a process, in a session of its own, that runs a file of the project with its options.

    It is forked from this process, which has imported what is slow to import.
    """
    process = multiprocessing.get_context("fork").Process(target=run_file, args=(command,))
    process.start()
    return process


def run_file(command: list[str]) -> None:
    os.setsid()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - not a path of ours
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    os.chdir(PROJECT)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def run(command: list[str]) -> None:
    process = start(command)
    process.join()
    if process.exitcode:
        raise ValueError(f"{' '.join(command)} ended with {process.exitcode}")


def kill_once(command: list[str], out: Path, *, aimed: bool, after_s: float, rng: random.Random) -> str:
    """Start the command and kill it with its children. Return at which step, and whether it was saving."""
    process = start(command)
    began = time.monotonic()
    saves_left = rng.randrange(1, 30)  # before the one to hit; counted as half-written files that were seen
    while process.is_alive():
        if aimed and half_written(out):
            saves_left -= 1
            if saves_left <= 0:
                break
        elif not aimed and time.monotonic() - began >= after_s:
            break
        time.sleep(0.0002 if aimed else 0.002)
    moment = time.monotonic() - began
    if process.is_alive():
        assert process.pid
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    ended = (out / "detector.safetensors").exists()
    what = "during a save" if half_written(out) else "had ended" if ended else "between saves"
    return f"{moment:6.2f} s  after step {last_step(out):3d}  {what:13s}"


def half_written(out: Path) -> bool:
    return any(out.glob("checkpoints/.*.tmp")) or any(out.glob(".*.tmp"))


def last_step(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return len([line for line in metrics.read_text().splitlines() if '"loss"' in line]) if metrics.exists() else 0


def finish(command: list[str], out: Path) -> int:
    restarts = 0
    while not (out / "detector.safetensors").exists():
        run(command)
        restarts += 1
    return restarts


def outcome(out: Path) -> tuple[bytes, list[dict[str, object]]]:
    """Return the bytes of the tensors in the detector file, and the metrics without rates."""
    blob = (out / "detector.safetensors").read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return blob[start:], [{name: line[name] for name in line if name != "images_per_s"} for line in lines]


if __name__ == "__main__":
    cli.run(main)
