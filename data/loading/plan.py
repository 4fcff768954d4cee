"""Who takes which part of a training batch: a process's rank, and the plan by which batches are cut."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """The number of this process among the `world_size` processes that work together."""

    index: int = 0
    world_size: int = 1


ALONE = Rank()


@dataclass(frozen=True)
class BatchPlan:
    """How a training batch is shared by the ranks and made.

    batch_size     images of a step, of all ranks together
    micro_batches  forward passes in which a rank takes its part of a batch; gradients accumulate over them
    rank           of this process, which makes its own part only
    seed           of the order of images and of their views
    num_workers    processes that decode images; 0: this one does
    """

    batch_size: int
    micro_batches: int = 1
    rank: Rank = ALONE
    seed: int = 0
    num_workers: int = 0
