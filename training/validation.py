"""Score the validation sets of a run, and judge the scores.

Shape suffixes: B batch, D tower width, N images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.holdout import Split
from data.images.views import eval_tensor_view
from data.loading.batches import Batch
from data.loading.epochs import ordered_batches
from data.records import Manifest, Record
from evaluation.metrics import Metrics, compute_metrics
from features.store import FeatureTable
from gapl.calibration import score_of
from gapl.labels import Label
from gapl.pixels import PixelSpec
from models.detector import Output, TowerHead
from models.run import run_detector
from training.processes import rank_of
from training.recipe import Recipe
from training.runs import Run, RunContext

THRESHOLD = 0.5


@dataclass(frozen=True)
class ScoreRow:
    """One scored image. If it could not be read, logit and score are NaN and `error` says why.

    score          P(fake)
    width, height  in pixels; 0 if they are not known
    """

    uri: str
    label: int
    generator: str
    logit: float
    score: float
    width: int = 0
    height: int = 0
    error: str = ""


def validation_sets(split: Split[Any]) -> dict[str, Manifest]:
    """Return the validation sets that have images, by name. Rows of shards are copied, to be read in any order."""
    sets = {"random": split.random, "heldout": split.heldout}
    return {name: images.local() for name, images in sets.items() if len(images)}


def validation_pixels(pixel: PixelSpec, recipe: Recipe) -> PixelSpec:
    """Return how the pixels of validation are made."""
    return replace(pixel, resize_px=recipe.val_resize_px or pixel.resize_px)


FAST = "_fast"  # ends the name of a set that is judged by the whole images alone


def score_images(
    detector: TowerHead, images: Manifest, *, pixel: PixelSpec, recipe: Recipe, context: RunContext
) -> dict[str, list[ScoreRow]]:
    """Score all images, shared by the processes. Every process gets all rows, in the order of the uris.

    The rows are under "", and those of the whole images alone under FAST, where the detector has that view.
    """
    from accelerate.utils import gather_object

    accelerator = context.accelerator
    world_size, device = accelerator.num_processes, str(accelerator.device)
    batches = ordered_batches(
        images,
        eval_tensor_view(validation_pixels(pixel, recipe)),
        batch_size=max(1, recipe.batch_size // (world_size * recipe.accumulate)),
        num_workers=recipe.num_workers,
        rank=rank_of(accelerator),
    )
    detector.eval()
    own: list[dict[str, ScoreRow]] = []
    hidden = not accelerator.is_main_process
    total = -(-len(images) // world_size)
    with tqdm(total=total, desc="validate", unit="image", dynamic_ncols=True, disable=hidden) as progress:
        for batch in batches:
            own += score_batch(detector, batch, device=device, precision=recipe.precision)
            progress.update(len(batch.records) + len(batch.failures))
    rows = sorted(gather_object(own), key=lambda row: row[""].uri)
    for row in rows:
        if row[""].error:
            name_unreadable(row[""].uri, row[""].error, context.run)
    return {ending: [row[ending] for row in rows] for ending in _endings(detector)}


def score_batch(detector: TowerHead, batch: Batch, *, device: str, precision: str) -> list[dict[str, ScoreRow]]:
    """Return the rows of each image of the batch; those that could not be read come last, with an error."""
    rows: list[dict[str, ScoreRow]] = []
    if batch.records:
        output = run_detector(
            lambda pixels: _judge(detector, detector.feature(pixels)),
            batch.pixels_BCHW,
            device=device,
            precision=precision,
        )
        rows = _score_rows(detector, batch.records, output.logit_B, batch.sizes)
    for record, reason in ((failure.record, failure.reason) for failure in batch.failures):
        row = ScoreRow(record.uri, int(record.label), record.generator, math.nan, math.nan, error=reason)
        rows.append(dict.fromkeys(_endings(detector), row))
    return rows


def _endings(detector: TowerHead) -> tuple[str, ...]:
    return ("", FAST) if detector.whole_layers else ("",)


def _judge(detector: TowerHead, feature_BD: Tensor) -> Output:
    """Judge the images, and then, where the detector can, once more by the whole images alone."""
    if not detector.whole_layers:
        return detector.head(feature_BD)
    return detector.head(torch.cat([feature_BD, detector.without_crops(feature_BD)]))


def score_features(
    detector: TowerHead, table: FeatureTable, images: Manifest, context: RunContext
) -> dict[str, list[ScoreRow]]:
    """Score the images whose features the table has, as score_images does. Every process scores all of them."""
    detector.eval()
    feature_ND = table[torch.arange(len(images))]
    output = run_detector(partial(_judge, detector), feature_ND, device=str(context.accelerator.device))
    rows = _score_rows(detector, images.records, output.logit_B, [(0, 0)] * len(images))
    return {ending: [row[ending] for row in rows] for ending in _endings(detector)}


def _score_rows(
    detector: TowerHead, records: Sequence[Record], logits: Tensor, sizes: Sequence[tuple[int, int]]
) -> list[dict[str, ScoreRow]]:
    """Return the rows of each image, given the logits of all images by all views, and then by the whole alone."""
    endings = _endings(detector)
    scored = zip(records, logits.view(len(endings), -1).T.tolist(), sizes, strict=True)
    return [
        {
            ending: ScoreRow(record.uri, int(record.label), record.generator, logit, float(score_of(logit)), *size)
            for ending, logit in zip(endings, of_image, strict=True)
        }
        for record, of_image, size in scored
    ]


def judge(scored: Mapping[str, Mapping[str, list[ScoreRow]]], run: Run) -> dict[str, Any]:
    """Return the metrics of each validation set, and the accuracy of each source in it. The scores are written."""
    named = {f"{name}{ending}": rows for name, of_set in scored.items() for ending, rows in of_set.items()}
    for name, rows in named.items():
        run.write_scores(name, [asdict(row) for row in rows])
    return {name: asdict(metrics_of(rows)) | {"sources": rates_by_source(rows)} for name, rows in named.items()}


def metrics_of(rows: Iterable[ScoreRow]) -> Metrics:
    """Return the metrics of the rows that have a score."""
    read = [row for row in rows if not row.error]
    labels_N = np.array([row.label for row in read], dtype=int)
    scores_N = np.array([row.score for row in read], dtype=float)
    logits_N = np.array([row.logit for row in read], dtype=float)
    return compute_metrics(labels_N, scores_N, threshold=THRESHOLD, logits_N=logits_N)


def rates_by_source(rows: Iterable[ScoreRow]) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each source of "real" and "fake" the number of its images, and the share that is called right."""
    right: dict[str, dict[str, list[bool]]] = {"real": {}, "fake": {}}
    for row in sorted(rows, key=lambda row: row.generator):
        if not row.error:
            of_class = right[Label(row.label).word]
            of_class.setdefault(row.generator, []).append((row.score >= THRESHOLD) == bool(row.label))
    return {
        kind: {name: {"images": len(each), "accuracy": sum(each) / len(each)} for name, each in sources.items()}
        for kind, sources in right.items()
    }


def name_unreadable(uri: str, reason: str, run: Run) -> None:
    """Name an image that is left out, once, in the run's unreadable.csv and on the terminal."""
    if run.log_unreadable(uri, reason):
        tqdm.write(f"unreadable, left out: {uri}: {reason}")
