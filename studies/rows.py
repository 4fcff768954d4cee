"""The rows of studies/ablation.py: what each does differently from the preset mini.

Command lines import this module to parse their options, so it imports nothing that is slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.choices import EVAL
from training.recipe import MINI_1, MINI_2, MINI_HEAD, PRESETS, Recipe

PARTS = ("stage1", "commfor-mini", "commfor-wide", "commfor-modern")  # folders of the corpus
SPLIT: dict[str, Any] = {"fraction": 0.1, "holdout": 0.2, "names": (), "max_images": 500}
ENDLESS = 10**6  # epochs: the number of steps is what ends a fit, however few images a row has
STAGE1 = replace(MINI_1, max_steps=1200, epochs=ENDLESS)
HEAD = replace(MINI_HEAD, max_steps=800, epochs=ENDLESS)
LORA = replace(MINI_2, max_steps=100, epochs=ENDLESS)
# What a row of another preset has in common with mini.
SHARED = ("max_steps", "epochs", "batch_size", "feature_views", "val_resize_px", "select")
NO_PROTOTYPES = "none"
HELDOUT = "heldout"
TOWERS = ("frozen", "lora")


@dataclass(frozen=True)
class Row:
    """What a row does differently from the preset.

    prototypes   a method of prototype/reduce.py; or "none": the classifier reads the embedding itself
    num          number of prototypes
    sources      generators that stage 1 and the prototypes see, besides all real images; 0: all
    generators   generators that all fits see, besides all real images; 0: all
    layers       of the tower that are read, such as 6,9,12; empty: only the last; None: those of --feature-layers
    fit, lora    fields of the recipe of both fits on the frozen tower, and of LoRA
    preset       whose numbers all three fits take. They take as many steps of as many images as mini's, and the
                 frozen tower sees the evaluation view
    """

    prototypes: str = "kmeans"
    num: int = 64
    sources: int = 0
    generators: int = 0
    layers: str | None = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "mini"


@dataclass(frozen=True)
class Recipes:
    """The recipes of stage 1, of the head on the frozen tower, and of LoRA."""

    stage1: Recipe
    head: Recipe
    lora: Recipe


def recipes_of(row: Row, *, seed: int, precision: str) -> Recipes:
    """Return the recipes of a row."""
    stage1, head, lora = STAGE1, HEAD, LORA
    if row.preset != "mini":
        stage1, head = (
            as_long_as(start, PRESETS[stage, row.preset], train_view=EVAL)
            for stage, start in ((1, STAGE1), (2, HEAD))
        )
        lora = as_long_as(LORA, PRESETS[2, row.preset])
    common: dict[str, Any] = {"seed": seed, "precision": precision}
    return Recipes(
        replace(stage1, **row.fit, **common),
        replace(head, **row.fit, **common),
        replace(lora, **row.lora, **common),
    )


def as_long_as(start: Recipe, preset: Recipe, **changes: Any) -> Recipe:
    """Return the preset with as many steps of as many images as `start`."""
    return replace(preset, **{name: getattr(start, name) for name in SHARED}, **changes)


ROWS = {
    "mini": Row(),
    "no prototypes": Row(prototypes=NO_PROTOTYPES),
    "random prototypes": Row(prototypes="random"),
    "class means": Row(prototypes="mean"),
    "PCA": Row(prototypes="pca"),
    **{f"{num} prototypes": Row(num=num) for num in (8, 16, 32, 128)},
    **{f"prototypes of {num} generators": Row(sources=num) for num in (1, 2, 3, 8)},
    **{f"{num} generators": Row(generators=num) for num in (1, 2, 4, 16)},
    "layers 7 to 10 and 12": Row(layers="7,8,9,10,12"),
    "last layer alone": Row(layers=""),
    "head not fitted to its end": Row(fit={"max_steps": 200}),
    "never saved anew": Row(lora={"train_view": "crop_flip"}),
    "balanced by class": Row(fit={"sampling": "class"}, lora={"sampling": "class"}),
    "all patches": Row(lora={"patch_dropout": 0.0}),
    "no average of weights": Row(lora={"ema_decay": 0.0}),
    "preset paper": Row(layers="", preset="paper"),
    "preset release": Row(layers="", preset="release"),
}
