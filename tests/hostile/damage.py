"""Damage that any file can take: cut off, a bit turned, another file in its place."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from hostile.archives import entries_of, list_start, places_of
from hostile.pickles import archive_of
from hostile.sound import IMAGE, OURS, ZIPS, Case, Made
from hostile.tables import split_table


def flip(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut_off(data: dict[str, bytes], rng: random.Random) -> Made:
    for base, content in data.items():
        cuts = {
            0,
            1,
            4,
            7,
            8,
            9,
            len(content) - 1,
            len(content) - 22,
            len(content) - 98,
            rng.randrange(len(content)),
        }
        if base in ZIPS:
            places = places_of(content)
            some = rng.sample(places, min(len(places), 5))
            cuts |= {place for each in some for place in (each.header, each.start, each.end)}
            cuts |= {list_start(content), list_start(content) + 46}
        else:
            start, table = split_table(content)
            ends = [start + entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
            cuts |= {start - 1, start, start // 2, *rng.sample(ends, min(len(ends), 5))} - {len(content)}
        yield from (("truncated", base, content[:cut]) for cut in sorted(cuts))


def flipped(data: dict[str, bytes], rng: random.Random) -> Made:
    """Single bits, where every one of them counts."""
    for base, content in data.items():
        for name, places in (_zip_regions if base in ZIPS else _table_regions)(content).items():
            for place in rng.sample(places, min(len(places), 8)):
                yield f"a bit of the {name}", base, flip(content, place, rng)


def _table_regions(content: bytes) -> dict[str, Sequence[int]]:
    start, _ = split_table(content)
    text_end = len(content[:start].rstrip())
    return {"length": range(8), "header": range(8, text_end), "data": range(start, len(content))}


def _zip_regions(content: bytes) -> dict[str, Sequence[int]]:
    """Not in it: times, versions and padding, which nobody reads."""
    every, entries = places_of(content), entries_of(content)
    return {
        "data": [place for each in every for place in range(each.start, each.end)],
        "pickle": range(every[0].start, every[0].end),
        "local headers": [each.header + i for each in every for i in range(14, 26)],
        "local names": [each.header + 30 + i for each in every for i in range(each.name)],
        "descriptors": [each.end + i for each in every for i in range(16)],
        "list of records": [entry + i for entry in entries for i in (*range(16, 28), *range(42, 46))],
        "list of names": [entry + 46 + i for entry in entries for i in range(8)],
    }


def strangers(data: dict[str, bytes], rng: random.Random) -> Made:
    others = {
        "empty": b"",
        "a text": b"<html><title>404</title></html>\n" * 40,
        "an image": IMAGE.read_bytes(),
        "noise": rng.randbytes(5000),
        "zeros": bytes(5000),
        "line feeds": b"\n" * 5000,
        "another zip": archive_of({"a.txt": b"a"}),
    }
    for kind, content in others.items():
        for base in data:
            yield f"no weights: {kind}", base, content
    for base, content in data.items():
        for number in (2**63, 2**64 - 1, 2**31, 100_000_001, len(content), 1, 0) if base in OURS else ():
            yield "header's length", base, struct.pack("<Q", number) + content[8:]
    for base, other in (("official", "bank"), ("full", "bank"), ("bank", "full"), ("prototypes", "official")):
        yield "another kind of ours", base, data[other]


def no_files(folder: Path) -> Iterator[Case]:
    for base in ("official", "bank"):
        path = folder / f"{base}-place"
        yield Case("no file", base, path)
        path.mkdir()
        yield Case("a folder", base, path)
        path.rmdir()
        os.mkfifo(path)
        yield Case("a FIFO", base, path)
        path.unlink()
        path.symlink_to(path)
        yield Case("a symlink loop", base, path)
        path.unlink()
        path.symlink_to("/dev/zero")
        yield Case("a device", base, path)
        path.unlink()
