"""Measure where the time of a training step goes, by section, for --profile."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Counts the seconds of each section. While it runs, it waits for the GPU at the end of every section."""

    def __init__(self, *, running: bool) -> None:
        self.running = running
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        if not self.running:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name] += time.perf_counter() - start

    def table(self, *, num_steps: int) -> str:
        """Return a line for each section: seconds per step, and the share of all sections."""
        total = sum(self.seconds.values())
        lines = [
            f"  {name:10s} {seconds / max(1, num_steps):9.4f} s/step {seconds / total:6.1%}"
            for name, seconds in self.seconds.items()
        ]
        return "\n".join([f"time of {num_steps} steps, {total:.1f} s:", *lines])
