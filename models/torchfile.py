"""Files of torch.save: read without running code in them, and written whole or not at all.

torch.load(weights_only=True) builds tensors and containers only. It can still be made to hang, to crash or to
use up memory by a file that was made to do that; docs/released-weights.md says what is protected and what is not.
"""

from __future__ import annotations

import re
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import Any

from gapl.files.atomic import replacing

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = re.compile(rb"\x80[\x02-\x05]")
MAX_PICKLE_BYTES = 1 << 20  # a detector's pickle has 0.1 MB, with its optimizer's state 0.3 MB


def is_torch_file(path: Path) -> bool:
    """Return whether the file begins like one of torch.save, or like a pickle without a zip archive."""
    with path.open("rb") as file:
        start = file.read(len(ZIP_MAGIC))
    return start == ZIP_MAGIC or PICKLE_MAGIC.match(start) is not None


def write(path: Path, data: Any) -> None:
    """Save `data` by torch.save; `path` is replaced only when the new file is complete and on disk.

    Raises OSError when it cannot be written.
    """
    import torch

    try:
        with replacing(path) as scratch:
            torch.save(data, scratch)
    except RuntimeError as error:  # how torch reports a full disk or a read-only folder
        raise OSError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> Any:
    """Return what was saved: containers of tensors, which are mapped from the file on the CPU.

    Raises ValueError, one line, when the file is damaged or contains more than that.
    """
    check_archive(path)
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is then refused
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises whatever it meets first
        raise ValueError(_reason(error)) from error


def check_archive(path: Path) -> None:
    """Raise ValueError unless the file is a zip archive as torch.save writes it, with correct checksums.

    Measured: 0.43 s for the 1.2 GB of the released checkpoint.pt (in memory, one core of an AMD EPYC), beside
    some 5 s from the start of inference.py to its verdict.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise ValueError("a pickle without torch.save's zip archive, which could run code and is never read")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(archive.infolist(), file_bytes=path.stat().st_size)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeError, OverflowError) as error:
        raise ValueError(f"damaged, or no file of torch.save ({error or 'it ends too early'})") from error
    if damaged:
        raise ValueError(f"damaged: the checksum of {damaged!r} is not that of its bytes")


def _check_records(records: list[zipfile.ZipInfo], *, file_bytes: int) -> None:
    """Raise ValueError unless these are records of torch.save: uncompressed, each name once, a small pickle."""
    sizes = {record.filename: record.file_size for record in records}
    pickles = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip archive, but not one of torch.save")
    if len(sizes) != len(records):
        raise ValueError("damaged: two records of its zip archive have one name")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its zip archive is compressed, which torch.save never does")
    if sum(sizes.values()) > file_bytes:
        raise ValueError("damaged: the records of its zip archive are longer than the file")
    if sizes[pickles[0]] > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle has {sizes[pickles[0]]:,} bytes; a detector's is below {MAX_PICKLE_BYTES:,}")


def _reason(error: Exception) -> str:
    """Return why torch.load refused a file, on one line and without its advice to load it all the same."""
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        return f"its pickle asks for {asked[1]!r}, which is no tensor: it could run code, and was not run"
    if "weights_only" in str(error):
        return "its pickle has more than tensors and containers: it could run code, and was not run"
    return f"torch.load refuses it: {textwrap.shorten(str(error), 160) or type(error).__name__}"
