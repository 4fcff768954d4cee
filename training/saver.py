"""When a run writes checkpoints, and how it stops after a signal."""

from __future__ import annotations

import time

from training.interrupt import Interrupted, SignalWatch
from training.processes import sum_over_processes
from training.runs import RunContext
from training.trainer import Trainer


class Saver:
    """Writes checkpoints when they are due, and stops the run after a signal."""

    def __init__(self, trainer: Trainer, context: RunContext, signals: SignalWatch) -> None:
        self._trainer, self._context, self._signals = trainer, context, signals
        self._accelerator = context.accelerator
        self._saved_at = time.monotonic()

    def signal_number(self) -> int:
        """Return the signal that this process received, or 0."""
        return self._signals.received or 0

    def is_late(self, *, minutes: float | None = None) -> bool:
        """Tell whether the clock of the main process asks for a checkpoint."""
        saving = self._context.saving
        waited = time.monotonic() - self._saved_at
        late = not saving.steps and waited >= 60 * (saving.minutes if minutes is None else minutes)
        return late and self._accelerator.is_main_process

    def save(self) -> None:
        """Write a checkpoint. Every process must call it."""
        state = self._trainer.state()
        if self._accelerator.is_main_process:
            self._context.run.save(state)
        self._accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def end_step(self, *, late: bool, stop: bool) -> None:
        """Save if it is time to. Raise Interrupted when a process was told to stop."""
        steps = self._context.saving.steps
        if late or stop or (steps and self._trainer.position.step % steps == 0):
            self.save()
        if stop:
            self._interrupt()

    def save_before_validation(self) -> None:
        """Save steps that are not saved yet: validation may take long, and the process may be killed in it."""
        (late,) = sum_over_processes(
            self._accelerator, self.is_late(minutes=min(0.5, self._context.saving.minutes))
        )
        if late:
            self.save()

    def end_epoch(self) -> None:
        """Save if it is time to. Raise Interrupted when a process was told to stop and steps are left."""
        stop, late = sum_over_processes(self._accelerator, self.signal_number(), self.is_late())
        if stop or late:
            self.save()
        if stop and not self._trainer.position.finished:
            self._interrupt()

    def _interrupt(self) -> None:
        from accelerate.utils import gather_object

        raise Interrupted(max(gather_object([self.signal_number()])), self._trainer.position.step)
