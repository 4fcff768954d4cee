"""The training loop of either stage. It knows neither the stage nor where batches come from.

Shape suffix: B images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from training.batches import MicroBatch, TrainingBatches
from training.interrupt import SignalWatch
from training.loss import sum_loss
from training.monitor import Monitor
from training.optim import clip_gradients
from training.processes import sum_over_processes
from training.recipe import Recipe
from training.runs import RunContext
from training.saver import Saver
from training.stopwatch import Stopwatch
from training.trainer import Fitted, LogitModel, Trainer


def fit(
    model: LogitModel,
    batches: TrainingBatches,
    *,
    recipe: Recipe,
    context: RunContext,
    validate: Callable[[], dict[str, Any]] | None,
) -> Fitted:
    """Train what requires a gradient with binary cross-entropy on the logit, from where the run stopped.

    validate   returns the metrics of each validation set, "accuracy" among them, the same in every process; None
               if there is no validation set

    Raises Interrupted, with a checkpoint written, after SIGTERM or SIGINT in any of the processes, and
    ValueError when too many images are unreadable.
    """
    num_steps = recipe.epochs * batches.per_epoch
    num_steps = min(num_steps, recipe.max_steps) if recipe.max_steps else num_steps
    trainer = Trainer(model, recipe, context.accelerator, num_steps=num_steps)
    if context.run.state is not None:
        trainer.restore(context.run.state)
    position = trainer.position
    with SignalWatch() as signals, Monitor(trainer, context, num_images=batches.num_images) as monitor:
        saver = Saver(trainer, context, signals)
        while not position.finished:
            _train_epoch(trainer, batches, saver, monitor)
            if validate is not None:
                saver.save_before_validation()
                with monitor.watch.section("validate"), trainer.averaged():
                    metrics = validate()
                    monitor.log_validation(metrics)
                    trainer.note_accuracy(metrics[recipe.select]["accuracy"])
            position.epoch, position.batch = position.epoch + 1, 0
            position.finished = trainer.is_finished()
            monitor.check_unreadable(at_least=1)
            monitor.end_epoch()
            saver.end_epoch()
    monitor.print_profile()
    return trainer.choose_weights()


def _train_epoch(trainer: Trainer, batches: TrainingBatches, saver: Saver, monitor: Monitor) -> None:
    """Train the rest of the epoch under way, one batch a step."""
    position, recipe, accelerator, watch = trainer.position, trainer.recipe, trainer.accelerator, monitor.watch
    # The processes' gradients are averaged, and an image that is missing from the batch adds nothing to its mean.
    loss_scale = accelerator.num_processes / batches.num_images
    micro_batches = iter(batches.draw(epoch=position.epoch, first_batch=position.batch))
    trainer.detector.train()
    while position.batch < batches.per_epoch and position.step < trainer.num_steps:
        with watch.section("data"):
            batch = list(islice(micro_batches, recipe.accumulate))
            assert len(batch) == recipe.accumulate, "an epoch has fewer batches than it says"

        trainer.schedule.set(position.step)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss_sum = _accumulate_gradients(trainer, batch, loss_scale, watch)
        with watch.section("update"):
            accelerator.unscale_gradients()
            grad_norm = clip_gradients(trainer.detector, recipe.max_grad_norm)
            trainer.optimizer.step()
            trainer.update_average()

        with watch.section("agree, log"):
            failures = [failure for each in batch for failure in each.failures]
            own_read = sum(len(each.labels_B) for each in batch)
            loss_sum, num_read, num_failed, stop, late = sum_over_processes(
                accelerator, loss_sum, own_read, len(failures), saver.signal_number(), saver.is_late()
            )
            position.step, position.batch = position.step + 1, position.batch + 1
            position.seen += batches.num_images
            position.unreadable += int(num_failed)
            if num_failed:
                monitor.name_unreadable(failures)
                monitor.check_unreadable()
            monitor.log_step(loss_sum / num_read, grad_norm)
            saver.end_step(late=bool(late), stop=bool(stop))


def _accumulate_gradients(
    trainer: Trainer, batch: Sequence[MicroBatch], loss_scale: float, watch: Stopwatch
) -> float:
    """Run the micro-batches forward and backward. Return the sum of the losses of this process's images.

    Those of which no image could be read are left out. Raises ValueError when these are all.
    """
    total, device = 0.0, trainer.accelerator.device
    read = [each for each in batch if len(each.labels_B)]
    if not read:
        raise ValueError("none of the images of a batch could be read")
    for number, micro_batch in enumerate(read, 1):
        with trainer.sync_gradients(when=number == len(read)):
            with watch.section("forward"):
                logit = trainer.model(micro_batch.inputs.to(device, non_blocking=True)).float()
                labels_B = micro_batch.labels_B.to(device)
                loss = sum_loss(logit, labels_B, consistency=trainer.recipe.consistency)
            with watch.section("backward"):
                trainer.accelerator.backward(loss * loss_scale)
        total += float(loss.detach())
    return total
