"""Files of weights that are damaged or hostile, made anew from small sound ones, the same for the same seed.

A `Case` says what kind of damage its file has, and which sound file it was made of: `load` reads both alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from hostile.archives import archives
from hostile.damage import cut_off, flip, flipped, no_files, strangers
from hostile.pickles import SOUND, crafted, pickle_bombs, running_code, saved_by_torch
from hostile.sound import IMAGE, OURS, Case, good_files, load
from hostile.tables import bad_headers, bad_values, tables

__all__ = ["IMAGE", "SOUND", "Case", "crafted", "flipped_anywhere", "good_files", "hostile_files", "load"]


def hostile_files(good: dict[str, Path], folder: Path, marker: Path, *, seed: int = 0) -> Iterator[Case]:
    """Every hostile file in turn, in `folder`; each is removed when the next is asked for.

    marker: what the code in some of them would create, if it were run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    data = {base: path.read_bytes() for base, path in good.items()}
    for makers in (
        cut_off(data, rng),
        flipped(data, rng),
        strangers(data, rng),
        *(tables(base, data[base]) for base in OURS),
        bad_headers(data),
        bad_values(good),
        saved_by_torch(good),
        running_code(good, marker),
        pickle_bombs(),
        archives(data),
    ):
        for number, (kind, base, content) in enumerate(makers):
            path = folder / f"{base}-{kind.replace(' ', '-')}-{number}{good[base].suffix}"
            path.write_bytes(content)
            yield Case(kind, base, path)
            path.unlink()
    yield from no_files(folder)


def flipped_anywhere(good: dict[str, Path], folder: Path, count: int, *, seed: int = 0) -> Iterator[Case]:
    """Every sound file with one bit turned at a place chosen among all of its bits, `count` times a form."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for base, path in good.items():
        content = path.read_bytes()
        damaged = folder / path.name
        for _ in range(count):
            damaged.unlink(missing_ok=True)  # a file that is mapped must not be written over
            damaged.write_bytes(flip(content, rng.randrange(len(content)), rng))
            yield Case("a bit anywhere", base, damaged)
