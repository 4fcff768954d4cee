"""A service that is started to be measured, on this machine: its port, its memory, and how long it computes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

PROJECT = Path(__file__).resolve().parent.parent
LOOK_S = 0.02  # from one look at the log to the next
END_S = 180  # in which it ends


def start(args: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a service, and return its process and port when it is ready."""
    model = ["--model_path", args.model_path] if args.model_path else []
    options = ["--port", "0", "--jobs", str(folder / "jobs"), "--views", args.views, *model, *args.serve.split()]
    line = [sys.executable, "-m", "gapl", "serve", *options]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(line, cwd=PROJECT, stderr=log, text=True)
    started, events = time.perf_counter(), dict[str, dict[str, Any]]()
    while "ready" not in events:
        time.sleep(LOOK_S)
        lines = (folder / "log").read_text(encoding="utf-8").splitlines()
        if process.poll() is not None:
            raise ValueError(f"the service ended: {lines[-1] if lines else 'no message'}")
        for each in map(json.loads, lines):
            if each["event"] not in events:
                print(f"{each['event']} after {time.perf_counter() - started:.2f} s")
            events[each["event"]] = each
    print()
    return process, events["listening"]["port"]


def processes(pid: int) -> list[psutil.Process]:
    """Return the process that answers, and those that decode."""
    import psutil

    process = psutil.Process(pid)
    return [process, *(each for each in process.children() if "spawn_main" in " ".join(each.cmdline()))]


def memory_mb(pid: int) -> list[float]:
    """Return the memory of the process that answers, and of each of those that decode."""
    return [each.memory_full_info().pss / 1e6 for each in processes(pid)]


def computed_s(pid: int) -> float:
    """Return how long the service has computed, on all cores together."""
    return sum(each.cpu_times().user + each.cpu_times().system for each in processes(pid))
