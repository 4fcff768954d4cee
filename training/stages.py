"""How a stage is fitted: on new views of the images in every epoch, or on cached features of a frozen tower.

Shape suffixes: B batch, C channels, H, W pixels, D tower width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from data.holdout import Split
from data.records import Images, Manifest, require_both_classes
from features.extractor import FeatureExtractor
from features.spec import FeatureSpec
from features.store import FeatureStore, FeatureTable
from models.casting import frozen_linears_in
from models.detector import TowerHead
from models.precision import dtype_of
from models.tower import VisionTower
from models.weights.checkpoint import Checkpoint
from training.batches import feature_batches, image_batches
from training.loop import fit
from training.monitor import check_unreadable
from training.processes import rank_of
from training.recipe import Recipe
from training.runs import RunContext
from training.trainer import Fitted, LogitModel
from training.validation import (
    judge,
    name_unreadable,
    score_features,
    score_images,
    validation_pixels,
    validation_sets,
)


def fit_stage(start: Checkpoint, split: Split[Any], *, recipe: Recipe, context: RunContext) -> Fitted:
    """Train the detector of `start` in place, on features if the recipe has feature_views.

    Raises ValueError for features of a tower that trains, and as training.loop.fit does.
    """
    if recipe.feature_views and start.config.lora:
        raise ValueError("--feature-views needs a frozen tower, and the tower of --init has LoRA")
    start.detector.to(context.accelerator.device)
    with context.accelerator.main_process_first():  # it copies rows of shards
        sets = validation_sets(split)
    fit_on = _fit_features if recipe.feature_views else _fit_images
    with start.detector.leaving_out_crops(recipe.crop_dropout):
        return fit_on(start, split.training, sets, recipe=recipe, context=context)


def _fit_images(
    start: Checkpoint, images: Images, sets: dict[str, Manifest], *, recipe: Recipe, context: RunContext
) -> Fitted:
    """Draw new random views in every epoch and take them through the tower: the recipe as published."""
    detector, pixel = start.detector, start.config.pixel

    def validate() -> dict[str, Any]:
        scored = {
            name: score_images(detector, images, pixel=pixel, recipe=recipe, context=context)
            for name, images in sets.items()
        }
        return judge(scored, context.run)

    view = FeatureSpec.of(start, precision=recipe.precision, view=recipe.train_view).make_view()
    rank, parts = rank_of(context.accelerator), context.stream_parts
    batches = image_batches(images, view, recipe, rank, stream_parts=parts)
    model = LogitModel(detector, lambda pixels_BCHW: detector(pixels_BCHW).logit_B)
    with _training_tower(detector.tower, recipe):
        return fit(model, batches, recipe=recipe, context=context, validate=validate if sets else None)


@contextmanager
def _training_tower(tower: VisionTower, recipe: Recipe) -> Iterator[None]:
    """Run the tower as the recipe wants it inside the `with` block."""
    dtype = dtype_of(recipe.precision)
    cast = nullcontext() if recipe.precision == "fp32" else frozen_linears_in(tower, dtype)
    options = tower.training_options(
        patch_dropout=recipe.patch_dropout,
        activation_checkpointing=bool(recipe.activation_checkpointing),
        compile=bool(recipe.compile),
    )
    with cast, options:
        yield


def _fit_features(
    start: Checkpoint, images: Manifest, sets: dict[str, Manifest], *, recipe: Recipe, context: RunContext
) -> Fitted:
    """Fit the head alone: `feature_views` random views of each image go through the frozen tower just once."""
    detector = start.detector
    spec = FeatureSpec.of(start, precision=recipe.precision)
    in_training = [replace(spec, view=recipe.train_view, number=number) for number in range(recipe.feature_views)]
    in_validation = replace(spec, pixel=validation_pixels(spec.pixel, recipe))
    views, training = load_features(detector, images, in_training, recipe=recipe, context=context)
    require_both_classes(training)
    tables = {
        name: load_features(detector, each, [in_validation], recipe=recipe, context=context)
        for name, each in sets.items()
    }

    def validate() -> dict[str, Any]:
        scored = {
            name: score_features(detector, table, read, context) for name, ((table,), read) in tables.items()
        }
        return judge(scored, context.run)

    batches = feature_batches(views, training, recipe, rank_of(context.accelerator))
    model = LogitModel(detector, lambda feature_BD: detector.head(feature_BD).logit_B)
    return fit(model, batches, recipe=recipe, context=context, validate=validate if sets else None)


def load_features(
    detector: TowerHead,
    images: Manifest,
    specs: list[FeatureSpec],
    *,
    recipe: Recipe,
    context: RunContext,
) -> tuple[list[FeatureTable], Manifest]:
    """Return a table of features for each spec, and the images that are its rows; unreadable ones are named.

    What is not in the cache yet goes through the tower. Raises ValueError when too many images are unreadable.
    """
    from accelerate.utils import gather_object

    extractor = FeatureExtractor(
        detector.eval().feature,
        batch_size=max(1, recipe.batch_size // context.accelerator.num_processes),
        num_workers=recipe.num_workers,
        device=str(context.accelerator.device),
        rank=rank_of(context.accelerator),
        gather=gather_object,
    )
    stores = [FeatureStore.open(spec, context.feature_cache) for spec in specs]
    tables, read, failures = extractor.tables(images, stores, desc="features")
    for failure in failures:
        name_unreadable(failure.record.uri, failure.reason, context.run)
    check_unreadable(len(failures), seen=len(images), recipe=recipe, run=context.run)
    return tables, read
