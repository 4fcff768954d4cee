"""The processes that train together, started by torchrun, or this process alone: an Accelerator for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data.loading.plan import Rank

if TYPE_CHECKING:
    from accelerate import Accelerator

LONGEST_WAIT = timedelta(hours=24)  # for the process that copies rows of shards for all
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


@contextmanager
def start_processes(
    *, device: str, precision: str = "fp32", trackers: tuple[str, ...] = (), folder: Path | None = None
) -> Iterator[Accelerator]:
    """Join the other processes (gloo between CPUs, nccl between GPUs); without torchrun there are none.

    precision   "fp32", "bf16" or "fp16", which brings a gradient scaler
    trackers    names of accelerate's trackers; they write to `folder`
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    waiting = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    wrapping = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(trackers) or None,
        project_dir=folder,
        kwargs_handlers=[waiting, wrapping],
    )
    try:
        yield accelerator
        accelerator.end_training()
    finally:
        # The next Accelerator of this Python process may have another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed tensors, for training on a CPU.

    By default, glibc gives large blocks back to the system at once, which then clears the pages of every step's
    activations again. Other C libraries are left alone.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def sum_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    """Sum each of the values over all processes, in every process."""
    own = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    total: list[float] = accelerator.reduce(own, reduction="sum").tolist()
    return total


def rank_of(accelerator: Accelerator) -> Rank:
    """Return the rank of this process."""
    return Rank(accelerator.process_index, accelerator.num_processes)
