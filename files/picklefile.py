"""Files of torch.save, read as untrusted input: no code is run, no more memory is taken than the file has bytes.

torch itself reads them, with weights_only=True. What it would admit beyond tensors in containers, or take on
trust while it maps the file, is looked at first: a compressed or overlapping record, a wrong checksum, a
pickle that asks for anything but tensors.
"""

from __future__ import annotations

import pickletools
import textwrap
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files.integrity import Check, Span
from files.tensorfile import replacing

if TYPE_CHECKING:
    from torch import Tensor

ZIP_MAGIC = b"PK\x03\x04"
LOCAL_HEADER_BYTES = 30
MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 4 << 20  # a detector's is 0.1 MB; each byte of one can ask for a hundred
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Byte", "Char", "Bool")
GLOBALS |= {f"torch {name}Storage" for name in STORAGES}


def is_pickle(path: Path) -> bool:
    """Whether the file is one of torch.save, or a pickle without torch's container, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == ZIP_MAGIC or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and len(start) > 1)


def write(path: Path, data: Any) -> None:
    """torch.save, but `path` is replaced only once the new file is complete and on disk."""
    import torch

    try:
        with replacing(path) as scratch:
            torch.save(data, scratch)
    except RuntimeError as error:  # how torch reports a full disk or a read-only folder
        raise OSError(f"{path} cannot be written: {error}") from error


class PickleFile:
    """A file of torch.save, its archive found sound; its checksums are being computed in the background."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is damaged or could run code."""
        with path.open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                raise ValueError("a bare pickle, which could run code and is never read")
        try:
            with zipfile.ZipFile(path) as archive:
                self._records = list(_records(archive, path))
                pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
                if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
                    raise ValueError("a zip archive, but not one of torch.save")
                _check_globals(archive.read(pickles[0]))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OverflowError) as error:
            raise ValueError(f"damaged, or no file of torch.save ({error})") from error
        self.path = path
        self._check = Check(path, self._records)

    def read(self) -> Any:
        """What was saved: tensors, mapped from the file, in dictionaries and lists. Raises ValueError."""
        self._check.wait()
        data = _load(self.path)
        _check_tensors(data, Counter(record.size for record in self._records))
        return data


def _records(archive: zipfile.ZipFile, path: Path) -> Iterator[Span]:
    """Every record's bytes in the file, once it is known that they are there, uncompressed, and its alone."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MAX_RECORDS:
        raise ValueError(f"a zip archive of {len(infos)} records, but not one of torch.save")
    position = 0
    with path.open("rb") as file:
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"record {info.filename!r} is compressed, which torch.save never does"[:200])
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER_BYTES)
            name_bytes, extra_bytes = (
                int.from_bytes(header[26:28], "little"),
                int.from_bytes(header[28:30], "little"),
            )
            name = file.read(name_bytes)
            start = info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
            if header[:4] != ZIP_MAGIC or name != info.filename.encode() or info.header_offset < position:
                raise ValueError(f"damaged: record {info.filename!r} is not where the archive says"[:200])
            position = start + info.file_size
            yield Span(info.filename, start, info.file_size, info.CRC)
    if position > path.stat().st_size:
        raise ValueError("damaged: a record is longer than the file")


def _check_globals(pickled: bytes) -> None:
    """Names are all that a pickle can call; it is read here without being obeyed."""
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise ValueError(f"its pickle has {opcode.name}, which torch.save never writes: it could run code")
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                name = str(argument).replace(" ", ".")
                raise ValueError(f"its pickle asks for {name}, which is no tensor: it could run code"[:200])
    except (KeyError, IndexError, OverflowError, MemoryError, UnicodeError) as error:
        raise ValueError("damaged: its pickle cannot be read") from error


def _load(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a hostile pickle can raise whatever the unpickler meets first
        reason = textwrap.shorten(str(error), 160) or type(error).__name__
        raise ValueError(f"torch.load refuses it: {reason}") from error


def _check_tensors(data: Any, record_bytes: Counter[int]) -> None:
    """Plain tensors only, none larger than its storage, no storage of another length than its record."""
    import torch

    storages = {}
    for tensor in _tensors(data):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise ValueError("damaged: a tensor that is not a plain one")
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError("damaged: a tensor that is larger than its bytes")
        storages[storage.data_ptr()] = storage.nbytes()
    if Counter(storages.values()) - record_bytes:
        raise ValueError("damaged: a tensor's bytes are not those of its record")


def _tensors(data: Any) -> Iterator[Tensor]:
    """Every tensor of nested containers; a container is looked into once, even if it holds itself."""
    import torch

    waiting, seen = [data], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item
