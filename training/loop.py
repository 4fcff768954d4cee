"""The training loop of either stage. It knows neither the stage nor where inputs come from.

Shape suffixes: B batch, N validation images.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.optim import clip_gradients, make_optimizer, make_schedule
from training.recipe import Recipe
from training.runs import Run

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Fitted:
    """Which epoch (from 1) the model now holds, and its validation accuracy if there was a validation part."""

    epoch: int
    num_steps: int
    val_accuracy: float | None


def resolve_precision(precision: str, *, device: str) -> str:
    """The precision that runs: `auto` decided; fp16 refused where it cannot work."""
    if precision == "auto":
        return "bf16" if _bf16_is_fast(device) else "fp32"
    if precision == "fp16" and device == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU use auto, fp32 or bf16")
    return precision


def _bf16_is_fast(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which the tower runs."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=DTYPES[precision])


def fit(
    model: nn.Module,
    *,
    forward: Callable[[Tensor], Tensor],
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    num_batches: int,
    validate: Callable[[], dict[str, Any]] | None,
    recipe: Recipe,
    run: Run,
    device: str,
) -> Fitted:
    """Trains what requires a gradient with binary cross-entropy on the logit.

    forward      inputs of a batch -> logit_B
    batches      epoch (from 0) -> (inputs, labels_B), num_batches of them an epoch
    validate     metrics with "accuracy"; None without a validation part
    """
    num_steps = recipe.epochs * num_batches
    num_steps = min(num_steps, recipe.max_steps) if recipe.max_steps else num_steps
    stepper = Stepper(model, forward, recipe, device, num_steps=num_steps)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    accuracy = None
    epoch = 0
    with tqdm(total=num_steps, desc="train", unit="step", dynamic_ncols=True) as progress:
        while stepper.step < num_steps:
            epoch += 1
            _train_epoch(stepper, batches(epoch - 1), epoch, run, progress)
            if validate is None:
                continue
            accuracy = _validate(validate, stepper.step, epoch, run, progress)
            if best is None or accuracy > best[0]:
                best = (accuracy, epoch, _trainable_state(model))
            reached = recipe.stop_accuracy < 1 and accuracy >= recipe.stop_accuracy
            if reached or (recipe.patience and epoch - best[1] >= recipe.patience):
                break
    if best is None or recipe.keep == "last":
        return Fitted(epoch, stepper.step, accuracy)
    model.load_state_dict(model.state_dict() | best[2])
    return Fitted(best[1], stepper.step, best[0])


class Stepper:
    """A model with its optimiser, schedule and gradient scaler. `step` counts the steps taken."""

    def __init__(
        self, model: nn.Module, forward: Callable[[Tensor], Tensor], recipe: Recipe, device: str, *, num_steps: int
    ) -> None:
        self.model, self.forward, self.recipe, self.device = model, forward, recipe, device
        self.num_steps, self.step = num_steps, 0
        self.optimizer = make_optimizer(model, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, num_steps=num_steps)
        self.scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "fp16")

    def take(self, inputs: Tensor, labels_B: Tensor) -> dict[str, float]:
        """One optimiser step; the loss, the gradient's norm before clipping, the learning rate."""
        with autocast(self.device, self.recipe.precision):
            logit_B = self.forward(inputs.to(self.device))
        loss = functional.binary_cross_entropy_with_logits(logit_B.float(), labels_B.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_gradients(self.model, self.recipe.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        lr = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self.step += 1
        return {"loss": float(loss.detach()), "grad_norm": grad_norm, "lr": lr}


def _train_epoch(
    stepper: Stepper, batches: Iterable[tuple[Tensor, Tensor]], epoch: int, run: Run, progress: tqdm[Any]
) -> None:
    stepper.model.train()
    first = stepper.step
    for inputs, labels_B in batches:
        taken = stepper.take(inputs, labels_B)
        run.log(step=stepper.step, epoch=epoch, **taken)
        progress.set_postfix(epoch=epoch, loss=f"{taken['loss']:.3f}", refresh=False)
        progress.update()
        if stepper.step == stepper.num_steps:
            break
    if stepper.step == first:
        raise ValueError("none of the training images could be read")


def _validate(
    validate: Callable[[], dict[str, Any]], step: int, epoch: int, run: Run, progress: tqdm[Any]
) -> float:
    metrics = validate()
    run.log(step=step, epoch=epoch, validation=metrics)
    if metrics["accuracy"] is None:
        raise ValueError("none of the validation images could be read")
    accuracy = float(metrics["accuracy"])
    progress.set_postfix(epoch=epoch, val_accuracy=f"{accuracy:.3f}", refresh=False)
    return accuracy


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
