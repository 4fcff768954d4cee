"""The training loop of either stage. It knows neither the stage nor where inputs come from.

Shape suffixes: B batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from data.loading.batches import Failure
from training.curves import draw_curves
from training.interrupt import Interrupted, SignalWatch
from training.optim import Schedule, clip_gradients, make_optimizer
from training.recipe import Recipe
from training.runs import Run
from training.state import Position, TrainingState
from training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from accelerate import Accelerator

MET_BEFORE_JUDGING = 500  # images, before the share of unreadable ones says anything

Piece = tuple[Tensor, Tensor, list[Failure]]  # inputs, labels_B, images that could not be read


@dataclass(frozen=True)
class Fitted:
    """Which epoch (from 1) the model now holds, and the validation figure that selects, if there was one."""

    epoch: int
    num_steps: int
    val_accuracy: float | None


@dataclass(frozen=True)
class Saving:
    """When checkpoints are written: every so many minutes, or steps if not 0."""

    minutes: float = 5.0
    steps: int = 0


class Objective(nn.Module):
    """A detector and the part of it that training runs: inputs of a batch -> logit_B."""

    def __init__(self, detector: nn.Module, logit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.detector, self._logit = detector, logit

    def forward(self, inputs: Tensor) -> Tensor:
        return self._logit(inputs)


def fit(
    objective: Objective,
    *,
    batches: Callable[[int, int], Iterable[Piece]],
    num_batches: int,
    images_a_batch: int,
    validate: Callable[[], dict[str, Any]] | None,
    recipe: Recipe,
    run: Run,
    accelerator: Accelerator,
    saving: Saving = Saving(),
    profile: bool = False,
) -> Fitted:
    """Trains what requires a gradient with binary cross-entropy on the logit, from where the run stopped.

    batches         (epoch, first batch), both from 0 -> this process's pieces of the batches, recipe.accumulate
                    of them a batch, num_batches batches an epoch
    images_a_batch  of all processes
    validate        validation part -> metrics with "accuracy"; the same in every process; None without one

    Raises Interrupted, with a checkpoint written, after SIGTERM or SIGINT in any of the processes, and
    ValueError when too many images are unreadable.
    """
    trainer = Trainer(objective, recipe, accelerator, num_batches=num_batches, images_a_batch=images_a_batch)
    if run.state is not None:
        trainer.restore(run.state)
    position = trainer.position
    watch = Stopwatch(running=profile)
    with SignalWatch() as signals, _progress_bar(trainer) as progress:
        guard = _Guard(trainer, run, signals, saving)
        while not position.finished:
            pieces = batches(position.epoch, position.batch)
            first = position.step
            _train_epoch(trainer, _whole_batches(pieces, recipe.accumulate), guard, run, progress, watch)
            assert position.step > first or position.batch == num_batches
            if validate is not None:
                guard.before_validation()
                with watch.section("validate"), trainer.averaged():
                    _validate(trainer, validate(), run, progress)
            position.epoch, position.batch = position.epoch + 1, 0
            position.finished = trainer.is_finished()
            guard.after_epoch()
    if profile and accelerator.is_main_process:
        print(watch.table(num_steps=position.step - (run.state.position.step if run.state else 0)))
    return trainer.choose()


class Trainer:
    """A detector with its optimiser, schedule and gradient scaler, and how far it has come."""

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        num_batches: int,
        images_a_batch: int,
    ) -> None:
        self.recipe, self.accelerator, self.images_a_batch = recipe, accelerator, images_a_batch
        self.num_batches = num_batches
        num_steps = recipe.epochs * num_batches
        self.num_steps = min(num_steps, recipe.max_steps) if recipe.max_steps else num_steps
        self.detector = objective.detector
        optimizer = make_optimizer(self.detector, recipe)
        self.schedule = Schedule(optimizer, recipe, num_steps=self.num_steps)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.average = _trainable_state(self.detector) if recipe.ema_decay else {}

    def step(self, pieces: list[Piece], watch: Stopwatch) -> dict[str, float]:
        """One optimiser step on a batch; this process's sums of the loss and of images.

        The loss of the batch is the mean over the images that were meant to be in it: a missing one adds nothing.
        """
        self.schedule.set(self.position.step)
        self.optimizer.zero_grad(set_to_none=True)
        total, read, unreadable = 0.0, 0, 0
        scale = self.accelerator.num_processes / self.images_a_batch  # the wrapper averages over the processes
        for number, (inputs, labels_B, failures) in enumerate(pieces):
            if not len(labels_B):
                raise ValueError("none of the images of a batch could be read")
            last = number == len(pieces) - 1
            with self._sync(last=last):
                with watch.section("forward"):
                    logit_B = self.objective(inputs.to(self.accelerator.device, non_blocking=True)).float()
                    labels_B = labels_B.to(logit_B.device)
                    loss = functional.binary_cross_entropy_with_logits(logit_B, labels_B, reduction="sum")
                with watch.section("backward"):
                    self.accelerator.backward(loss * scale)
            total += float(loss.detach())
            read, unreadable = read + len(labels_B), unreadable + len(failures)
        with watch.section("update"):
            self.accelerator.unscale_gradients()
            grad_norm = clip_gradients(self.detector, self.recipe.max_grad_norm)
            self.optimizer.step()
            self._average()
        return {"loss": total, "read": read, "unreadable": unreadable, "grad_norm": grad_norm}

    @torch.no_grad()
    def _average(self) -> None:
        """Takes the new weights into their moving average, which is short at first: it began as the start."""
        step = self.position.step + 1
        decay = min(self.recipe.ema_decay, step / (step + 9))
        parameters = dict(self.detector.named_parameters())
        for name, mean in self.average.items():
            mean.lerp_(parameters[name].detach().to(mean.device), 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Meanwhile the detector has the average of its weights, if there is one."""
        last = _trainable_state(self.detector) if self.average else {}
        _put(self.average, self.detector)
        yield
        _put(last, self.detector)

    def _sync(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients go round the processes once a step, with its last piece."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective)

    def is_finished(self) -> bool:
        """After an epoch: no steps left, accuracy reached, or patience at its end."""
        position, recipe = self.position, self.recipe
        if position.step >= self.num_steps:
            return True
        if position.value is None:
            return False
        reached = recipe.stop_accuracy < 1 and position.value >= recipe.stop_accuracy
        return reached or bool(recipe.patience and position.epoch - position.best_epoch >= recipe.patience)

    def note(self, value: float) -> None:
        """What validation gave after the epoch that ends now."""
        position = self.position
        position.value = value
        if position.best_value is None or value > position.best_value:
            position.best_value, position.best_epoch = value, position.epoch + 1
            position.best_step = position.step
            self.best = _trainable_state(self.detector)

    def choose(self) -> Fitted:
        """Puts the weights that the recipe keeps into the detector."""
        position = self.position
        if position.best_value is None or self.recipe.keep == "last":
            _put(self.average, self.detector)
            return Fitted(position.epoch, position.step, position.value)
        _put(self.best, self.detector)
        return Fitted(position.best_epoch, position.step, position.best_value)

    def state(self) -> TrainingState:
        """This moment, with the random states of all processes. Every process calls it."""
        from accelerate.utils import gather_object

        return TrainingState(
            position=replace(self.position),
            model=_trainable_state(self.detector),
            best=self.best,
            average=self.average,
            optimizer=self.optimizer.state_dict(),
            random=gather_object([_random_state(self.accelerator.device)]),
            scaler=self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
        )

    def restore(self, state: TrainingState) -> None:
        self.position = replace(state.position)
        _put(state.model, self.detector)
        self.best, self.average = state.best, state.average
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        rank = self.accelerator.process_index
        if rank < len(state.random):
            _set_random_state(state.random[rank], self.accelerator.device)


class _Guard:
    """After each step: what all processes agree on, images that could not be read, checkpoints, signals."""

    def __init__(self, trainer: Trainer, run: Run, signals: SignalWatch, saving: Saving) -> None:
        self.trainer, self.run, self.signals, self.saving = trainer, run, signals, saving
        self.accelerator = trainer.accelerator
        self.saved_at = self.logged_at = self.drawn_at = time.monotonic()

    def after_step(self, taken: dict[str, float], pieces: list[Piece], progress: tqdm[Any]) -> None:
        """Counts, logs, and ends or saves when it is time."""
        position = self.trainer.position
        loss, read, unreadable, signal_number, late = self._sum(
            taken["loss"], taken["read"], taken["unreadable"], self.signals.received or 0, self._is_late()
        )
        position.step, position.batch = position.step + 1, position.batch + 1
        position.met += self.trainer.images_a_batch
        position.unreadable += int(unreadable)
        if unreadable:
            self._name_failures([failure for _, _, failures in pieces for failure in failures])
        self._log(loss / read, taken["grad_norm"], progress)
        due = late or (self.saving.steps and position.step % self.saving.steps == 0)
        if due or signal_number:
            self._save()
        if signal_number:
            raise Interrupted(self._which_signal(), position.step)

    def before_validation(self) -> None:
        """It may take long, and is lost when a process is killed in it; the steps before it shall not be."""
        (stale,) = self._sum(self._is_late(after_minutes=min(0.5, self.saving.minutes)))
        if stale:
            self._save()

    def after_epoch(self) -> None:
        self._judge_unreadable(at_least=1)
        self._draw(every_s=60)
        self.logged_at = time.monotonic()
        signal_number, late = self._sum(self.signals.received or 0, self._is_late())
        if signal_number or late:
            self._save()
        if signal_number and not self.trainer.position.finished:
            raise Interrupted(self._which_signal(), self.trainer.position.step)

    def _sum(self, *values: float) -> list[float]:
        """Of every process's values."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        total: list[float] = self.accelerator.reduce(mine, reduction="sum").tolist()
        return total

    def _is_late(self, *, after_minutes: float | None = None) -> float:
        """Whether the main process's clock asks for a checkpoint."""
        minutes = self.saving.minutes if after_minutes is None else after_minutes
        late = not self.saving.steps and time.monotonic() - self.saved_at >= 60 * minutes
        return float(late and self.accelerator.is_main_process)

    def _which_signal(self) -> int:
        from accelerate.utils import gather_object

        return max(gather_object([self.signals.received or 0]))

    def _save(self) -> None:
        state = self.trainer.state()
        if self.accelerator.is_main_process:
            self.run.save(state)
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def _log(self, loss: float, grad_norm: float, progress: tqdm[Any]) -> None:
        trainer, now = self.trainer, time.monotonic()
        step, epoch = trainer.position.step, trainer.position.epoch + 1
        rate = trainer.images_a_batch / max(1e-9, now - self.logged_at)
        self.logged_at = now
        values = {
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": trainer.optimizer.param_groups[0]["lr"],
            "images_per_s": round(rate, 3),
        }
        self.run.log(step=step, epoch=epoch, **values)
        self.accelerator.log(values, step=step)
        progress.set_postfix({"epoch": epoch, "loss": f"{loss:.3f}", "images/s": f"{rate:.3g}"}, refresh=False)
        progress.update()

    def _draw(self, *, every_s: float) -> None:
        """The learning curves, which take a second; at the end in any case."""
        finished = self.trainer.position.finished
        if self.run.writes and (finished or time.monotonic() - self.drawn_at >= every_s):
            draw_curves(self.run.metrics, self.run.curves)
            self.drawn_at = time.monotonic()

    def _name_failures(self, failures: list[Failure]) -> None:
        """Writes them down, from every process, and stops the run when they are too many."""
        from accelerate.utils import gather_object

        for uri, reason in gather_object([(each.record.uri, each.reason) for each in failures]):
            if self.run.log_unreadable(uri, reason):
                tqdm.write(f"unreadable, replaced from its class: {uri}: {reason}")
        self._judge_unreadable(at_least=MET_BEFORE_JUDGING)

    def _judge_unreadable(self, *, at_least: int) -> None:
        position = self.trainer.position
        if position.met >= at_least:
            check_unreadable(position.unreadable, met=position.met, recipe=self.trainer.recipe, run=self.run)


def check_unreadable(count: int, *, met: int, recipe: Recipe, run: Run) -> None:
    """Raises ValueError when the share of images that could not be read is larger than the recipe allows."""
    if count > recipe.max_unreadable * met:
        raise ValueError(
            f"{count} of {met} images met could not be read, more than the share of {recipe.max_unreadable:g} "
            f"that --max-unreadable allows; they are named in {run.folder / 'unreadable.csv'}"
        )


def _train_epoch(
    trainer: Trainer,
    batches: Iterator[list[Piece]],
    guard: _Guard,
    run: Run,
    progress: tqdm[Any],
    watch: Stopwatch,
) -> None:
    """The rest of the epoch under way."""
    trainer.detector.train()
    position = trainer.position
    while position.step < trainer.num_steps and position.batch < trainer.num_batches:
        with watch.section("data"):
            pieces = next(batches)
        taken = trainer.step(pieces, watch)
        with watch.section("agree, log"):
            guard.after_step(taken, pieces, progress)


def _whole_batches(pieces: Iterable[Piece], count: int) -> Iterator[list[Piece]]:
    iterator = iter(pieces)
    while batch := list(islice(iterator, count)):
        yield batch


def _validate(trainer: Trainer, parts: dict[str, Any], run: Run, progress: tqdm[Any]) -> None:
    """Writes the metrics of every part down and notes the figure that selects."""
    position, accelerator = trainer.position, trainer.accelerator
    run.log(step=position.step, epoch=position.epoch + 1, validation=parts)
    run.write_validation(parts)
    shown = {f"validation/{part}/{name}": parts[part][name] for part in parts for name in ("accuracy", "auroc")}
    accelerator.log({name: value for name, value in shown.items() if value is not None}, step=position.step)
    value = parts[trainer.recipe.select]["accuracy"]
    if value is None:
        raise ValueError("none of the validation images could be read")
    trainer.note(float(value))
    progress.set_postfix(epoch=position.epoch + 1, val_accuracy=f"{value:.3f}", refresh=False)


def _progress_bar(trainer: Trainer) -> tqdm[Any]:
    return tqdm(
        total=trainer.num_steps,
        initial=trainer.position.step,
        desc="train",
        unit="step",
        dynamic_ncols=True,
        disable=not trainer.accelerator.is_main_process,
    )


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _put(values: dict[str, Tensor], model: nn.Module) -> None:
    """Gives the parameters of these names new values."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
