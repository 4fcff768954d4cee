"""Run a frozen tower over the images whose features no store has yet.

Shape suffixes: B batch, C channels, H, W pixels, D tower width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.loading.batches import Failure, SampleDataset
from data.loading.loader import batch_loader
from data.loading.plan import ALONE, Rank
from data.loading.samples import Sample
from data.records import Manifest
from features.store import FeatureStore, FeatureTable
from models.precision import autocast

HASH_BATCH = 64


def _itself(items: list[Any]) -> list[Any]:
    """Gather from a single process: it has everything."""
    return items


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen tower and how it is run. Only images that are in no store yet go through it.

    feature  pixels_BCHW -> feature_BD
    rank     of this process among those that work together; all have the same arguments and get the same result
    gather   joins the lists of all processes into one, in every process; it waits until all have called it
    """

    feature: Callable[[Tensor], Tensor]
    batch_size: int
    num_workers: int
    device: str = "cpu"
    rank: Rank = ALONE
    gather: Callable[[list[Any]], list[Any]] = _itself

    def tables(
        self, manifest: Manifest, stores: Sequence[FeatureStore], *, desc: str
    ) -> tuple[list[FeatureTable], Manifest, list[Failure]]:
        """Return a table for each store, the images that are its rows, and the images that could not be read.

        Raises ValueError when no image could be read, OSError when a store cannot be written.
        """
        sha256_of, reason_of = self._hash(manifest, desc=f"{desc}: sha256")
        for number, store in enumerate(stores, 1):
            # Of images with the same bytes, the first. All processes agree on them before one adds to the store.
            missing = {sha256: i for i, sha256 in reversed(sha256_of.items()) if sha256 not in store}
            chosen = sorted(set(self.gather(list(missing.values()))))[self.rank.index :: self.rank.world_size]
            title = f"{desc}: view {number}" if len(stores) > 1 else desc
            broken = dict(self.gather(self._fill(store, manifest, {i: sha256_of[i] for i in chosen}, desc=title)))
            store.load()
            reason_of |= {i: broken[sha256] for i, sha256 in sha256_of.items() if sha256 in broken}
            sha256_of = {i: sha256 for i, sha256 in sha256_of.items() if sha256 not in broken}
        if not sha256_of:
            raise ValueError("none of the images could be read")
        tables = [store.table(list(sha256_of.values())) for store in stores]
        read = Manifest(manifest.name, tuple(manifest.records[i] for i in sha256_of))
        return tables, read, [Failure(manifest.records[i], reason_of[i]) for i in sorted(reason_of)]

    def _hash(self, manifest: Manifest, *, desc: str) -> tuple[dict[int, bytes], dict[int, str]]:
        """Return the sha256 of each image, and why others cannot be read, by ascending index in the manifest."""
        indices = range(self.rank.index, len(manifest), self.rank.world_size)
        hashed: list[tuple[int, bytes | None, str]] = []
        for batch in self._load(_HashDataset(manifest), indices, HASH_BATCH, desc=desc):
            hashed += batch
        hashed = sorted(self.gather(hashed))
        sha256_of = {i: sha256 for i, sha256, _ in hashed if sha256 is not None}
        return sha256_of, {i: reason for i, sha256, reason in hashed if sha256 is None}

    @torch.inference_mode()
    def _fill(
        self, store: FeatureStore, manifest: Manifest, sha256_of: dict[int, bytes], *, desc: str
    ) -> list[tuple[bytes, str]]:
        """Add these images to the store. Return (sha256, reason) of those that cannot be decoded."""
        samples = [Sample(manifest.records[i], store.spec.view_seed(sha256)) for i, sha256 in sha256_of.items()]
        sha256_at = {manifest.records[i].uri: sha256 for i, sha256 in sha256_of.items()}
        dataset = SampleDataset(store.spec.make_view(), replace_unreadable=False)
        failed = []
        for batch in self._load(dataset, samples, self.batch_size, desc=desc):
            failed += [(sha256_at[failure.record.uri], failure.reason) for failure in batch.failures]
            if batch.records:
                with autocast(torch.device(self.device).type, store.spec.precision):
                    feature_BD = self.feature(batch.pixels_BCHW.to(self.device))
                store.add([sha256_at[record.uri] for record in batch.records], feature_BD)
        store.flush()
        return failed

    def _load(self, dataset: Dataset[Any], items: Sequence[Any], batch_size: int, *, desc: str) -> Iterator[Any]:
        """Yield what the dataset makes of `batch_size` items at a time, in worker processes."""
        batches = [list(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
        if not batches:
            return
        loader = batch_loader(dataset, batches, num_workers=min(self.num_workers, len(batches)))
        hidden = self.rank.index > 0
        with tqdm(total=len(items), desc=desc, unit="image", dynamic_ncols=True, disable=hidden) as progress:
            for items_B, batch in zip(batches, loader, strict=True):
                yield batch
                progress.update(len(items_B))


class _HashDataset(Dataset[Any]):
    """Turn lists of indices in the manifest into (index, sha256, "") or (index, None, why it cannot be read)."""

    def __init__(self, manifest: Manifest) -> None:
        self.records = manifest.records

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, bytes | None, str]]:
        return [self._hash(index) for index in indices]

    def _hash(self, index: int) -> tuple[int, bytes | None, str]:
        try:
            return index, hashlib.sha256(self.records[index].read_bytes()).digest(), ""
        except OSError as error:
            return index, None, str(error)
