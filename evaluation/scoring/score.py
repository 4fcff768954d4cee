"""Detectors and a job -> scores: every image is decoded once for all detectors and all degradations.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from data.images.degrade import parse_degradation
from data.images.variants import VariantBatch, VariantDataset
from data.images.views import TensorView, eval_tensor_view
from data.loading.lists import read_lists
from evaluation.scoring.job import CLEAN, Job, JobFolder
from evaluation.tables.scores import DetectorEntry
from files.checksum import sha256_of
from gapl.pixels import PixelSpec
from models.casting import cast_frozen_linears
from models.detector import Output, TowerHead
from models.precision import dtype_of
from models.run import run_detector
from models.weights.checkpoint import load_checkpoint

FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class ScoredModel:
    """A detector that scores images.

    name    of the detector in its rows
    about   what the job and the table say of it
    view    what the detector sees of an image, made as `pixel` says
    notice  what to know of its verdicts, or nothing
    """

    name: str
    about: DetectorEntry
    detector: TowerHead
    pixel: PixelSpec
    view: TensorView
    notice: str

    @classmethod
    def load(cls, name: str, path: str, file: Path, *, allow_tiny: bool) -> ScoredModel:
        """Load the detector file that `find_model(path)` found. Raises ValueError as load_checkpoint does."""
        checkpoint = load_checkpoint(file, allow_tiny=allow_tiny)
        about = DetectorEntry(
            path=path,
            sha256=sha256_of(file),
            threshold=checkpoint.threshold,
            calibration=checkpoint.calibration,
            prototypes=checkpoint.provenance.get("prototypes", {}),
        )
        pixel = checkpoint.config.pixel
        return cls(name, about, checkpoint.detector, pixel, eval_tensor_view(pixel), checkpoint.notice)

    def place(self, *, device: str, precision: str) -> None:
        """Move the detector to a device, with the tower's frozen weights in the type of the precision."""
        self.detector.requires_grad_(False).to(device)
        if precision != "fp32":
            cast_frozen_linears(self.detector.tower, dtype_of(precision))

    def run(self, pixels_BCHW: Tensor, *, device: str, precision: str) -> Output:
        """Run the detector on a batch, as run_detector does; a ValueError names the detector's file."""
        try:
            return run_detector(self.detector, pixels_BCHW, device=device, precision=precision)
        except ValueError as error:
            raise ValueError(f"{self.about.path}: {error}") from error


def score_job(
    folder: JobFolder,
    models: Sequence[ScoredModel],
    *,
    device: str,
    num_workers: int,
    part: int = 0,
    num_parts: int = 1,
    quiet: bool = False,
) -> None:
    """Scores what is missing of part `part` (from 0) of `num_parts`; each is a stretch of the images."""
    job = folder.job
    mine = range(job.num_batches * part // num_parts, job.num_batches * (part + 1) // num_parts)
    missing = [number for number in folder.missing() if number in mine]
    total = sum(len(job.images_of(number)) for number in mine)
    todo = sum(len(job.images_of(number)) for number in missing)
    rows: list[dict[str, Any]] = []
    flushed = time.monotonic()
    with tqdm(
        total=total, initial=total - todo, desc="score", unit="image", dynamic_ncols=True, disable=quiet
    ) as bar:
        batches = load_batches(job, missing, models, num_workers=num_workers)
        for number, batch in zip(missing, batches, strict=True):
            rows += score_batch(job, number, batch, models, device=device)
            if time.monotonic() - flushed > FLUSH_SECONDS:
                folder.write(rows)
                rows, flushed = [], time.monotonic()
            bar.update(len(batch.images))
        if rows:
            folder.write(rows)


def load_batches(
    job: Job, numbers: Sequence[int], models: Sequence[ScoredModel], *, num_workers: int
) -> Iterator[VariantBatch]:
    """Yield the batches of these ascending numbers, decoded, degraded and viewed in worker processes."""
    degradations = {name: None if name == CLEAN else parse_degradation(name) for name in job.degradations}
    views = list({model.pixel: model.view for model in models}.values())
    lists = ([job.images[position].record for position in job.images_of(number)] for number in numbers)
    return read_lists(lists, VariantDataset(degradations, views), num_workers=num_workers)


def score_batch(
    job: Job, number: int, batch: VariantBatch, models: Sequence[ScoredModel], *, device: str
) -> list[dict[str, Any]]:
    """Rows of a batch: image by image, every model and degradation.

    Raises ValueError when a detector gives no number.
    """
    position_of_view = {pixel: i for i, pixel in enumerate(dict.fromkeys(model.pixel for model in models))}
    readable = [i for i, seen in enumerate(batch.images) if not seen.error]
    computed: dict[tuple[int, str, str], dict[str, Any]] = {}
    for degradation, pixels in batch.pixels.items():
        on_device = [view_BCHW.to(device, non_blocking=True) for view_BCHW in pixels]
        for model in models:
            pixels_BCHW = on_device[position_of_view[model.pixel]]
            output = model.run(pixels_BCHW, device=device, precision=job.precision)
            extra: dict[str, list[list[float]]] = {}
            if job.details and degradation == CLEAN:
                extra["embedding"] = output.embedding_BE.float().cpu().tolist()
                if output.attention_BP is not None:
                    extra["attention"] = output.attention_BP.float().cpu().tolist()
            for row, (i, logit) in enumerate(zip(readable, output.logit_B.tolist(), strict=True)):
                computed[i, model.name, degradation] = {
                    "logit": logit,
                    **{name: values[row] for name, values in extra.items()},
                }
    nothing = {"logit": math.nan}
    return [
        {
            "batch": number,
            "image": position,
            "model": model.name,
            "degradation": degradation,
            **asdict(seen),
            **computed.get((i, model.name, degradation), nothing),
        }
        for i, (position, seen) in enumerate(zip(job.images_of(number), batch.images, strict=True))
        for model in models
        for degradation in job.degradations
    ]
