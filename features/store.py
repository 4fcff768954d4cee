"""Features on disk, by the sha256 of each image: a folder for each FeatureSpec, shared by all runs.

Shape suffixes: B batch, D tower width, N images, S segments.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from features.spec import FORMAT, FeatureSpec
from gapl.files.cache import cache_dir
from models import tensorfile

log = logging.getLogger(__name__)

# A pass that is killed loses at most the work of so many images, or of this time.
SEGMENT_IMAGES = 2048
SEGMENT_SECONDS = 60


class FeatureTable:
    """Features of N images, mapped from files: `table[indices_B]` copies feature_BD, float32, into memory.

    segments   features_ND of each segment
    row_N      row of each image, counted through all segments
    """

    def __init__(self, segments: Sequence[Tensor], row_N: Tensor) -> None:
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

    The folder's name is the sha256 of the spec's JSON, which is kept inside it, beside segments of some thousand
    images. A segment is written once, whole, and under a new name, so that several processes can fill a store at
    the same time; at worst, they compute an image twice.
    """

    def __init__(self, spec: FeatureSpec, folder: Path) -> None:
        """Make an empty store that has read nothing yet; FeatureStore.open finds the folder and reads it."""
        self.spec, self.folder = spec, folder
        self._segments: list[Tensor] = []
        self._names: set[str] = set()
        self._row: dict[bytes, int] = {}
        self._num_rows = 0
        self._waiting: list[tuple[list[bytes], Tensor]] = []
        self._waiting_since = 0.0

    @classmethod
    def open(cls, spec: FeatureSpec, root: Path | None = None) -> FeatureStore:
        """Open the store of a spec below `root` (default: `features` in the cache folder), or start it.

        Raises OSError when the folder cannot be written.
        """
        text = json.dumps(spec.facts(), sort_keys=True, separators=(",", ":"))
        name = hashlib.sha256(text.encode()).hexdigest()
        store = cls(spec, (root or cache_dir() / "features") / name)
        with store._writable():
            store.folder.mkdir(parents=True, exist_ok=True)
            facts = store.folder / "spec.json"  # for people who look into the folder
            if not facts.exists() or facts.read_text(encoding="utf-8") != text:
                facts.write_text(text, encoding="utf-8")
        store.load()
        return store

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self._row

    def load(self) -> None:
        """Map the segments that are new in the folder. Remove damaged ones, with a warning."""
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
        """Take features in. They are written by `flush`, or when there are many; then `load` maps them."""
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append((sha256s, feature_BD.float().cpu()))
        num_waiting = sum(len(each) for each, _ in self._waiting)
        if num_waiting >= SEGMENT_IMAGES or time.monotonic() - self._waiting_since >= SEGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write a segment of what waits. Raise OSError when it cannot be written, such as on a full disk."""
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
        """Return the features in the order of `sha256s`. Raise ValueError when one is not in the store."""
        if absent := sum(sha256 not in self for sha256 in sha256s):
            raise ValueError(
                f"{self.folder}: {absent} features that another process computed are not there; all processes "
                "need the same folder (GAPL_CACHE or --feature-cache)"
            )
        return FeatureTable(tuple(self._segments), torch.tensor([self._row[sha256] for sha256 in sha256s]))

    def _read(self, path: Path) -> tuple[list[bytes], Tensor] | None:
        """Return (sha256 of each image, features_ND), or None when the segment is damaged or gone."""
        try:
            return self._segment(path)
        except FileNotFoundError:  # another process found it damaged too
            return None
        except ValueError as error:
            log.warning("%s: %s; removed, its features are computed anew", path, error)
        with self._writable():
            path.unlink(missing_ok=True)
        return None

    def _segment(self, path: Path) -> tuple[list[bytes], Tensor]:
        _, tensors = tensorfile.read(path, format=FORMAT)
        num_images = len(tensors.get("sha256_N4", ()))
        expected = {
            "features_ND": ((num_images, self.spec.width), torch.float32),
            "sha256_N4": ((num_images, 4), torch.int64),
        }
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        if found != expected:
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
