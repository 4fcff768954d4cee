"""The project's file format: safetensors with a JSON header and checksums.

The safetensors library checks the table of tensors and maps them from the file. Its metadata have four entries:

    format        what the file holds, such as "gapl-detector-1"
    header        JSON
    header_crc32  CRC-32 of that JSON, in decimal digits
    crc32         JSON: name of each tensor -> CRC-32 of its bytes

models/tensorfile.py reads such files as tensors of torch, and writes them.
"""

from __future__ import annotations

import json
import mmap
import zlib
from pathlib import Path
from typing import Any

from gapl.files.strict_json import strict_json


def read(path: Path, *, format: str, framework: str = "np") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (header, tensors) of a file.

    framework   "np" for arrays of NumPy, or "pt" for tensors of torch, which are mapped from the file, privately

    Checksums are compared at once: 0.16 s for a merged detector of 607 MB and 1 ms for the adapter that ships,
    too little to do it in the background while torch is imported.

    Raises ValueError when the file is damaged, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                found = metadata.get("format", "of others")
                raise ValueError(f"a safetensors file of the format {found!r}, not {format!r}")
            header = _read_header(metadata)
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise ValueError(f"damaged, or no safetensors file ({error})") from error
    _check_tensors(path, metadata)
    return header, tensors


def format_of(path: Path) -> str | None:
    """Return the format that a file states; None when it states none, or is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format")
    except SafetensorError:
        return None


def _read_header(metadata: dict[str, str]) -> dict[str, Any]:
    if not metadata.keys() >= {"header", "header_crc32", "crc32"}:
        raise ValueError("a safetensors file without the header and the checksums of this project's")
    if metadata["header_crc32"] != str(zlib.crc32(metadata["header"].encode())):
        raise ValueError("damaged: the checksum of the header is not that of its text")
    header = strict_json(metadata["header"])
    if not isinstance(header, dict):
        raise ValueError("damaged: the header is no JSON object")
    return header


def _check_tensors(path: Path, metadata: dict[str, str]) -> None:
    """Raise ValueError that names the first tensor whose bytes do not have their checksum."""
    stated = strict_json(metadata["crc32"])
    for name, found in checksums(path).items():
        if not isinstance(stated, dict) or stated.get(name) != found:
            raise ValueError(f"damaged: the checksum of {name!r} is not that of its bytes")


def checksums(path: Path) -> dict[str, int]:
    """Return the CRC-32 of the bytes of each tensor in a file whose table safetensors has checked."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        start = start_of_tensors(path)
        table = json.loads(mapped[8:start])
        table.pop("__metadata__", None)
        with memoryview(mapped) as view:
            return {name: _crc32(view, start, *entry["data_offsets"]) for name, entry in table.items()}


def _crc32(view: memoryview, start: int, begin: int, end: int) -> int:
    with view[start + begin : start + end] as of_tensor:
        return zlib.crc32(of_tensor)


def start_of_tensors(path: Path) -> int:
    """Return where the tensors' bytes begin: after 8 bytes that say how long the table is, and the table."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
