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
    if recipe.max_steps:
        num_steps = min(num_steps, recipe.max_steps)
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, num_steps=num_steps)
    scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "fp16" and device == "cuda")
    best: tuple[float, int, dict[str, Tensor]] | None = None
    step, epoch = 0, 0
    with tqdm(total=num_steps, desc="train", unit="step", dynamic_ncols=True) as progress:
        while step < num_steps:
            model.train()
            steps_before = step
            for inputs, labels_B in batches(epoch):
                loss, grad_norm = _step(
                    model, forward, inputs.to(device), labels_B.to(device), optimizer, scaler, recipe, device
                )
                run.log(step=step, epoch=epoch + 1, loss=loss, grad_norm=grad_norm, lr=schedule.get_last_lr()[0])
                schedule.step()
                step += 1
                progress.update()
                progress.set_postfix(epoch=epoch + 1, loss=f"{loss:.3f}", refresh=False)
                if step == num_steps:
                    break
            if step == steps_before:
                raise ValueError("none of the training images could be read")
            epoch += 1
            if validate is None:
                continue
            metrics = validate()
            run.log(step=step, epoch=epoch, validation=metrics)
            if metrics["accuracy"] is None:
                raise ValueError("none of the validation images could be read")
            accuracy = float(metrics["accuracy"])
            progress.set_postfix(epoch=epoch, loss=f"{loss:.3f}", val_accuracy=f"{accuracy:.3f}", refresh=False)
            if best is None or accuracy > best[0]:
                best = (accuracy, epoch, _trainable_state(model))
            if (recipe.stop_accuracy < 1 and accuracy >= recipe.stop_accuracy) or (
                recipe.patience and epoch - best[1] >= recipe.patience
            ):
                break
    if best is None or recipe.keep == "last":
        return Fitted(epoch, step, None if best is None else accuracy)
    model.load_state_dict(model.state_dict() | best[2])
    return Fitted(best[1], step, best[0])


def _step(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels_B: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    recipe: Recipe,
    device: str,
) -> tuple[float, float]:
    with autocast(device, recipe.precision):
        logit_B = forward(inputs)
    loss = functional.binary_cross_entropy_with_logits(logit_B.float(), labels_B)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(model, recipe.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    return float(loss.detach()), grad_norm


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
