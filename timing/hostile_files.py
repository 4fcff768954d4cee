"""Damaged and hostile files of weights: that each is refused, how fast, and in how much memory.

    python timing/hostile_files.py

The files are those of the tests (tests/hostile.py), made anew from small sound ones. Each is read as a user's
would be. Extra memory is how far the process's peak was above what it held before that file, in Linux's count;
what earlier files left is given back to the system first.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # run as a file, from any folder


@dataclass
class Row:
    """All files of one kind."""

    files: int = 0
    refused: int = 0
    seconds: float = 0
    extra_mb: float = 0
    message: str = ""


def main() -> None:
    import cli

    cli.Parser(__doc__).parse_args()
    from hostile import good_files, hostile_files

    logging.disable()
    rows: dict[str, Row] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        marker = folder / "marker"
        good = good_files(folder / "good")
        gc.freeze()
        for base, path in good.items():
            read(rows.setdefault("(sound files)", Row()), base, path)
        for case in hostile_files(good, folder / "hostile", marker):
            read(rows.setdefault(case.kind, Row()), case.base, case.path)
            if marker.exists():
                raise ValueError(f"{case}: its code was run")
    report(rows)


def read(row: Row, base: str, path: Path) -> None:
    """Tries to read the file and adds to the row what came of it."""
    from hostile import load

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held_mb, start = memory_mb("VmRSS"), time.perf_counter()
    row.files += 1
    try:
        load(base, path)
    except (ValueError, OSError) as error:
        row.refused += 1
        row.message = row.message or str(error).replace(f"{path}: ", "").partition("; expected")[0]
    row.seconds = max(row.seconds, time.perf_counter() - start)
    row.extra_mb = max(row.extra_mb, memory_mb("VmHWM") - held_mb)


def memory_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e3
    raise OSError(f"this system does not tell {name}")


def report(rows: dict[str, Row]) -> None:
    print(f"{'kind':32}{'files':>6}{'refused':>8}{'seconds':>8}{'MB':>6}  first message")
    for kind, row in sorted(rows.items()):
        figures = f"{row.files:6}{row.refused:8}{row.seconds:8.2f}{row.extra_mb:6.1f}"
        print(f"{kind:32}{figures}  {row.message[:100]}")
    hostile = [row for kind, row in rows.items() if not kind.startswith("(")]
    print(f"{sum(row.files for row in hostile)} files, {sum(row.refused for row in hostile)} refused")


if __name__ == "__main__":
    import cli

    cli.run(main)
