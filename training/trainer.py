"""A detector in training: its weights, optimiser, moving average and best epoch, and how far it has come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training.optim import Schedule, make_optimizer
from training.recipe import Recipe
from training.state import Position, TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator


PAIRED_DIMS = 6  # pixels_B2VCHW


class LogitModel(nn.Module):
    """The part of a detector that training runs: inputs of a micro-batch -> logit_B.

    Of pairs of pictures, pixels_B2VCHW, it makes logit_B2.

    detector   whose parameters train
    logit      the whole detector, for pixels; or its head, for features
    """

    def __init__(self, detector: nn.Module, logit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.detector, self._logit = detector, logit

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == PAIRED_DIMS:
            return self._logit(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return self._logit(inputs)


@dataclass(frozen=True)
class Fitted:
    """The epoch (from 1) whose weights the detector now has, and its accuracy on the set that selects, if any."""

    epoch: int
    num_steps: int
    val_accuracy: float | None


class Trainer:
    """Everything that changes while a detector trains, and what it takes to save and restore it.

    model       the detector, wrapped for the processes that train together
    num_steps   of the whole run, for the schedule
    average     the moving average of the weights that train; empty without one
    best        the weights of the best epoch so far; empty before the first validation
    """

    def __init__(self, model: LogitModel, recipe: Recipe, accelerator: Accelerator, *, num_steps: int) -> None:
        self.detector, self.recipe = model.detector, recipe
        self.accelerator, self.num_steps = accelerator, num_steps
        optimizer = make_optimizer(self.detector, recipe)
        self.schedule = Schedule(optimizer, recipe, num_steps=num_steps)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.average = _trainable_weights(self.detector) if recipe.ema_decay else {}

    def sync_gradients(self, *, when: bool) -> contextlib.AbstractContextManager[Any]:
        """Sum the gradients of all processes after this backward pass, or only after a later one."""
        return contextlib.nullcontext() if when else self.accelerator.no_sync(self.model)

    @torch.no_grad()
    def update_average(self) -> None:
        """Take the new weights into their moving average. It began as the start, so it is short at first."""
        step = self.position.step + 1
        decay = min(self.recipe.ema_decay, step / (step + 9))
        parameters = dict(self.detector.named_parameters())
        for name, mean in self.average.items():
            mean.lerp_(parameters[name].detach().to(mean.device), 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the detector the average of its weights, if there is one, inside the `with` block."""
        last = _trainable_weights(self.detector) if self.average else {}
        _put(self.average, self.detector)
        yield
        _put(last, self.detector)

    def note_accuracy(self, accuracy: float | None) -> None:
        """Note the validation accuracy of the epoch that ends now, and keep its weights if it is the best.

        Raises ValueError when there is none: no validation image could be read.
        """
        if accuracy is None:
            raise ValueError("none of the validation images could be read")
        position = self.position
        position.value = accuracy
        if position.best_value is None or accuracy > position.best_value:
            position.best_value, position.best_epoch = accuracy, position.epoch + 1
            position.best_step = position.step
            self.best = _trainable_weights(self.detector)

    def is_finished(self) -> bool:
        """Tell after an epoch whether no steps are left, the accuracy is reached, or patience is at its end."""
        position, recipe = self.position, self.recipe
        if position.step >= self.num_steps:
            return True
        if position.value is None:
            return False
        reached = recipe.stop_accuracy < 1 and position.value >= recipe.stop_accuracy
        return reached or bool(recipe.patience and position.epoch - position.best_epoch >= recipe.patience)

    def choose_weights(self) -> Fitted:
        """Give the detector the weights that the recipe keeps."""
        position = self.position
        if position.best_value is None or self.recipe.keep == "last":
            _put(self.average, self.detector)
            return Fitted(position.epoch, position.step, position.value)
        _put(self.best, self.detector)
        return Fitted(position.best_epoch, position.step, position.best_value)

    def state(self) -> TrainingState:
        """Return this moment, with the random states of all processes. Every process must call it."""
        from accelerate.utils import gather_object

        return TrainingState(
            position=replace(self.position),
            model=_trainable_weights(self.detector),
            best=self.best,
            average=self.average,
            optimizer=self.optimizer.state_dict(),
            random=gather_object([_random_state(self.accelerator.device)]),
            scaler=self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
        )

    def restore(self, state: TrainingState) -> None:
        """Go back to the moment of a checkpoint."""
        self.position = replace(state.position)
        _put(state.model, self.detector)
        self.best, self.average = state.best, state.average
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        rank = self.accelerator.process_index
        if rank < len(state.random):
            _set_random_state(state.random[rank], self.accelerator.device)


def _trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters that train to the CPU."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _put(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Give the parameters of these names new values."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
