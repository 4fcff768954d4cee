"""A detector and batches -> a row of scores for each image. The only place with inference mode.

Shape suffix: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from data.loading.batches import Batch
from models.detector import TowerHead


@dataclass(frozen=True)
class ScoreRow:
    """One scored image. score is P(fake); logit and score are NaN and `error` says why if it was unreadable."""

    uri: str
    label: int
    generator: str
    logit: float
    score: float
    width: int
    height: int
    error: str = ""


Gather = Callable[[list["ScoreRow"]], list["ScoreRow"]]


@torch.inference_mode()
def predict(
    detector: TowerHead,
    batches: Iterable[Batch],
    *,
    device: str,
    total: int,
    desc: str = "score",
    gather: Gather | None = None,
    quiet: bool = False,
) -> list[ScoreRow]:
    """Scores every image; those that cannot be read are rows with an error.

    gather   joins the rows of several processes that have scored a part each; then the order is that of the uris
    """
    detector.eval()
    rows: list[ScoreRow] = []
    with tqdm(total=total, desc=desc, unit="image", dynamic_ncols=True, disable=quiet) as progress:
        for batch in batches:
            rows += _score(detector, batch, device)
            progress.update(len(batch.records) + len(batch.failures))
    return rows if gather is None else sorted(gather(rows), key=lambda row: row.uri)


def _score(detector: TowerHead, batch: Batch, device: str) -> list[ScoreRow]:
    rows = []
    if batch.records:
        logit_B = detector(batch.pixels_BCHW.to(device)).logit_B.double().cpu()
        scored = zip(batch.records, batch.sizes, logit_B.tolist(), logit_B.sigmoid().tolist(), strict=True)
        for record, (width, height), logit, score in scored:
            rows.append(ScoreRow(record.uri, int(record.label), record.generator, logit, score, width, height))
    for failure in batch.failures:
        record = failure.record
        rows.append(
            ScoreRow(record.uri, int(record.label), record.generator, math.nan, math.nan, 0, 0, failure.reason)
        )
    return rows
