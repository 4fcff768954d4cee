"""How a stage is fitted: on images, anew at every epoch, or, in stage 1, on features of the frozen tower.

Shape suffixes: B batch, C channels, H, W pixels, D tower width, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from data.holdout import Split
from data.images.augment import train_view
from data.images.views import TensorView, eval_tensor_view
from data.loading.batches import Batch
from data.loading.epochs import batches_per_epoch, epoch_order, ordered_batches, train_batches
from data.loading.plan import BatchPlan
from data.records import Manifest, require_both_classes
from data.seeds import draw_seed
from data.shards.index import ShardIndex
from data.shards.order import Order
from data.shards.stream import stream_batches
from evaluation.metrics import metrics_of, rates_by_source
from features.store import FeatureExtractor, FeatureSpec, FeatureStore, FeatureTable, feature_batches
from gapl.pixels import PixelSpec
from models.casting import frozen_linears_in
from models.detector import TowerHead
from models.precision import autocast, dtype_of
from training.loop import Fitted, Objective, Piece, Saving, check_unreadable, fit
from training.predict import ScoreRow, predict
from training.processes import rank_of
from training.recipe import Recipe
from training.runs import Run

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Bench:
    """Where a detector is fitted: the processes, the folder, and what does not change the result.

    backbone   fingerprint of the tower, for the cache of features
    parts      of the stream of shards; the order of its images depends on it
    """

    accelerator: Accelerator
    run: Run
    backbone: str
    feature_cache: Path
    parts: int
    saving: Saving
    profile: bool = False


def fit_images(detector: TowerHead, pixel: PixelSpec, split: Split[Any], recipe: Recipe, bench: Bench) -> Fitted:
    """Every epoch draws new random views and takes them through the tower: the recipe as published."""
    view = train_view(recipe.train_view, size_px=pixel.size_px, mean=pixel.mean, std=pixel.std)
    with bench.accelerator.main_process_first():  # which makes the copies
        parts = {name: local_copy(images) for name, images in validation_parts(split).items()}

    def validate() -> dict[str, Any]:
        scored = {name: _score(detector, part, pixel, recipe, bench) for name, part in parts.items()}
        return judge(scored, bench.run)

    num_batches = batches_per_epoch(len(split.training), recipe.batch_size)
    batches = image_pieces(split.training, view, recipe, bench, num_batches=num_batches)
    objective = Objective(detector, lambda pixels_BCHW: detector(pixels_BCHW).logit_B)
    with ExitStack() as stack:
        if recipe.precision != "fp32":
            stack.enter_context(frozen_linears_in(detector.tower, dtype_of(recipe.precision)))
        stack.enter_context(
            detector.tower.training_options(
                patch_dropout=recipe.patch_dropout,
                activation_checkpointing=bool(recipe.activation_checkpointing),
                compile=bool(recipe.compile),
            )
        )
        return _fit(objective, batches, len(split.training), validate if parts else None, recipe, bench)


def image_pieces(
    images: Manifest | ShardIndex, view: TensorView, recipe: Recipe, bench: Bench, *, num_batches: int
) -> Callable[[int, int], Iterable[Piece]]:
    """(epoch, first batch) -> this process's pieces of the batches from there to the end of the epoch."""
    plan = batch_plan(recipe, bench)
    if isinstance(images, Manifest):
        return lambda epoch, first: map(
            _piece,
            train_batches(images, view, plan, sampling=recipe.sampling, epoch=epoch, first_batch=first),
        )
    stream: Iterator[Batch] = iter(())
    position = -1

    def streamed(epoch: int, first: int) -> Iterator[Piece]:
        """The stream runs on from one epoch to the next: to open it anew is to read up to where it was."""
        nonlocal stream, position
        step = epoch * num_batches + first
        if step != position:
            stream = stream_batches(images, view, plan, Order(recipe.balance, bench.parts), first_step=step)
        position = (epoch + 1) * num_batches
        return map(_piece, islice(stream, (num_batches - first) * recipe.accumulate))

    return streamed


def batch_plan(recipe: Recipe, bench: Bench) -> BatchPlan:
    """Return how this rank takes its part of the recipe's batches."""
    return BatchPlan(
        recipe.batch_size,
        micro_batches=recipe.accumulate,
        rank=rank_of(bench.accelerator),
        seed=recipe.seed,
        num_workers=recipe.num_workers,
    )


def _piece(batch: Batch) -> Piece:
    return batch.pixels_BCHW, batch.labels_B, batch.failures


def fit_features(
    detector: TowerHead, pixel: PixelSpec, split: Split[Manifest], recipe: Recipe, bench: Bench
) -> Fitted:
    """Stage 1 on features: the tower is frozen, so `feature_views` random views go through it just once."""
    accelerator = bench.accelerator
    common: dict[str, Any] = {
        "backbone": bench.backbone,
        "width": detector.feature_width,
        "layers": detector.feature_layers,
        "precision": recipe.precision,
    }
    in_training = [
        FeatureSpec(pixel=pixel, view=recipe.train_view, number=number, **common)
        for number in range(recipe.feature_views)
    ]
    in_validation = FeatureSpec(pixel=validation_pixel(pixel, recipe), **common)
    views, training = compute(detector, split.training, in_training, recipe, bench, desc="features")
    require_both_classes(training)
    labels_N = torch.tensor([float(record.label) for record in training])
    parts = {}
    for name, part in validation_parts(split).items():
        tables, read = compute(
            detector, part, [in_validation], recipe, bench, desc=f"features, validation, {name}"
        )
        parts[name] = (tables[0], read)

    def batches(epoch: int, first: int) -> Iterator[Piece]:
        order = epoch_order(training, sampling=recipe.sampling, seed=draw_seed(recipe.seed, epoch))
        pieces = feature_batches(
            views[epoch % recipe.feature_views],
            labels_N,
            order,
            batch_plan(recipe, bench),
            first_batch=first,
        )
        for feature_BD, labels_B in pieces:
            yield feature_BD, labels_B, []

    def validate() -> dict[str, Any]:
        scored = {name: score_features(detector, *part, accelerator) for name, part in parts.items()}
        return judge(scored, bench.run)

    objective = Objective(detector, lambda feature_BD: detector.head(feature_BD).logit_B)
    return _fit(objective, batches, len(training), validate if parts else None, recipe, bench)


def compute(
    detector: TowerHead, manifest: Manifest, specs: list[FeatureSpec], recipe: Recipe, bench: Bench, *, desc: str
) -> tuple[list[FeatureTable], Manifest]:
    """A table of features for each spec, and the images that are their rows; unreadable ones are named."""
    from accelerate.utils import gather_object

    device = bench.accelerator.device
    extractor = FeatureExtractor(
        detector.eval().feature,
        batch_size=max(1, recipe.batch_size // bench.accelerator.num_processes),
        num_workers=recipe.num_workers,
        device=str(device),
        context=lambda: autocast(device.type, recipe.precision),
        rank=rank_of(bench.accelerator),
        gather=gather_object,
    )
    stores = [FeatureStore(spec, bench.feature_cache) for spec in specs]
    tables, read, failures = extractor.tables(manifest, stores, desc=desc)
    for failure in failures:
        name_unreadable(failure.record.uri, failure.reason, bench.run)
    check_unreadable(len(failures), met=len(manifest), recipe=recipe, run=bench.run)
    return tables, read


@torch.inference_mode()
def score_features(
    detector: TowerHead, table: FeatureTable, manifest: Manifest, accelerator: Accelerator
) -> list[ScoreRow]:
    """Rows of all images, in every process: the head takes no time."""
    detector.eval()
    feature_ND = table[torch.arange(len(manifest))]
    logit_N = detector.head(feature_ND.to(accelerator.device)).logit_B.double().cpu()
    scored = zip(manifest, logit_N.tolist(), logit_N.sigmoid().tolist(), strict=True)
    return [ScoreRow(r.uri, int(r.label), r.generator, logit, score, 0, 0) for r, logit, score in scored]


def _fit(
    objective: Objective,
    batches: Callable[[int, int], Iterable[Piece]],
    num_images: int,
    validate: Callable[[], dict[str, Any]] | None,
    recipe: Recipe,
    bench: Bench,
) -> Fitted:
    processes = bench.accelerator.num_processes * recipe.accumulate
    return fit(
        objective,
        batches=batches,
        num_batches=batches_per_epoch(num_images, recipe.batch_size),
        images_a_batch=min(recipe.batch_size, num_images) // processes * processes,
        validate=validate,
        recipe=recipe,
        run=bench.run,
        accelerator=bench.accelerator,
        saving=bench.saving,
        profile=bench.profile,
    )


# ---------------------------------------------------------------------------------------------------------
# Validation


def validation_parts(split: Split[Any]) -> dict[str, Any]:
    """Those that have images."""
    return {name: part for name, part in (("random", split.random), ("heldout", split.heldout)) if len(part)}


def local_copy(images: Manifest | ShardIndex) -> Manifest:
    """Of rows in shards, which validation reads again and again."""
    return images.local()


def validation_pixel(pixel: PixelSpec, recipe: Recipe) -> PixelSpec:
    return replace(pixel, resize_px=recipe.val_resize_px or pixel.resize_px)


def _score(detector: TowerHead, part: Manifest, pixel: PixelSpec, recipe: Recipe, bench: Bench) -> list[ScoreRow]:
    """Rows of all images, in every process."""
    from accelerate.utils import gather_object

    accelerator = bench.accelerator
    batches = ordered_batches(
        part,
        eval_tensor_view(validation_pixel(pixel, recipe)),
        batch_size=max(1, recipe.batch_size // (accelerator.num_processes * recipe.accumulate)),
        num_workers=recipe.num_workers,
        rank=rank_of(accelerator),
    )
    with autocast(accelerator.device.type, recipe.precision):
        rows = predict(
            detector,
            batches,
            device=str(accelerator.device),
            total=-(-len(part) // accelerator.num_processes),
            desc="validate",
            gather=gather_object,
            quiet=not accelerator.is_main_process,
        )
    for row in rows:
        if row.error:
            name_unreadable(row.uri, row.error, bench.run)
    return rows


def judge(scored: dict[str, list[ScoreRow]], run: Run) -> dict[str, Any]:
    """Metrics of each part, with the accuracy of each generator and photo source in it. The scores are kept."""
    for name, rows in scored.items():
        run.write_scores(name, [asdict(row) for row in rows])
    return {name: asdict(metrics_of(rows)) | {"sources": rates_by_source(rows)} for name, rows in scored.items()}


def name_unreadable(uri: str, reason: str, run: Run) -> None:
    """Once each, in the run's unreadable.csv and on the terminal."""
    if run.log_unreadable(uri, reason):
        tqdm.write(f"unreadable, left out: {uri}: {reason}")
