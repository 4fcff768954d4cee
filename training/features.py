"""Features of a frozen tower, computed once, and batches of them.

Shape suffixes: B batch, D tower width, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from data.loaders import Batch
from data.records import Record


@torch.inference_mode()
def compute_features(
    feature: Callable[[Tensor], Tensor], batches: Iterable[Batch], *, device: str, total: int, desc: str
) -> tuple[Tensor, list[Record]]:
    """(features_ND, records) of the images that could be read, in the order of the batches, on the CPU."""
    features, records = [], []
    with tqdm(total=total, desc=desc, unit="image", dynamic_ncols=True) as progress:
        for batch in batches:
            progress.update(len(batch.records) + len(batch.failures))
            if batch.records:
                features.append(feature(batch.pixels_BCHW.to(device)).float().cpu())
                records += batch.records
    if not features:
        raise ValueError("none of the images could be read")
    return torch.cat(features), records


def feature_batches(
    features_ND: Tensor, labels_N: Tensor, order: list[int], *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(feature_BD, labels_B) in the given order; a last short batch is left out unless it is the only one."""
    size = min(batch_size, len(order))
    for start in range(0, len(order) - size + 1, size):
        chosen = torch.tensor(order[start : start + size])
        yield features_ND[chosen].clone(), labels_N[chosen]
