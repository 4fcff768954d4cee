"""The project's file format: safetensors with a JSON header and checksums, written whole or not at all.

It is read strictly and as untrusted input: nothing is allocated before the header is found to be sound, and
the tensors are mapped from the file, not copied.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files.atomic import replacing
from files.integrity import Check, Span
from files.strict_json import strict_json

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 1 << 19  # a detector's is 0.2 MB; as objects, JSON takes up to 25 times its bytes
ALIGNMENT = 8  # of the tensors' bytes in a file that can be read
CACHE_LINE = 64  # theirs in a file that is written: else the last bits of sums depend on the length of the header
MAX_SIDES = 8
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def write(path: Path, tensors: dict[str, Tensor], *, format: str, header: dict[str, Any]) -> None:
    """Replaces `path` only once the new file is complete, sound and on disk; else OSError or ValueError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    crc32 = json.dumps({name: zlib.crc32(_bytes_of(tensor)) for name, tensor in tensors.items()})
    try:
        with replacing(path) as scratch:
            start = -1
            while start % CACHE_LINE:  # twice mostly; a checksum of another length may need a third time
                save_file(tensors, scratch, _metadata(format, text, crc32))
                *_, start = _read_table(scratch)  # nothing is written that would not be read: an empty tensor
                text += " " * (-start % CACHE_LINE)
    except SafetensorError as error:  # how the library reports a full disk or a read-only folder
        raise OSError(f"{path} cannot be written: {error}") from error


def _metadata(format: str, text: str, crc32: str) -> dict[str, str]:
    return {"format": format, "header": text, "header_crc32": str(zlib.crc32(text.encode())), "crc32": crc32}


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


class TensorFile:
    """A file of this format, its table found sound; its checksums are being computed in the background."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is damaged."""
        self.path = path
        self._table, self._metadata, start = _read_table(path)
        self.format = self._metadata.get("format", "")
        self._check = (
            Check(path, _spans(self._table, self._metadata, start)) if "header" in self._metadata else None
        )

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(header, tensors); the tensors are mapped from the file, privately. Raises ValueError for damage."""
        from safetensors import SafetensorError, safe_open

        if self._check is None:
            raise ValueError("a safetensors file without the header and the checksums of this project's")
        header = _object(strict_json(self._metadata["header"]), "the header")
        self._check.wait()
        try:
            with safe_open(self.path, "pt") as file:
                return header, {name: file.get_tensor(name) for name in self._table}
        except SafetensorError as error:
            raise ValueError(f"damaged ({error})") from error


def _read_table(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The table of tensors, the metadata, and where the tensors' bytes begin; all of it found sound.

    A safetensors file is: 8 bytes that count the header's, the header in JSON, the tensors without a gap.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError("damaged, or no safetensors file")
        text = file.read(length)
    if length % ALIGNMENT:
        raise ValueError("damaged: the tensors do not begin where a tensor can")
    try:
        table = _object(strict_json(text.decode()), "the header")
    except UnicodeDecodeError as error:
        raise ValueError("damaged: its header is no text") from error
    metadata = _object(table.pop("__metadata__", {}), "the metadata")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("damaged: metadata that is no text")
    _check_table(table, num_bytes=size - 8 - length)
    return table, metadata, 8 + length


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"damaged: {what} is no JSON object")
    return value


def _check_table(table: dict[str, Any], *, num_bytes: int) -> None:
    """Every tensor has a known type, as many bytes as its shape needs, and they follow each other to the end."""
    ends = {}
    for name, entry in table.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if (
                not rest
                and len(shape) <= MAX_SIDES
                and all(type(number) is int for number in (begin, end, *shape))
                and all(side > 0 for side in shape)
            ):
                pass
            case _:
                raise ValueError(f"damaged: the entry of tensor {name!r} is not one of a tensor")
        if dtype not in DTYPE_BYTES:
            raise ValueError(f"tensor {name!r} is of type {dtype}; expected one of {', '.join(DTYPE_BYTES)}")
        if begin % DTYPE_BYTES[dtype] or end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
            raise ValueError(f"damaged: tensor {name!r} has not the bytes that its type and shape need")
        ends[begin, end] = name
    position = 0
    for begin, end in sorted(ends):
        if begin != position:
            raise ValueError(f"damaged: tensor {ends[begin, end]!r} overlaps another or leaves a gap")
        position = end
    if position != num_bytes or len(ends) != len(table):
        raise ValueError("damaged: the tensors are not as long as the file")


def _spans(table: dict[str, Any], metadata: dict[str, str], start: int) -> list[Span]:
    """Where each tensor is and its checksum; the header's own is compared at once."""
    try:
        crc32 = strict_json(metadata["crc32"])
        if metadata["header_crc32"] != str(zlib.crc32(metadata["header"].encode())):
            raise ValueError("damaged: the checksum of the header is not that of its text")
        offsets = {name: entry["data_offsets"] for name, entry in table.items()}
        return [Span(name, start + begin, end - begin, crc32[name]) for name, (begin, end) in offsets.items()]
    except (KeyError, TypeError) as error:
        raise ValueError("damaged: a checksum is missing") from error
