"""How a run tells what it does: metrics, trackers, progress bar, learning curves, unreadable images, profile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from data.loading.batches import Failure
from training.curves import draw_curves
from training.recipe import Recipe
from training.runs import Run, RunContext
from training.stopwatch import Stopwatch
from training.trainer import Trainer

SEEN_BEFORE_JUDGING = 500  # images; the share of unreadable ones says nothing before
SECONDS_BETWEEN_CURVES = 60  # drawing them takes a second
SHOWN_METRICS = ("accuracy", "auroc")  # to trackers


class Monitor:
    """Tells how training goes. Only the main process shows and writes; files go to the run's folder.

    num_images  of a batch, of all processes together
    watch       measures where the time of a step goes, if the context asks for a profile
    """

    def __init__(self, trainer: Trainer, context: RunContext, *, num_images: int) -> None:
        self._trainer, self._run, self._num_images = trainer, context.run, num_images
        self._accelerator = context.accelerator
        self._first_step = trainer.position.step
        self._logged_at = self._drawn_at = time.monotonic()
        self.watch = Stopwatch(running=context.profile)
        self._bar = tqdm(
            total=trainer.num_steps,
            initial=trainer.position.step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not context.accelerator.is_main_process,
        )

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.close()

    def log_step(self, loss: float, grad_norm: float) -> None:
        """Write down a step that has just been counted."""
        now = time.monotonic()
        rate = self._num_images / max(1e-9, now - self._logged_at)
        self._logged_at = now
        step, epoch = self._trainer.position.step, self._trainer.position.epoch + 1
        lr = self._trainer.optimizer.param_groups[0]["lr"]
        values = {"loss": loss, "grad_norm": grad_norm, "lr": lr, "images_per_s": round(rate, 3)}
        self._run.log(step=step, epoch=epoch, **values)
        self._accelerator.log(values, step=step)
        self._bar.set_postfix({"epoch": epoch, "loss": f"{loss:.3f}", "images/s": f"{rate:.3g}"}, refresh=False)
        self._bar.update()

    def log_validation(self, metrics: dict[str, Any]) -> None:
        """Write down the metrics of every validation set."""
        step, epoch = self._trainer.position.step, self._trainer.position.epoch + 1
        self._run.log(step=step, epoch=epoch, validation=metrics)
        self._run.write_validation(metrics)
        shown = {f"validation/{name}/{key}": metrics[name][key] for name in metrics for key in SHOWN_METRICS}
        self._accelerator.log({name: value for name, value in shown.items() if value is not None}, step=step)
        if (accuracy := metrics[self._trainer.recipe.select]["accuracy"]) is not None:
            self._bar.set_postfix(epoch=epoch, val_accuracy=f"{accuracy:.3f}", refresh=False)

    def name_unreadable(self, failures: Sequence[Failure]) -> None:
        """Name the images of all processes that could not be read, each once. Every process must call it."""
        from accelerate.utils import gather_object

        for uri, reason in gather_object([(each.record.uri, each.reason) for each in failures]):
            if self._run.log_unreadable(uri, reason):
                tqdm.write(f"unreadable, replaced from its class: {uri}: {reason}")

    def check_unreadable(self, *, at_least: int = SEEN_BEFORE_JUDGING) -> None:
        """Raise ValueError when too many images were unreadable, once `at_least` were seen."""
        position = self._trainer.position
        if position.seen >= at_least:
            check_unreadable(position.unreadable, seen=position.seen, recipe=self._trainer.recipe, run=self._run)

    def end_epoch(self) -> None:
        """Draw the learning curves, unless that was done a short time ago and training goes on."""
        finished = self._trainer.position.finished
        if self._run.writes and (finished or time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_CURVES):
            draw_curves(self._run.metrics, self._run.curves)
            self._drawn_at = time.monotonic()
        self._logged_at = time.monotonic()

    def print_profile(self) -> None:
        """Print where the time of a step went, if it was measured."""
        if self.watch.running and self._accelerator.is_main_process:
            print(self.watch.table(num_steps=self._trainer.position.step - self._first_step))


def check_unreadable(count: int, *, seen: int, recipe: Recipe, run: Run) -> None:
    """Raise ValueError when the share of images that could not be read is larger than the recipe allows."""
    if count > recipe.max_unreadable * seen:
        raise ValueError(
            f"{count} of {seen} images could not be read, more than the share of {recipe.max_unreadable:g} "
            f"that --max-unreadable allows; they are named in {run.folder / 'unreadable.csv'}"
        )
