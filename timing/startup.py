"""Measure the CPU seconds that each command line takes to show its help, or to refuse what it was given.

    python timing/startup.py
    python timing/startup.py --runs 5

A row is a command, its exit code, and user plus system time of the best of --runs processes. The target is one
second: options are parsed before torch, scikit-learn, scipy and pandas are imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

PROJECT = Path(__file__).resolve().parent.parent

TARGET_S = 1.0
MODULES = ("gapl", "gapl serve", "models.weights", "data.shards.plan", "data.demo", "data.collect")  # `python -m`
DETECTOR = "pretrained/gapl-vit-b16-open.safetensors"
MISSING = "no/such"  # a path
REFUSED = {
    "inference.py": (
        f"--model_path {DETECTOR} --image_path assets --no-such-option",
        f"--model_path {DETECTOR} --image_path {MISSING}",
        f"--model_path {MISSING} --image_path assets",
    ),
    "benchmarks.py": (
        f"--model_path {DETECTOR} --data-root assets --no-such-option",
        f"--model_path {DETECTOR} --data-root {MISSING}",
        f"--model_path {MISSING} --data-root assets",
        f"report {MISSING}",
        f"compare {MISSING} {MISSING}",
    ),
    "train.py": (
        "--stage 1 --data assets --no-such-option",
        f"--stage 1 --backbone tiny --data {MISSING} --out {MISSING}",
        f"--stage 2 --init {MISSING} --data assets --out {MISSING}",
    ),
    "prototype/dream_prototype.py": (
        f"--stage1 {DETECTOR} --data assets --no-such-option",
        f"--stage1 {MISSING} --data assets --out {MISSING}",
    ),
    "prototype_dataset.py": ("--no-such-option", f"--data-root {MISSING}"),
    "-m gapl": ("--no-such-option assets", MISSING, f"assets --model_path {MISSING}"),
    "-m gapl serve": ("--no-such-option", f"--config {MISSING}", "--host 0.0.0.0"),
    "serve.py": ("--no-such-option", f"--config {MISSING}", "--device cuda"),
    "export.py": (f"--model_path {MISSING} --out {MISSING}",),
    "-m models.weights": (f"inspect {MISSING}",),
    "-m data.collect": (f"--out {MISSING} --mirror {MISSING}",),
    "-m data.shards.plan": (f"--data {MISSING} --per-class 1 --out {MISSING}.json",),
}


def help_lines() -> list[str]:
    """Return the options of Python that show the help of each command line, and of each of its subcommands."""
    folders = ("", "prototype", "studies", "timing")
    files = [path for folder in folders for path in sorted((PROJECT / folder).glob("*.py"))]
    commands = [
        *(str(path.relative_to(PROJECT)) for path in files if "cli.run(main)" in path.read_text(encoding="utf-8")),
        *(f"-m {module}" for module in MODULES),
    ]
    with_subcommands = ("benchmarks.py", "-m models.weights")
    found = [f"{command} {name}" for command in with_subcommands for name in subcommands(command)]
    return [f"{command} --help" for command in sorted([*commands, *found])]


def subcommands(command: str) -> list[str]:
    """Return the subcommands that the help of a command lists in braces."""
    shown = subprocess.run(
        [sys.executable, *command.split(), "--help"], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    listed = re.search(r"\{([\w,]+)\}", shown.stdout)
    if listed is None:
        raise ValueError(f"the help of {command} lists no subcommands")
    return listed[1].split(",")


def refused_lines() -> list[str]:
    """Return the options of Python for command lines that a user got wrong."""
    return [f"{command} {options}" for command, given in REFUSED.items() for options in given]


def measure(line: str) -> tuple[float, int]:
    """Return the CPU seconds of one process, and its exit code."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *line.split()], cwd=PROJECT, stdout=silent, stderr=silent)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, process.returncode


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="processes for each row; the fastest counts")
    args = parser.parse_args()
    print("| command | exit code | CPU s |\n|---|---|---|")
    slow = 0
    for line in [*help_lines(), *refused_lines()]:
        seconds, code = min(measure(line) for _ in range(args.runs))
        slow += seconds > TARGET_S
        print(f"| `python {line}` | {code} | {seconds:.2f} |", flush=True)
    print(f"\n{slow} above {TARGET_S:.0f} s")


if __name__ == "__main__":
    cli.run(main)
