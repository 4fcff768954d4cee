"""How a stage is trained, as data: the Recipe, and the presets of the paper, of the released code and of ours.

Command lines import this module to parse their options, so it imports nothing that is slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from data.choices import BALANCES, EVAL, PAIRS, SAMPLINGS, TRAIN_VIEWS
from models.precision import PRECISIONS

SCHEDULES = ("constant", "cosine")
KEEPS = ("best", "last")
SELECTS = ("random", "heldout")
NORMALISATIONS = ("backbone", "imagenet")


def _option(
    default: Any,
    help: str,
    choices: tuple[Any, ...] = (),
    *,
    minimum: float = -math.inf,
    below: float = math.inf,
) -> Any:
    """Make a field with its help text and the values that it may have: `choices`, or minimum <= value < below."""
    allowed = {"help": help, "choices": choices, "minimum": minimum, "below": below}
    return field(default=default, metadata=allowed)


def _fraction(default: float, help: str) -> Any:
    return _option(default, help, minimum=0, below=1)


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run. The defaults are what the paper and the release have in common.

    Raises ValueError for a value that its field does not allow.
    """

    epochs: int = _option(20, "passes over the training images", minimum=1)
    max_steps: int = _option(0, "stop after this many optimiser steps; 0: no limit", minimum=0)
    batch_size: int = _option(32, "images a step, of all processes together", minimum=1)
    accumulate: int = _option(1, "gradient accumulation steps, to save memory", minimum=1)
    lr: float = _option(1e-4, "peak learning rate of AdamW")
    head_lr_factor: float = _option(
        1.0, "learning rate of the layers that start untrained, relative to lr", minimum=0
    )
    project_lr_factor: float = _option(
        1.0, "stage 2: learning rate of the projection, which stage 1 trained, relative to the head's", minimum=0
    )
    weight_decay: float = _option(0.01, "weight decay of AdamW", minimum=0)
    schedule: str = _option("constant", "how the learning rate changes", SCHEDULES)
    final_lr_fraction: float = _option(0.001, "fraction of lr at which the cosine ends", minimum=0)
    warmup_fraction: float = _fraction(0.0, "fraction of all steps in which the learning rate rises from 0")
    max_grad_norm: float = _option(0.0, "clip gradients to this norm; 0: no clipping", minimum=0)
    val_fraction: float = _fraction(0.05, "fraction of each class that is drawn for validation")
    holdout_fraction: float = _fraction(
        0.0, "fraction of the generators and of the real sources to hold out whole"
    )
    max_val_images: int = _option(0, "most images of either validation set; 0: all of them", minimum=0)
    select: str = _option("random", "validation set whose accuracy picks the epoch and ends training", SELECTS)
    stop_accuracy: float = _option(1.0, "validation accuracy that ends training; 1: never")
    patience: int = _option(0, "epochs without gain in validation accuracy that end training; 0: never", minimum=0)
    keep: str = _option("last", "epoch whose weights are saved", KEEPS)
    ema_decay: float = _fraction(
        0.0, "validate and save a moving average of the weights that keeps this share at each step; 0: no average"
    )
    max_unreadable: float = _fraction(0.05, "share of the images seen that may be unreadable; more end training")
    train_view: str = _option("crop", "random view of training images, see data/images/augment.py", TRAIN_VIEWS)
    feature_views: int = _option(0, "cached random views per image; 0 disables the feature cache", minimum=0)
    feature_layers: str = _option(
        "", "stage 1: layers of the tower whose class tokens are read, such as 6,9,12; empty: only the last"
    )
    views: str = _option(
        "centre", "stage 1: views of the detector, see gapl/pixels.py, such as centre,quarters,reduced,whole"
    )
    whole_layers: str = _option("", "stage 1: layers that are read of the view whole, such as 6,9,12")
    crop_dropout: float = _fraction(0.0, "share of images that a step judges by the view whole alone")
    consistency: float = _option(
        0.0, "view pairs: weight of the divergence between an image's two verdicts", minimum=0
    )
    val_resize_px: int = _option(0, "short side before the centre crop in validation; 0: no resizing", minimum=0)
    normalisation: str = _option("backbone", "mean and standard deviation of pixels", NORMALISATIONS)
    sampling: str = _option("shuffle", "order of an epoch, see data/loading/epochs.py", SAMPLINGS)
    balance: str = _option("class", "what a stream of shards draws equally, see data/shards/order.py", BALANCES)
    precision: str = _option(
        "fp32",
        "of the tower (auto: bf16 where it is fast, else fp32); the head always computes in fp32",
        PRECISIONS,
    )
    lora_rank: int = _option(16, "stage 2: rank of the updates; 0: none, the tower stays frozen", minimum=0)
    lora_alpha: int = _option(32, "stage 2: the updates are scaled by alpha / rank")
    lora_dropout: float = _fraction(0.1, "stage 2: dropout before the updates")
    patch_dropout: float = _fraction(0.0, "stage 2: share of an image's patches that a step leaves out")
    activation_checkpointing: int = _option(0, "1: compute activations twice, to save memory", (0, 1))
    compile: int = _option(0, "1: compile the tower (torch.compile)", (0, 1))
    num_workers: int = _option(2, "processes that decode images, per training process", minimum=0)
    seed: int = _option(0, "seed of everything random, except --feature-views, which all seeds share", minimum=0)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item.name, getattr(self, item.name), **{k: v for k, v in item.metadata.items() if k != "help"})
        self.layers("feature_layers")
        if bool(self.layers("whole_layers")) != ("whole" in self.view_names()):
            raise ValueError(f"views {self.views!r} with whole_layers {self.whole_layers!r}: whole needs both")
        if self.view_names() == ("whole",):  # training views have a crop beside the whole
            raise ValueError("views 'whole': whole needs another view before it, such as centre,whole")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.train_view == EVAL and self.feature_views > 1:
            raise ValueError(f"the view {EVAL} is always the same: feature_views is 1, not {self.feature_views}")
        if self.train_view == PAIRS and self.feature_views:
            raise ValueError(f"the view {PAIRS} is not cached: feature_views is 0, not {self.feature_views}")
        if self.consistency and self.train_view != PAIRS:
            raise ValueError(f"consistency is for the view {PAIRS}, not for {self.train_view}")

    def layers(self, name: str) -> tuple[int, ...]:
        """Return the numbers in feature_layers or whole_layers."""
        names = _split(getattr(self, name))
        if not all(each.isdecimal() for each in names):
            raise ValueError(f"{name} are numbers with commas between, not {getattr(self, name)!r}")
        return tuple(map(int, names))

    def of_stage(self, stage: int) -> dict[str, Any]:
        """Return the values by name, without those that the stage does not use."""
        return {name: value for name, value in asdict(self).items() if name not in OTHER_STAGE[stage]}

    def view_names(self) -> tuple[str, ...]:
        """Return the names in views."""
        return tuple(_split(self.views))


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check(name: str, value: Any, *, choices: tuple[Any, ...], minimum: float, below: float) -> None:
    """Raise ValueError when a field does not allow the value."""
    if choices and value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")
    if (minimum > -math.inf or below < math.inf) and not minimum <= value < below:
        limit = f" and below {below}" if below < math.inf else ""
        raise ValueError(f"{name} must be at least {minimum}{limit}, not {value}")


PAPER = Recipe(keep="best")
RELEASE = Recipe(
    schedule="cosine",
    warmup_fraction=0.2,
    max_grad_norm=1.0,
    normalisation="imagenet",
    precision="fp16",
    val_resize_px=256,
)

# For a few thousand images and no GPU: features of the frozen tower are computed once, classes and sources are
# balanced, and the tower runs in bf16 where the CPU is fast at it.
SMALL_1 = Recipe(
    epochs=10, lr=1e-3, schedule="cosine", feature_views=2, sampling="class", precision="auto", val_fraction=0.05
)
SMALL_2 = Recipe(
    epochs=1,
    batch_size=16,
    lr=2e-4,
    head_lr_factor=15.0,  # the attention starts uniform, and would stay so for long at lr
    lora_dropout=0.0,
    schedule="cosine",
    warmup_fraction=0.1,
    max_grad_norm=1.0,
    train_view="crop_flip",
    sampling="source",
    precision="auto",
    val_fraction=0.02,
)

# The detector that ships. Several layers are read. A head is fitted to the frozen tower until it has converged;
# only then does the tower train too (Kumar et al. 2022, arXiv 2202.10054). Sources are held out to judge it by.
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

# The detector that ships, for whole pictures of the open corpus: crops and the whole picture make one feature. The
# head learns from pictures of which half were delivered in a random form, LoRA from each picture in both ways.
OPEN_1 = replace(
    MINI_1,
    epochs=24,
    lr=1e-4,
    sampling="class",  # by source, old generators of few sources are forgotten
    train_view="delivered",
    feature_views=2,
    views="centre,quarters,reduced,whole",
    whole_layers="5,6,7,8,9,12",
    crop_dropout=0.25,
)
OPEN_HEAD = replace(
    OPEN_1,
    epochs=4,
    lr=1e-3,
    project_lr_factor=0.1,
    feature_layers="",
    views="centre",
    whole_layers="",
    lora_rank=0,
)
OPEN_2 = replace(
    MINI_2,
    epochs=1,
    project_lr_factor=0.3,
    sampling="class",
    train_view=PAIRS,
    consistency=0.5,
    crop_dropout=0.25,
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
    (1, "open"): OPEN_1,
    (2, "open-head"): OPEN_HEAD,
    (2, "open"): OPEN_2,
    # Minutes on the demonstration corpus.
    (1, "demo"): replace(SMALL_1, epochs=20),
    (2, "demo"): replace(SMALL_2, epochs=2, batch_size=8, max_steps=40, val_fraction=0.05),
}
PRESET_NAMES = tuple(dict.fromkeys(name for _, name in PRESETS))
OTHER_STAGE = {  # fields that a stage does not use
    1: ("project_lr_factor", "lora_rank", "lora_alpha", "lora_dropout", "patch_dropout"),
    2: ("feature_layers", "views", "whole_layers"),
}


def make_recipe(preset: str, *, stage: int, overrides: Mapping[str, Any]) -> Recipe:
    """Return the preset with some fields replaced. Raise ValueError for an unknown preset or a bad value."""
    if (stage, preset) not in PRESETS:
        of_stage = [name for each, name in PRESETS if each == stage]
        raise ValueError(f"unknown preset {preset!r} for stage {stage}; choose from {', '.join(of_stage)}")
    for name in OTHER_STAGE[stage]:
        if name in overrides:
            raise ValueError(f"{name} has no effect in stage {stage}")
    recipe = replace(PRESETS[stage, preset], **overrides)
    if stage == 2 and recipe.feature_views and recipe.lora_rank:
        raise ValueError("feature_views has no effect in stage 2, except with --lora-rank 0")
    if recipe.feature_views and recipe.patch_dropout:
        raise ValueError("patch_dropout has no effect with --feature-views: features are of whole images")
    for name in ("lora_alpha", "lora_dropout"):
        if name in overrides and not recipe.lora_rank:
            raise ValueError(f"{name} has no effect with --lora-rank 0")
    return recipe
