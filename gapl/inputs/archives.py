"""Images inside zip and tar archives, which are read where they are: nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from gapl.decode import UnreadableImage
from gapl.files.refusal import first_line
from gapl.folders import NO_FILE, START_BYTES, Note, is_hidden, why_no_image
from gapl.inputs.input import Input, inputs_in, refused_input
from gapl.inputs.kinds import TAR, ZIP, kind_of_name

NESTED = "an archive inside an archive"
LINK = "a link inside an archive"
ENCRYPTED = "encrypted"
_PIECE_BYTES = 1 << 20
_END_OF_TAR = 512  # bytes of the block of zeros after its last member
_ARCHIVE_ERRORS = (zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
_DAMAGE = (OSError, EOFError, ValueError, LookupError, *_ARCHIVE_ERRORS)


@dataclass(frozen=True)
class Limits:
    """How much of an archive is read. What is beyond is refused: a small file can unpack to any size.

    members       in an archive
    member_bytes  of one image
    ratio         unpacked bytes for each packed one, where that makes more than `free_bytes`
    name_bytes    of what describes the members: all those of a zip, one of a tar
    """

    members: int = 200_000
    member_bytes: int = 1 << 30
    ratio: int = 200
    free_bytes: int = 64 << 20
    name_bytes: int = 32 << 20

    def is_bomb(self, unpacked: int, packed: int) -> bool:
        """Tell whether so many bytes may not come out of so few."""
        return unpacked > self.free_bytes and unpacked > self.ratio * packed

    def why_not(self, unpacked: int, packed: int) -> str:
        """Return why a member is not read, or an empty text."""
        if unpacked > self.member_bytes:
            return f"it unpacks to {unpacked / 2**30:.1f} GiB, too large for an image"
        return "it unpacks to too many times its size" if self.is_bomb(unpacked, packed) else ""


LIMITS = Limits()


def list_archive(path: Path, kind: str, *, note: Note, limits: Limits = LIMITS) -> list[Input]:
    """Return the images in an archive, in its order, called "<path>/<name in it>". Names are never used as paths.

    kind   ZIP or TAR
    note   is told of what is left out

    A member that is encrypted, too large or damaged is an input that says so when it is read.

    Raises ValueError when it is no such archive, and when it is beyond the limits; OSError when it cannot be read.
    """
    with _refusing(path, kind):
        listed = (_list_zip if kind == ZIP else _list_tar)(path, note, limits)
    members, broken = listed
    opened = partial(_open_zip if kind == ZIP else _open_tar, path, limits)
    names = numbered([f"{path}/{name}" for name, _ in members])
    inputs = inputs_in([(name, member) for name, (_, member) in zip(names, members, strict=True)], opened)
    return [*inputs, *([refused_input(str(path), broken)] if broken else [])]


Members = list[tuple[str, Any]]  # names, and what the archive knows of them


@contextmanager
def _refusing(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except UnreadableImage as error:
        raise ValueError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise
    except (*_DAMAGE, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system; the others are gzip's and bz2's
            raise
        raise ValueError(f"{path}: damaged, or no {kind} archive ({first_line(error)})") from error


def numbered(names: list[str]) -> list[str]:
    """Return names of which none stands twice: a later one of the same name gets a number."""
    listed, taken = set(names), set()
    times: Counter[str] = Counter()
    unique = []
    for name in names:
        other = name
        while other in taken or (other != name and other in listed):
            times[name] += 1
            other = f"{name} ({times[name] + 1})"
        taken.add(other)
        unique.append(other)
    return unique


def _is_wanted(name: str, read_start: Callable[[], bytes], note: Note) -> bool:
    """Tell whether a member is an image, and note why it is not. Hidden ones are passed over, as in folders."""
    parts = name.replace("\\", "/").split("/")
    if any(is_hidden(part) and part not in (".", "..") for part in parts):
        return False
    if why := NESTED if kind_of_name(name) in (ZIP, TAR) else why_no_image(parts[-1], read_start):
        note(name, why)
    return not why


def _read_all(file: IO[bytes], size: int) -> bytes:
    """Read a member of so many bytes in pieces. Raises UnreadableImage when there are fewer."""
    pieces = list(iter(partial(file.read, _PIECE_BYTES), b""))
    if sum(map(len, pieces)) < size:
        raise UnreadableImage("damaged in the archive: it ends too early")
    return b"".join(pieces)


# ---------------------------------------------------------------------------------------------------------
# zip


class _Directory(io.FileIO):
    """A zip file whose list of members, which zipfile reads at once, cannot fill the memory."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise UnreadableImage(f"its list of members is larger than {self._most / 2**20:g} MiB")
        return super().read(size) or b""


@contextmanager
def _zip(path: Path, limits: Limits) -> Iterator[zipfile.ZipFile]:
    with _Directory(path, limits.name_bytes) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _list_zip(path: Path, note: Note, limits: Limits) -> tuple[Members, str]:
    with _zip(path, limits) as archive:
        members = archive.infolist()
        if len(members) > limits.members:
            raise UnreadableImage(f"{len(members)} members; at most {limits.members} are read")
        if limits.is_bomb(sum(each.file_size for each in members), path.stat().st_size):
            raise UnreadableImage(f"it unpacks to more than {limits.ratio} times its size")
        found: Members = []
        for each in members:
            if each.is_dir():
                continue
            if stat.S_ISLNK(each.external_attr >> 16):
                note(each.filename, LINK)
            elif _is_wanted(each.filename, partial(_zip_start, archive, each), note):
                found.append((each.filename, each))
    return found, ""


def _zip_start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the first bytes of a member; none where they cannot be read."""
    try:
        with archive.open(member) as file:
            return file.read(START_BYTES)
    except (*_DAMAGE, RuntimeError, NotImplementedError):  # it is then counted as no image
        return b""


@contextmanager
def _open_zip(path: Path, limits: Limits) -> Iterator[Callable[[zipfile.ZipInfo], bytes]]:
    try:
        with _zip(path, limits) as archive:
            yield partial(_read_zip, archive, limits)
    except zipfile.BadZipFile as error:
        raise UnreadableImage(f"its archive has changed, and is damaged ({first_line(error)})") from error


def _read_zip(archive: zipfile.ZipFile, limits: Limits, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & 1:
        raise UnreadableImage(f"{ENCRYPTED} in the archive")
    if why := limits.why_not(member.file_size, member.compress_size):
        raise UnreadableImage(why)
    try:
        with archive.open(member) as file:
            return _read_all(file, member.file_size)
    except UnreadableImage:
        raise
    except (*_DAMAGE, RuntimeError) as error:  # NotImplementedError: a compression that Python does not know
        raise UnreadableImage(f"damaged in the archive: {first_line(error)}") from error


# ---------------------------------------------------------------------------------------------------------
# tar

_UNPACK: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a tar, which is read forwards. It refuses bombs, and to read much at a time."""

    def __init__(self, packed: IO[bytes], limits: Limits) -> None:
        start = packed.read(8)
        packed.seek(0)
        unpack = next((unpack for mark, unpack in _UNPACK.items() if start.startswith(mark)), None)
        self._packed, self._limits = packed, limits
        self._file = unpack(packed) if unpack else packed
        self._is_packed = unpack is not None
        self.last = b""  # what was read last

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= self._limits.name_bytes:
            raise UnreadableImage(
                f"what describes a member is larger than {self._limits.name_bytes / 2**20:g} MiB"
            )
        self.last = self._file.read(size)
        if self._is_packed and self._limits.is_bomb(self._file.tell(), self._packed.tell()):
            raise UnreadableImage(f"it unpacks to more than {self._limits.ratio} times its size")
        return self.last

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        assert whence == io.SEEK_SET
        if not self._is_packed or position < self._file.tell():
            return self._file.seek(position)
        while (ahead := position - self._file.tell()) and self.read(min(ahead, _PIECE_BYTES)):
            pass
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _tar(path: Path, limits: Limits) -> Iterator[tuple[tarfile.TarFile, _Unpacked]]:
    with path.open("rb") as packed:
        unpacked = _Unpacked(packed, limits)
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            yield archive, unpacked


def _list_tar(path: Path, note: Note, limits: Limits) -> tuple[Members, str]:
    """Return the members, and where the archive is damaged after some of them, what is wrong."""
    found: Members = []
    number = 0
    with _tar(path, limits) as (archive, unpacked):
        try:
            for number, each in enumerate(archive, start=1):
                if number > limits.members:
                    raise UnreadableImage(f"more than {limits.members} members")
                if _is_tar_image(archive, each, note):
                    found.append((each.name, each))
            if any(unpacked.last[:_END_OF_TAR]):  # tarfile takes what is no member for the end
                return found, f"damaged after {number} members"
        except UnreadableImage:
            raise
        except _DAMAGE as error:
            return found, f"damaged after {number} members: {first_line(error)}"
    return found, ""


def _is_tar_image(archive: tarfile.TarFile, member: tarfile.TarInfo, note: Note) -> bool:
    if member.isdir():
        return False
    if member.islnk() or member.issym():
        note(member.name, LINK)
        return False
    if not member.isreg() or member.issparse():
        note(member.name, NO_FILE)
        return False
    return _is_wanted(member.name, partial(_tar_start, archive, member), note)


def _tar_start(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file, member
    return file.read(START_BYTES)


@contextmanager
def _open_tar(path: Path, limits: Limits) -> Iterator[Callable[[tarfile.TarInfo], bytes]]:
    with _tar(path, limits) as (archive, _):
        yield partial(_read_tar, archive, limits)


def _read_tar(archive: tarfile.TarFile, limits: Limits, member: tarfile.TarInfo) -> bytes:
    if why := limits.why_not(member.size, member.size):
        raise UnreadableImage(why)
    try:
        file = archive.extractfile(member)
        assert file, member
        return _read_all(file, member.size)
    except UnreadableImage:
        raise
    except _DAMAGE as error:
        raise UnreadableImage(f"damaged in the archive: {first_line(error)}") from error
