"""How a stage is trained, as data: the Recipe and the presets of the paper and of the released code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from data.choices import BALANCES, EVAL, SAMPLINGS, TRAIN_VIEWS
from models.precision import PRECISIONS

SCHEDULES = ("constant", "cosine")
KEEPS = ("best", "last")
SELECTS = ("random", "heldout")
NORMALISATIONS = ("backbone", "imagenet")
UNIT_FIELDS = (
    "warmup_fraction",
    "val_fraction",
    "holdout_fraction",
    "max_unreadable",
    "ema_decay",
    "lora_dropout",
    "patch_dropout",
)


def _option(default: Any, help: str, choices: tuple[Any, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run. The defaults are what paper and release have in common."""

    epochs: int = _option(20, "passes over the training images")
    max_steps: int = _option(0, "stop after this many optimiser steps; 0: no limit")
    batch_size: int = _option(32, "images a step, of all processes together")
    accumulate: int = _option(1, "pieces that a process takes its part of a batch in, to save memory")
    lr: float = _option(1e-4, "peak learning rate of AdamW")
    head_lr_factor: float = _option(1.0, "learning rate of the layers that start untrained, relative to lr")
    weight_decay: float = _option(0.01, "of AdamW")
    schedule: str = _option("constant", "of the learning rate", SCHEDULES)
    final_lr_fraction: float = _option(0.001, "of lr, where the cosine ends")
    warmup_fraction: float = _option(0.0, "of all steps, linear from 0")
    max_grad_norm: float = _option(0.0, "gradients are clipped to this norm; 0: not clipped")
    val_fraction: float = _option(0.05, "of each class, held out at random for validation")
    holdout_fraction: float = _option(0.0, "of the generators and of the photo sources, held out whole")
    max_val_images: int = _option(0, "images of either validation part at most; 0: all of them")
    select: str = _option("random", "the validation part whose accuracy picks the epoch and stops", SELECTS)
    stop_accuracy: float = _option(1.0, "validation accuracy that ends training; 1: never")
    patience: int = _option(0, "epochs without gain in validation accuracy that end training; 0: never")
    keep: str = _option("last", "the epoch whose weights are saved", KEEPS)
    ema_decay: float = _option(
        0.0,
        "the weights that validate and are saved are a moving average that keeps this share a step; 0: the last",
    )
    max_unreadable: float = _option(0.05, "share of the images met that may be unreadable before training stops")
    train_view: str = _option("crop", "random view, see data/images/augment.py", TRAIN_VIEWS)
    feature_views: int = _option(
        0, "while the tower is frozen: views an image, passed through it once; 0: every epoch anew"
    )
    feature_layers: str = _option(
        "", "stage 1: layers of the tower whose class tokens are read, such as 6,9,12; empty: the last alone"
    )
    val_resize_px: int = _option(0, "short side before the centre crop in validation; 0: no resizing")
    normalisation: str = _option("backbone", "mean and standard deviation of pixels", NORMALISATIONS)
    sampling: str = _option("shuffle", "order of an epoch, see data/loading/batches.py", SAMPLINGS)
    balance: str = _option("class", "what a stream of shards draws equally, see data/shards/stream.py", BALANCES)
    precision: str = _option(
        "fp32", "of the tower (auto: bf16 where it is fast, else fp32); the head computes in fp32", PRECISIONS
    )
    lora_rank: int = _option(16, "stage 2: rank of the updates; 0: none, the tower stays as it is")
    lora_alpha: int = _option(32, "stage 2: the updates are scaled by alpha / rank")
    lora_dropout: float = _option(0.1, "stage 2: dropout before the updates")
    patch_dropout: float = _option(0.0, "stage 2: share of an image's patches that a step leaves out")
    activation_checkpointing: int = _option(0, "1: compute activations twice, to save memory", (0, 1))
    compile: int = _option(0, "1: compile the tower (torch.compile)", (0, 1))
    num_workers: int = _option(2, "processes that decode images, of each training process")
    seed: int = _option(0, "of everything random but the views of --feature-views, which all seeds share")

    def __post_init__(self) -> None:
        for item in fields(self):
            choices, value = item.metadata["choices"], getattr(self, item.name)
            if choices and value not in choices:
                raise ValueError(f"{item.name} is one of {', '.join(map(str, choices))}, not {value!r}")
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "max_steps",
            "max_val_images",
            "patience",
            "feature_views",
            "num_workers",
            "val_resize_px",
            "seed",
            "weight_decay",
            "max_grad_norm",
            "head_lr_factor",
            "final_lr_fraction",
            "lora_rank",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        self.layers()
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.train_view == EVAL and self.feature_views > 1:
            raise ValueError(f"the view {EVAL} is always the same: feature_views is 1, not {self.feature_views}")
        for name in UNIT_FIELDS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")

    def layers(self) -> tuple[int, ...]:
        """The numbers in feature_layers."""
        names = [name.strip() for name in self.feature_layers.split(",") if name.strip()]
        if not all(name.isdecimal() for name in names):
            raise ValueError(f"feature_layers are numbers with commas between, not {self.feature_layers!r}")
        return tuple(map(int, names))


PAPER = Recipe(keep="best")
RELEASE = Recipe(
    schedule="cosine",
    warmup_fraction=0.2,
    max_grad_norm=1.0,
    normalisation="imagenet",
    precision="fp16",
    val_resize_px=256,
)

# A few thousand images and no GPU: views of the frozen tower are computed once, classes and sources are
# balanced, the tower runs in bf16 where the processor is fast at it.
SMALL_1 = Recipe(
    epochs=10, lr=1e-3, schedule="cosine", feature_views=2, sampling="class", precision="auto", val_fraction=0.05
)
SMALL_2 = Recipe(
    epochs=1,
    batch_size=16,
    lr=2e-4,
    head_lr_factor=15.0,  # the attention starts uniform, and at lr alone stays so for long
    lora_dropout=0.0,
    schedule="cosine",
    warmup_fraction=0.1,
    max_grad_norm=1.0,
    train_view="crop_flip",
    sampling="source",
    precision="auto",
    val_fraction=0.02,
)

# The detector that ships: several layers are read; a head is fitted to the frozen tower until it has converged,
# and only then goes the tower along (Kumar et al. 2022, arXiv 2202.10054); sources are held out to judge it by.
MINI_1 = Recipe(
    epochs=30,
    batch_size=128,
    lr=1e-3,
    weight_decay=1.0,
    schedule="cosine",
    train_view="eval",
    feature_views=1,
    feature_layers="5,6,7,8,9",
    sampling="source",
    precision="auto",
    val_fraction=0.0,
    holdout_fraction=0.1,
    select="heldout",
)
MINI_HEAD = replace(MINI_1, epochs=20, feature_layers="", lora_rank=0)
MINI_2 = Recipe(
    epochs=3,
    batch_size=16,
    lr=1.5e-4,
    head_lr_factor=2.0,
    lora_rank=8,
    lora_alpha=16,
    lora_dropout=0.0,
    patch_dropout=0.5,
    ema_decay=0.99,
    schedule="cosine",
    warmup_fraction=0.1,
    max_grad_norm=1.0,
    train_view="recompress",
    sampling="source",
    precision="auto",
    val_fraction=0.0,
    holdout_fraction=0.1,
    select="heldout",
)

PRESETS: dict[tuple[int, str], Recipe] = {
    (1, "paper"): PAPER,
    (2, "paper"): replace(PAPER, stop_accuracy=0.999, patience=3, batch_size=64),
    (1, "release"): replace(RELEASE, epochs=2),
    (2, "release"): replace(RELEASE, epochs=10, batch_size=64, val_fraction=0.01, train_view="release"),
    (1, "small"): SMALL_1,
    (2, "small"): SMALL_2,
    (1, "mini"): MINI_1,
    (2, "mini-head"): MINI_HEAD,
    (2, "mini"): MINI_2,
    # Minutes on the demonstration corpus.
    (1, "demo"): replace(SMALL_1, epochs=20),
    (2, "demo"): replace(SMALL_2, epochs=2, batch_size=8, max_steps=40, val_fraction=0.05),
}
PRESET_NAMES = tuple(dict.fromkeys(name for _, name in PRESETS))


def make_recipe(preset: str, *, stage: int, overrides: dict[str, Any]) -> Recipe:
    """The preset with some fields replaced. Raises ValueError for an unknown preset or a bad value."""
    if (stage, preset) not in PRESETS:
        of_stage = [name for each, name in PRESETS if each == stage]
        raise ValueError(f"unknown preset {preset!r} for stage {stage}; choose from {', '.join(of_stage)}")
    other_stage = {
        1: ("lora_rank", "lora_alpha", "lora_dropout", "patch_dropout"),
        2: ("feature_layers",),
    }[stage]
    if misplaced := [name for name in other_stage if name in overrides]:
        raise ValueError(f"{misplaced[0]} has no effect in stage {stage}")
    recipe = replace(PRESETS[stage, preset], **overrides)
    if stage == 2 and recipe.feature_views and recipe.lora_rank:
        raise ValueError("feature_views has no effect in stage 2 but with --lora-rank 0")
    if recipe.feature_views and recipe.patch_dropout:
        raise ValueError("patch_dropout has no effect with --feature-views: features are of whole images")
    if (
        stage == 2
        and not recipe.lora_rank
        and (idle := [n for n in ("lora_alpha", "lora_dropout") if n in overrides])
    ):
        raise ValueError(f"{idle[0]} has no effect with --lora-rank 0")
    return recipe
