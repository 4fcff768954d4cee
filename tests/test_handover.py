"""Encoded images reach another process as they were, and the memory they travel in is used again."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from data.loading.batches import Sample
from data.loading.handover import Place, PlacedLists
from data.records import Record
from gapl.labels import Label

LISTS = [[b"abc", b""], [bytes(3_000_000)], [b"x" * 10], [b"shorter"], [b"y" * 5_000_000]]


def samples(images: list[bytes]) -> list[Sample]:
    return [Sample(Record(Path(str(i)), Label.REAL, "camera"), i, encoded) for i, encoded in enumerate(images)]


def read_all(list_of_samples: list[Sample]) -> list[bytes]:
    return [sample.read_bytes() for sample in list_of_samples]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memory files")
def test_another_process_reads_the_bytes_and_files_are_used_again() -> None:
    paths = set()
    lists = PlacedLists(map(samples, LISTS), max_lists=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for images, placed in zip(LISTS, lists, strict=True):
            assert [sample.seed for sample in placed] == list(range(len(images)))
            assert pool.apply(read_all, (placed,)) == images
            paths |= {sample.encoded.path for sample in placed if isinstance(sample.encoded, Place)}
        assert next(lists, None) is None
        assert pool.apply(read_all, (placed,)) == LISTS[-1], "a worker may be late"
    assert len(paths) == 2
    del lists
    assert not any(map(os.path.exists, paths)), "closed with the iterator"


def test_without_memory_files_lists_come_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert list(PlacedLists(map(samples, LISTS), max_lists=2)) == list(map(samples, LISTS))
