"""Where and how a run trains. Nothing here changes what is learnt, except the number of parts of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.runs import Run

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written: every so many minutes, or every so many steps if `steps` is not 0."""

    minutes: float = 5.0
    steps: int = 0


@dataclass(frozen=True)
class RunContext:
    """The processes and the folder of a run, and how it goes about its work.

    stream_parts   of a stream of shards; the order of its images depends on it
    feature_cache  folder of cached features; None: `features` in the cache folder
    profile        measure where the time of a step goes
    """

    accelerator: Accelerator
    run: Run
    saving: Saving = Saving()
    stream_parts: int = 1
    feature_cache: Path | None = None
    profile: bool = False
