"""A checkpoint of training: everything that a run needs to continue as if it had not stopped, in one file.

The weights that train, the best ones so far, the optimiser's averages and the random states of every process are
tensors of the file; the rest is in its header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import tensorfile

FORMAT = "gapl-training-1"


@dataclass
class Position:
    """How far a run has come.

    step        optimiser steps taken
    epoch       whole epochs, including their validation
    batch       batches of the epoch under way
    seen        images drawn so far
    unreadable  those among them that could not be read
    value       accuracy of the last validation, on the set that selects
    best_value, best_epoch, best_step   of the best epoch so far (from 1)
    finished    nothing is left to train
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seen: int = 0
    unreadable: int = 0
    value: float | None = None
    best_value: float | None = None
    best_epoch: int = 0
    best_step: int = 0
    finished: bool = False


@dataclass
class TrainingState:
    """One moment of a run, between two steps.

    model      name -> tensor of the weights that train
    best       the same at the best epoch; empty before the first validation
    average    the moving average of the weights; empty without one
    optimizer  state_dict of the optimiser
    random     the random state of each process: "cpu" and, on a GPU, "cuda"
    scaler     state_dict of the gradient scaler; empty without one
    settings   what must be the same for the run to continue
    sizes      bytes of the run's text files
    """

    position: Position
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    random: list[dict[str, Tensor]]
    scaler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def write_state(path: Path, state: TrainingState) -> None:
    """Write a checkpoint whole or not at all. Raise OSError that says what to do when it cannot be written."""
    tensors = _prefixed("model", state.model) | _prefixed("best", state.best)
    tensors |= _prefixed("average", state.average)
    for number, values in state.optimizer["state"].items():
        tensors |= _prefixed(f"optimizer.{number}", values)
    for rank, states in enumerate(state.random):
        tensors |= _prefixed(f"random.{rank}", {name: value.view(torch.int64) for name, value in states.items()})
    header = {
        "position": asdict(state.position),
        "param_groups": state.optimizer["param_groups"],
        "processes": len(state.random),
        "scaler": state.scaler,
        "settings": state.settings,
        "sizes": state.sizes,
    }
    try:
        tensorfile.write(path, tensors, format=FORMAT, header=header)
    except OSError as error:
        raise OSError(
            f"{path}: this checkpoint could not be written ({error}); earlier ones are untouched. "
            "Make room, and the same command without --overwrite continues from the last one"
        ) from error


def read_state(path: Path) -> TrainingState:
    """Read a checkpoint. Raise ValueError, with the path, when the file is damaged or is something else."""
    try:
        header, tensors = tensorfile.read(path, format=FORMAT)
        return TrainingState(
            position=_position(header["position"]),
            model=_without_prefix("model", tensors),
            best=_without_prefix("best", tensors),
            average=_without_prefix("average", tensors),
            optimizer={"state": _optimizer_state(tensors), "param_groups": header["param_groups"]},
            random=[_random_state(rank, tensors) for rank in range(header["processes"])],
            scaler=header["scaler"],
            settings=header["settings"],
            sizes=header["sizes"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _position(stored: Mapping[str, Any]) -> Position:
    if "met" in stored:  # what `seen` was called before
        stored = {**stored, "seen": stored["met"]}
    return Position(**{each.name: stored[each.name] for each in fields(Position)})


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _without_prefix("optimizer", tensors).items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    return state


def _random_state(rank: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.view(torch.uint8) for name, value in _without_prefix(f"random.{rank}", tensors).items()}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors: training must not write to the memory of a mapped file."""
    start = f"{prefix}."
    return {name.removeprefix(start): value.clone() for name, value in tensors.items() if name.startswith(start)}
