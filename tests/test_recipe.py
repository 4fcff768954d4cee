"""Recipes, the optimiser and its schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from models.precision import resolve_precision
from training.optim import Schedule, clip_gradients, lr_factor, make_optimizer
from training.recipe import PRESETS, Recipe, make_recipe

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize(
    ("stage", "preset", "facts"),
    [
        (1, "paper", {"epochs": 20, "val_fraction": 0.05, "patience": 0, "stop_accuracy": 1}),
        (2, "paper", {"stop_accuracy": 0.999, "patience": 3, "val_fraction": 0.05}),
        (1, "release", {"epochs": 2, "batch_size": 32, "val_fraction": 0.05, "train_view": "crop"}),
        (2, "release", {"epochs": 10, "batch_size": 64, "val_fraction": 0.01, "train_view": "release"}),
    ],
)
def test_presets_are_as_published(stage: int, preset: str, facts: dict[str, Any]) -> None:
    recipe = make_recipe(preset, stage=stage, overrides={})
    facts |= {"lr": 1e-4, "weight_decay": 0.01, "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.1}
    if preset == "paper":
        facts |= {"train_view": "crop", "keep": "best", "val_resize_px": 0, "schedule": "constant"}
    else:
        facts |= {"schedule": "cosine", "final_lr_fraction": 0.001, "warmup_fraction": 0.2, "max_grad_norm": 1}
        facts |= {"val_resize_px": 256, "normalisation": "imagenet", "precision": "fp16"}
    assert {name: getattr(recipe, name) for name in facts} == facts


def test_every_preset_is_for_both_stages() -> None:
    """But for those between them."""
    between = {(2, "mini-head"), (2, "open-head")}
    assert all(PRESETS[each].lora_rank == 0 for each in between)
    names = {name for _, name in set(PRESETS) - between}
    assert set(PRESETS) - between == {(stage, name) for stage in (1, 2) for name in names}


def test_overrides_replace_fields_of_the_preset() -> None:
    recipe = make_recipe("release", stage=2, overrides={"epochs": 3, "seed": 9})
    assert recipe == replace(PRESETS[2, "release"], epochs=3, seed=9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"feature_views": 2, "lora_rank": 16}, "no effect in stage 2, except with --lora-rank 0"),
        ({"feature_views": 1, "lora_rank": 0, "patch_dropout": 0.5}, "patch_dropout has no effect with"),
        ({"lora_rank": 0, "lora_alpha": 8}, "lora_alpha has no effect with --lora-rank 0"),
        ({"feature_layers": "6,x"}, "feature_layers has no effect in stage 2"),
        ({"lr": 0.0}, "lr must be positive, not 0"),
        ({"lr": math.nan}, "lr must be positive, not nan"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0"),
        ({"head_lr_factor": -1.0}, "head_lr_factor must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_steps": -5}, "max_steps must be at least 0"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1, not 1"),
        ({"warmup_fraction": -0.1}, "warmup_fraction must be at least 0"),
        ({"lora_dropout": 1.5}, "lora_dropout must be at least 0 and below 1"),
        ({"patch_dropout": 1.0}, "patch_dropout must be at least 0 and below 1"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1"),
        ({"schedule": "linear"}, "schedule is one of constant, cosine, not 'linear'"),
        ({"keep": "first"}, "keep is one of best, last"),
        ({"precision": "fp8"}, "precision is one of auto, fp32, bf16, fp16"),
        ({"normalisation": "none"}, "normalisation is one of backbone, imagenet"),
        ({"train_view": "zoom"}, "train_view is one of eval, crop, crop_flip, release, recompress, reencode"),
        ({"sampling": "sorted"}, "sampling is one of shuffle, class, source"),
    ],
)
def test_bad_values_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_recipe("paper", stage=2, overrides=overrides)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(
        ValueError, match="unknown preset 'fast' for stage 1; choose from paper, release, small, mini, open, demo"
    ):
        make_recipe("fast", stage=1, overrides={})


def test_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU use auto, fp32 or bf16"):
        resolve_precision("fp16", device="cpu")
    assert resolve_precision("fp16", device="cuda") == "fp16"
    assert resolve_precision("auto", device="cpu") in ("bf16", "fp32")
    assert resolve_precision("bf16", device="cpu") == "bf16"


# ---------------------------------------------------------------------------------------------------------
# Optimiser and schedule


def test_cosine_schedule_of_the_release() -> None:
    factor = lr_factor(PRESETS[1, "release"], num_steps=100)
    values = [factor(step) for step in range(100)]
    assert values[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert values[20] == pytest.approx(1)
    assert values[20:] == sorted(values[20:], reverse=True)
    assert values[-1] == pytest.approx(0.001)


def test_cosine_is_half_way_in_the_middle() -> None:
    factor = lr_factor(Recipe(schedule="cosine", final_lr_fraction=0.2), num_steps=101)
    assert [factor(step) for step in (0, 50, 100, 200)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert factor(25) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)


def test_constant_schedule_with_and_without_warm_up() -> None:
    factor = lr_factor(Recipe(warmup_fraction=0.5), num_steps=8)
    assert [factor(step) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert {lr_factor(Recipe(), num_steps=8)(step) for step in range(8)} == {1.0}


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_schedule_of_a_very_short_run_stays_in_bounds(num_steps: int) -> None:
    factor = lr_factor(PRESETS[2, "release"], num_steps=num_steps)
    assert all(0.001 <= factor(step) <= 1 for step in range(num_steps + 1))


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Linear(3, 3)
        self.project = nn.Linear(3, 1)
        self.tower.weight.requires_grad_(False)


def test_optimiser_groups() -> None:
    model = TwoParts()
    recipe = Recipe(lr=0.01, head_lr_factor=5, weight_decay=0.3)
    optimizer = make_optimizer(model, recipe)
    groups = [(group["lr"], [id(p) for p in group["params"]]) for group in optimizer.param_groups]
    assert groups == [
        (0.01, [id(model.tower.bias)]),
        (0.05, [id(model.project.weight), id(model.project.bias)]),
    ]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    Schedule(optimizer, replace(recipe, warmup_fraction=0.5), num_steps=8).set(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0025, 0.0125])


def test_the_projection_can_learn_more_slowly() -> None:
    model = nn.ModuleDict({"project": nn.Linear(3, 1), "classifier": nn.Linear(3, 1)})
    optimizer = make_optimizer(model, Recipe(lr=0.01, head_lr_factor=5, project_lr_factor=0.1))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["project"].weight)] == pytest.approx(0.005)
    assert rates[id(model["classifier"].weight)] == pytest.approx(0.05)


def test_frozen_tower_has_no_group() -> None:
    model = TwoParts()
    model.tower.requires_grad_(False)
    assert [group["lr"] for group in make_optimizer(model, Recipe(lr=0.01)).param_groups] == [0.01]


def test_gradients_are_clipped_to_the_norm_of_all_of_them() -> None:
    model = TwoParts()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def norm_after(max_norm: float) -> float:
        for parameter in trainable:
            parameter.grad = torch.full_like(parameter, 2.0)
        assert clip_gradients(model, max_norm) == pytest.approx(2 * math.sqrt(7))
        return math.sqrt(sum(float((p.grad**2).sum()) for p in trainable if p.grad is not None))

    assert norm_after(1.0) == pytest.approx(1, abs=1e-4)
    assert norm_after(100.0) == pytest.approx(2 * math.sqrt(7))
    assert norm_after(0.0) == pytest.approx(2 * math.sqrt(7))
