"""Score the images of a job: each is decoded once for all detectors and all degradations.

Shape suffixes: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.images.degrade import CLEAN, parse_degradation
from data.images.variants import VariantBatch, VariantDataset
from data.loading.lists import read_lists
from evaluation.scoring.folder import JobFolder
from evaluation.scoring.job import Job
from evaluation.tables.scores import BY_WHOLE, DetectorEntry
from gapl.pixels import PixelSpec
from models.detector import Output, TowerHead
from models.exported import ExportedDetector, load_detector, sha256_of_detector
from models.run import place_detector, run_detector

FLUSH_SECONDS = 2.0
BATCH_SIZE = 32
BATCH_BYTES = 400_000_000  # of pixels; with two workers, up to five batches are in memory


@dataclass(frozen=True)
class ScoredModel:
    """A detector that scores images.

    name    of the detector in its rows
    about   what the job and the table say of it
    pixel   how an image becomes the detector's pixels
    notice  what to know of its verdicts, or nothing
    """

    name: str
    about: DetectorEntry
    detector: TowerHead | ExportedDetector
    pixel: PixelSpec
    notice: str

    @classmethod
    def load(cls, name: str, path: str, file: Path, *, views: str, allow_tiny: bool) -> ScoredModel:
        """Load the detector file that `find_model(path)` found. Raises ValueError as load_detector does."""
        checkpoint = load_detector(file, views=views, allow_tiny=allow_tiny)
        about = DetectorEntry(
            path=path,
            sha256=sha256_of_detector(file),
            views=views,
            threshold=checkpoint.threshold,
            calibration=checkpoint.calibration,
            prototypes=checkpoint.provenance.get("prototypes", {}),
        )
        return cls(name, about, checkpoint.detector, checkpoint.config.pixel, checkpoint.notice)

    def place(self, *, device: str, precision: str) -> None:
        """Move the detector to a device, with the tower's frozen weights in the type of the precision.

        Raises ValueError for an exported detector in another precision than its own.
        """
        if precision != "fp32" and isinstance(self.detector, ExportedDetector):
            raise ValueError(f"{self.about.path}: an exported file has its own precision; leave out --precision")
        place_detector(self.detector, device=device, precision=precision)

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
    """Score what is missing of part `part` (from 0) of `num_parts`; a part is a stretch of the images."""
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


def fitting_batch_size(models: Sequence[ScoredModel], *, num_degradations: int) -> int:
    """Return BATCH_SIZE, or as many images as BATCH_BYTES hold in all degradations and views; 1 at least."""
    values = sum(3 * spec.num_views * spec.size_px**2 for spec in {model.pixel for model in models})
    return max(1, min(BATCH_SIZE, BATCH_BYTES // (num_degradations * values * torch.float32.itemsize)))


def load_batches(
    job: Job, numbers: Sequence[int], models: Sequence[ScoredModel], *, num_workers: int
) -> Iterator[VariantBatch]:
    """Yield the batches of these ascending numbers, decoded, degraded and viewed in worker processes."""
    degradations = {name: None if name == CLEAN else parse_degradation(name) for name in job.degradations}
    specs = dict.fromkeys(model.pixel for model in models)
    lists = ([job.images[position].record for position in job.images_of(number)] for number in numbers)
    return read_lists(lists, VariantDataset(degradations, specs), num_workers=num_workers)


def score_batch(
    job: Job, number: int, batch: VariantBatch, models: Sequence[ScoredModel], *, device: str
) -> list[dict[str, Any]]:
    """Return the rows of a batch: image by image, every detector and degradation.

    Raises ValueError when a detector gives no number.
    """
    results: dict[tuple[str, str], Iterator[dict[str, Any]]] = {}  # of the images that could be read, in order
    for degradation, of_spec in batch.pixels.items():
        on_device = {spec: pixels_BCHW.to(device, non_blocking=True) for spec, pixels_BCHW in of_spec.items()}
        for model in models:
            output = model.run(on_device[model.pixel], device=device, precision=job.precision)
            results[model.name, degradation] = _results(output, details=job.details and degradation == CLEAN)
    return [
        {
            "batch": number,
            "image": position,
            "model": model.name,
            "degradation": degradation,
            **asdict(info),
            **({"logit": math.nan} if info.error else next(results[model.name, degradation])),
        }
        for position, info in zip(job.images_of(number), batch.images, strict=True)
        for model in models
        for degradation in job.degradations
    ]


def _results(output: Output, *, details: bool) -> Iterator[dict[str, Any]]:
    """Yield what the row of each image says of it: its logit and, with `details`, its embedding and attention."""
    columns = {"logit": output.logit_B}
    if output.by_whole_B is not None:
        columns[BY_WHOLE] = output.by_whole_B
    if details:
        columns["embedding"] = output.embedding_BE.float()
        if output.attention_BP is not None:
            columns["attention"] = output.attention_BP.float()
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))
