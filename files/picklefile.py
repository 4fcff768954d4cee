"""Files of torch.save, read as untrusted input: no code is run, no more memory is taken than the file has bytes.

torch itself reads them, with weights_only=True. What it would admit beyond tensors in containers, or take on
trust while it maps the file, is looked at first: a compressed or overlapping record, a wrong checksum, a list
of records that two readers could find in two places, a pickle that asks for anything but tensors.
"""

from __future__ import annotations

import os
import struct
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from files.atomic import replacing
from files.integrity import Check, Span
from files.opcodes import check_pickle

ZIP_MAGIC = b"PK\x03\x04"
DESCRIPTOR_MAGIC = b"PK\x07\x08"
HAS_DESCRIPTOR = 8  # of a local header's flags: checksum and sizes follow the record
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
END_64 = struct.Struct("<4s36x2Q4s4xQ4x")  # zip64's last record and its locator: magic, list's bytes and start
END = struct.Struct("<4s8x2IH")  # zip's own last record
MAX_32 = (1 << 32) - 1
MAX_RECORDS = 5000  # a detector has 550, with its optimizer's state 2,200
MAX_LIST_BYTES = 1 << 20
MAX_PICKLE_BYTES = 1 << 20  # a detector's is 0.1 MB, with its optimizer's state 0.3 MB
NO_TORCH_SAVE = "a zip archive, but not one of torch.save"


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
        self.path = path
        with path.open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                raise ValueError("a bare pickle, which could run code and is never read")
            _check_end(file)
            try:
                with zipfile.ZipFile(file) as archive:
                    records = list(_records(archive, file))
                    _check_content(archive)
            except (zipfile.BadZipFile, UnicodeError, RuntimeError, EOFError, OverflowError) as error:
                raise ValueError(f"damaged, or no file of torch.save ({error})") from error
        self._check = Check(path, records)

    def read(self) -> Any:
        """What was saved: tensors, mapped from the file, in dictionaries and lists. Raises ValueError."""
        import torch

        self._check.wait()
        try:
            return torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # nothing is known to get here, but torch can raise whatever it meets
            reason = textwrap.shorten(str(error), 160) or type(error).__name__
            raise ValueError(f"torch.load refuses it: {reason}") from error


def _check_end(file: BinaryIO) -> None:
    """The list of records is not long, and ends where the file does: there is no other that torch might find."""
    end_start = file.seek(0, os.SEEK_END) - END.size
    file.seek(max(0, end_start - END_64.size))
    ends = file.read()
    if len(ends) < END_64.size + END.size:
        raise ValueError("damaged: a zip archive that is cut off")
    magic, list_bytes, list_start, comment_bytes = END.unpack_from(ends, END_64.size)
    if magic != b"PK\x05\x06" or comment_bytes:
        raise ValueError("damaged, or cut off: a zip archive whose list of records does not end it")
    magic_64, list_bytes_64, list_start_64, locator, start_64 = END_64.unpack_from(ends)
    if locator == b"PK\x06\x07":
        list_bytes, list_start, end_start = list_bytes_64, list_start_64, end_start - END_64.size
        if magic_64 != b"PK\x06\x06" or start_64 != end_start:
            raise ValueError("damaged: the end of its zip archive")
    if list_start + list_bytes != end_start:
        raise ValueError("damaged: the list of its zip archive's records is not where it should be")
    if list_bytes > MAX_LIST_BYTES:
        raise ValueError(NO_TORCH_SAVE)


def _records(archive: zipfile.ZipFile, file: BinaryIO) -> Iterator[Span]:
    """Every record's bytes in the file, once it is known that they are there, uncompressed, and its alone."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MAX_RECORDS:
        raise ValueError(f"a zip archive of {len(infos)} records, but not one of torch.save")
    position = 0
    for info in infos:
        name = repr(info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"record {name} is compressed, which torch.save never does")
        start, end = _extent(info, file)
        if info.header_offset < position or end > archive.start_dir:
            raise ValueError(f"damaged: record {name} overlaps another, or is longer than the file")
        position = end
        yield Span(info.filename, start, info.file_size, info.CRC)


def _extent(info: zipfile.ZipInfo, file: BinaryIO) -> tuple[int, int]:
    """Where the record's bytes begin, and where what belongs to it ends; its header says what the list says."""
    damaged = ValueError(f"damaged: record {info.filename!r} is not as the archive's list says")
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        raise damaged
    magic, _, flags, method, _, _, *found, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    if magic != ZIP_MAGIC or (flags, method) != (info.flag_bits, info.compress_type):
        raise damaged
    if file.read(name_bytes) != info.filename.encode():
        raise damaged
    sums = info.CRC, info.compress_size, info.file_size
    later = (0, MAX_32) if flags & HAS_DESCRIPTOR else (MAX_32,)
    if any(value != expected and value not in later for value, expected in zip(found, sums, strict=True)):
        raise damaged
    start = file.seek(extra_bytes, os.SEEK_CUR)
    if not flags & HAS_DESCRIPTOR:
        return start, start + info.file_size
    descriptor = DESCRIPTOR_MAGIC + struct.pack("<IQQ" if info.file_size > MAX_32 else "<III", *sums)
    end = file.seek(info.file_size, os.SEEK_CUR) + len(descriptor)
    if file.read(len(descriptor)) != descriptor:
        raise damaged
    return start, end


def _check_content(archive: zipfile.ZipFile) -> None:
    """One folder, a record a name, and a pickle that asks for tensors of these records only."""
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if len(sizes) != len(archive.infolist()):
        raise ValueError("damaged: two records of its zip archive have one name")
    folder = next(iter(sizes), "").partition("/")[0]
    pickle, of_torchscript = f"{folder}/data.pkl", f"{folder}/constants.pkl"
    in_folder = all(name.startswith(f"{folder}/") for name in sizes)
    if not in_folder or pickle not in sizes or of_torchscript in sizes:
        raise ValueError(NO_TORCH_SAVE)
    if sizes[pickle] > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle is of {sizes[pickle]:,} bytes; a detector's is below {MAX_PICKLE_BYTES:,}")
    storages = f"{folder}/data/"
    record_bytes = {name.removeprefix(storages): size for name, size in sizes.items() if name.startswith(storages)}
    check_pickle(archive.read(pickle), record_bytes)
