"""Features of a frozen tower: computed once an image and view, kept on disk, and drawn in batches.

Shape suffixes: B batch, C channels, H, W pixels, D tower width, N images, S segments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.choices import EVAL
from data.images.views import TensorView, eval_tensor_view
from data.loading.batches import Failure, ManifestDataset
from data.loading.epochs import split_batches
from data.loading.loader import batch_loader
from data.loading.plan import ALONE, BatchPlan, Rank
from data.records import Manifest
from data.seeds import draw_seed
from files import tensorfile
from files.cache import cache_dir
from files.tensorfile import TensorFile
from gapl.pixels import PixelSpec

log = logging.getLogger(__name__)

FORMAT = "gapl-features-1"  # another number where a view of the same name becomes another
SEGMENT_IMAGES = 2048  # a pass that is killed loses at most so many images,
SEGMENT_SECONDS = 60  # or the work of this time
HASH_BATCH = 64


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--feature-cache",
        type=Path,
        default=cache_dir() / "features",
        help="folder of the frozen tower's features (default: features in GAPL_CACHE)",
    )


@dataclass(frozen=True)
class FeatureSpec:
    """What determines an image's feature, apart from its bytes.

    backbone      fingerprint of the tower's weights
    width         D
    pixel         how pixels are made; of it, a random view takes size, mean and standard deviation
    precision     of the tower: "fp32", "bf16" or "fp16"
    view          "eval", or a random view of data/images/augment.py
    layers        that the feature is read from; none: the last
    number        of a random view. With the image's sha256 it says which: an image has the same view in any set
                  and in runs of any seed, which share the pass through the tower
    """

    backbone: str
    width: int
    pixel: PixelSpec
    precision: str
    view: str = EVAL
    number: int = 0
    layers: tuple[int, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As JSON: what another store has differently."""
        facts = {"format": FORMAT} | asdict(self)
        if self.view == EVAL:
            del facts["number"]
        if not self.layers:
            del facts["layers"]
        return facts

    def make_view(self) -> TensorView:
        if self.view == EVAL:
            return eval_tensor_view(self.pixel)
        from data.images.augment import train_view  # torchvision is slow to import

        return train_view(self.view, size_px=self.pixel.size_px, mean=self.pixel.mean, std=self.pixel.std)

    def view_seed(self, sha256: bytes) -> int | None:
        if self.view == EVAL:
            return None
        return draw_seed(0, self.number, int.from_bytes(sha256, "big"))


# ---------------------------------------------------------------------------------------------------------
# On disk


class FeatureTable:
    """Features of N images, mapped from files: `table[indices_B]` is feature_BD, float32, in memory."""

    def __init__(self, segments: Sequence[Tensor], row_N: Tensor) -> None:
        """row_N counts through all segments."""
        self._segments, self._row_N = segments, row_N
        self._size_S = torch.tensor([len(features_ND) for features_ND in segments])
        self._end_S = self._size_S.cumsum(0)

    def __len__(self) -> int:
        return len(self._row_N)

    def __getitem__(self, indices_B: Tensor) -> Tensor:
        row_B = self._row_N[indices_B]
        segment_B = torch.bucketize(row_B, self._end_S, right=True)
        start_B = self._end_S[segment_B] - self._size_S[segment_B]
        places = zip(segment_B.tolist(), (row_B - start_B).tolist(), strict=True)
        return torch.stack([self._segments[segment][row] for segment, row in places])


class FeatureStore:
    """The features of one FeatureSpec on disk, by the sha256 of each image's encoded bytes.

    A folder named by the sha256 of the spec's JSON, which lies in it, and segments of some thousand images. A
    segment is written once and whole under a name of its own, so several processes can fill a store at once; at
    worst, they compute an image twice.
    """

    def __init__(self, spec: FeatureSpec, root: Path | None = None) -> None:
        """Below `root`, or `features` in the cache folder. Raises OSError when it cannot be written."""
        text = json.dumps(spec.facts(), sort_keys=True, separators=(",", ":"))
        self.spec = spec
        self.folder = (root or cache_dir() / "features") / hashlib.sha256(text.encode()).hexdigest()
        self._segments: list[Tensor] = []
        self._names: set[str] = set()
        self._row: dict[bytes, int] = {}
        self._num_rows = 0
        self._waiting: list[tuple[list[bytes], Tensor]] = []
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = self.folder / "spec.json"  # for the eyes of who looks into the folder
            if not facts.exists() or facts.read_text(encoding="utf-8") != text:
                facts.write_text(text, encoding="utf-8")
        self.load()

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self._row

    def load(self) -> None:
        """Maps the segments that are there by now; a damaged one is removed, with a warning."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._names or (segment := self._read(path)) is None:
                continue
            self._names.add(path.name)
            sha256s, features_ND = segment
            for row, sha256 in enumerate(sha256s, self._num_rows):
                self._row.setdefault(sha256, row)
            self._segments.append(features_ND)
            self._num_rows += len(sha256s)

    def add(self, sha256s: list[bytes], feature_BD: Tensor) -> None:
        """Takes features on. They are written by `flush`, or when they are many; `load` then maps them."""
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append((sha256s, feature_BD.float().cpu()))
        num_waiting = sum(len(each) for each, _ in self._waiting)
        if num_waiting >= SEGMENT_IMAGES or time.monotonic() - self._waiting_since >= SEGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes a segment of what waits. Raises OSError when it cannot be written, such as on a full disk."""
        if not self._waiting:
            return
        raw = bytearray(b"".join(sha256 for sha256s, _ in self._waiting for sha256 in sha256s))
        tensors = {
            "features_ND": torch.cat([feature_BD for _, feature_BD in self._waiting]),
            "sha256_N4": torch.frombuffer(raw, dtype=torch.int64).view(-1, 4),
        }
        with self._writable():
            tensorfile.write(self.folder / f"{uuid.uuid4().hex}.safetensors", tensors, format=FORMAT, header={})
        self._waiting = []

    def table(self, sha256s: Sequence[bytes]) -> FeatureTable:
        """In the order of `sha256s`. Raises ValueError when one is not in the store."""
        if absent := sum(sha256 not in self for sha256 in sha256s):
            raise ValueError(
                f"{self.folder}: {absent} features that another process computed are not there; all processes "
                "need the same folder (GAPL_CACHE or --feature-cache)"
            )
        return FeatureTable(tuple(self._segments), torch.tensor([self._row[sha256] for sha256 in sha256s]))

    def _read(self, path: Path) -> tuple[list[bytes], Tensor] | None:
        """(sha256 of each image, features_ND); None when it is damaged, or gone."""
        try:
            return self._segment(TensorFile(path))
        except FileNotFoundError:  # another process found it damaged, too
            return None
        except ValueError as error:
            log.warning("%s: %s; removed, its features are computed anew", path, error)
        with self._writable():
            path.unlink(missing_ok=True)
        return None

    def _segment(self, file: TensorFile) -> tuple[list[bytes], Tensor]:
        _, tensors = file.read()
        num_images = len(tensors.get("sha256_N4", ()))
        expected = {
            "features_ND": ((num_images, self.spec.width), torch.float32),
            "sha256_N4": ((num_images, 4), torch.int64),
        }
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        if file.format != FORMAT or found != expected:
            raise ValueError(f"no segment of features of width {self.spec.width}")
        raw = tensors["sha256_N4"].numpy().tobytes()
        return [raw[start : start + 32] for start in range(0, len(raw), 32)], tensors["features_ND"]

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"features cannot be kept in {self.folder}: {error}; GAPL_CACHE or --feature-cache moves them"
            ) from error


# ---------------------------------------------------------------------------------------------------------
# Computing


def _itself(part: list[Any]) -> list[Any]:
    """What a single process has, all processes have."""
    return part


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen tower and how it is run. Only what no store has yet goes through it.

    feature  pixels_BCHW -> feature_BD
    context  gives the autocast of the spec's precision
    rank     of this process among those that work together; each has the same arguments and gets the same result
    gather   the lists of all processes -> one list, in every process, when all have come to this point
    """

    feature: Callable[[Tensor], Tensor]
    batch_size: int
    num_workers: int
    device: str = "cpu"
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    rank: Rank = ALONE
    gather: Callable[[list[Any]], list[Any]] = _itself

    def tables(
        self, manifest: Manifest, stores: Sequence[FeatureStore], *, desc: str
    ) -> tuple[list[FeatureTable], Manifest, list[Failure]]:
        """(a table for each store, the images that are its rows, those that could not be read).

        Raises ValueError when none could be read, OSError when a store cannot be written.
        """
        sha256_of, reason_of = self._hash(manifest, desc=f"{desc}: sha256")
        for number, store in enumerate(stores, 1):
            # The first of those with the same bytes. All agree on them before anybody adds to the store.
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
        """(sha256 of each image, why others cannot be read), by index in the manifest, ascending."""
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
        """Adds these images to the store; (sha256, reason) of those that cannot be decoded."""
        draws = [(i, store.spec.view_seed(sha256)) for i, sha256 in sha256_of.items()]
        sha256_at = {manifest.records[i].uri: sha256 for i, sha256 in sha256_of.items()}
        dataset = ManifestDataset(manifest, store.spec.make_view(), replace_unreadable=False)
        failed = []
        for batch in self._load(dataset, draws, self.batch_size, desc=desc):
            failed += [(sha256_at[failure.record.uri], failure.reason) for failure in batch.failures]
            if batch.records:
                with self.context():
                    feature_BD = self.feature(batch.pixels_BCHW.to(self.device))
                store.add([sha256_at[record.uri] for record in batch.records], feature_BD)
        store.flush()
        return failed

    def _load(self, dataset: Dataset[Any], items: Sequence[Any], batch_size: int, *, desc: str) -> Iterator[Any]:
        """What the dataset makes of `batch_size` items after the other, in worker processes."""
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
    """Lists of indices in the manifest -> (index, sha256, "") or (index, None, why it cannot be read)."""

    def __init__(self, manifest: Manifest) -> None:
        self.records = manifest.records

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, bytes | None, str]]:
        return [self._hash(index) for index in indices]

    def _hash(self, index: int) -> tuple[int, bytes | None, str]:
        try:
            return index, hashlib.sha256(self.records[index].read_bytes()).digest(), ""
        except OSError as error:
            return index, None, str(error)


# ---------------------------------------------------------------------------------------------------------
# Drawing


def feature_batches(
    table: FeatureTable | Tensor,
    labels_N: Tensor,
    order: list[int],
    plan: BatchPlan,
    *,
    first_batch: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(feature_BD, labels_B) in the given order, from `first_batch` on: this rank's micro-batches.

    A last short batch is left out unless it is the only one. Raises ValueError when a batch has too few images
    to be split.
    """
    for chosen in split_batches(order, plan, first_batch=first_batch):
        indices_B = torch.tensor(chosen)
        yield table[indices_B], labels_N[indices_B]
