"""Files of torch.save whose zip archive is wrong, or misleads."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass

from hostile.pickles import REBUILD, SOUND, archive_of, crafted, tuple_of
from hostile.sound import EMBED_DIM, ZIPS, Made


@dataclass(frozen=True)
class _Place:
    """Of a record: its local header, the bytes of its name, and its own bytes."""

    header: int
    name: int
    start: int
    end: int


def places_of(content: bytes) -> list[_Place]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        places = []
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", content, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            places.append(_Place(info.header_offset, name, start, start + info.file_size))
        return places


def list_start(content: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.start_dir


def entries_of(content: bytes) -> list[int]:
    """Where each record's entry in the list begins."""
    entries, position = [], list_start(content)
    while content[position : position + 4] == b"PK\x01\x02":
        entries.append(position)
        position += 46 + sum(struct.unpack_from("<3H", content, position + 28))
    return entries


def archives(data: dict[str, bytes]) -> Made:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield "zip: compressed", "stage1", crafted(SOUND, method=method)
        bomb = bytes(16 << 20)
        yield "zip: compressed", "stage1", crafted(SOUND, {"data/1": bomb}, method=method)
    other = {"code.pkl": b"N.", "sub/data.pkl": b"\x80\x02N."}
    for name in ("data/0", "data.pkl", "version"):
        twice = crafted(SOUND, {name[:-1] + "_": b"\x80\x02N."})
        yield "zip: two of a name", "stage1", twice.replace(name[:-1].encode() + b"_", name.encode())
    sound = crafted(SOUND)
    version = sound[sound.index(b"PK\x03\x04", sound.index(b"archive/data/0")) : list_start(sound)]
    inside = bytearray(crafted(SOUND, {"data/0": version + bytes(4 * EMBED_DIM * 32 - len(version))}))
    struct.pack_into("<I", inside, entries_of(bytes(inside))[3] + 42, inside.index(version))
    yield "zip: overlapping", "stage1", bytes(inside)
    yield "zip: two folders", "stage1", archive_of({"a/data.pkl": b"\x80\x02N.", "b/data.pkl": b"\x80\x02N."})
    yield "zip: no folder", "stage1", archive_of({"data.pkl": b"\x80\x02N."})
    yield "zip: no pickle", "stage1", archive_of({"archive/version": b"3\n", **other})
    yield "zip: no records", "stage1", b"PK\x03\x04" + bytes(200) + b"PK\x05\x06" + bytes(18)
    for base in ZIPS:
        content = data[base]
        entries, places = entries_of(content), places_of(content)
        last = len(entries) - 2

        def edited(place: int, layout: str, *values: int, content: bytes = content) -> bytes:
            changed = bytearray(content)
            struct.pack_into(layout, changed, place, *values)
            return bytes(changed)

        entry = entries[last]
        size = places[last].end - places[last].start
        yield "zip: overlapping", base, edited(entry + 42, "<I", places[0].header)
        yield "zip: overlapping", base, edited(entries[1] + 42, "<I", places[2].header)
        yield "zip: too long", base, edited(entry + 20, "<2I", size + 1, size + 1)
        yield "zip: too long", base, edited(entry + 20, "<2I", size + 4096, size + 4096)
        yield "zip: too long", base, edited(entry + 20, "<2I", 2**31, 2**31)
        yield "zip: too long", base, edited(entry + 20, "<2I", size, 2**31)
        yield "zip: too long", base, edited(entry + 20, "<2I", 2**32 - 1, 2**32 - 1)
        yield "zip: too short", base, edited(entry + 20, "<2I", max(size - 4, 0), max(size - 4, 0))
        yield "zip: compressed", base, edited(entry + 10, "<H", 8)
        yield "zip: compressed", base, edited(entry + 10, "<H", 99)
        yield "zip: encrypted", base, edited(entry + 8, "<H", 0x809)
        yield "zip: encrypted", base, edited(places[0].header + 6, "<H", 0x809)
        pickle_name = content[places[0].header + 30 :][: places[0].name]
        yield "zip: another name", base, content.replace(pickle_name, pickle_name[:-1] + b"\0")
        yield "zip: another name", base, content.replace(pickle_name, b"/" + pickle_name[1:], 1)
        yield "zip: end", base, content + b"\0"
        yield "zip: end", base, content + content[-22:]
        yield "zip: end", base, content + content
        yield "zip: end", base, edited(len(content) - 2, "<H", 5) + b"abcde"
        yield "zip: end", base, edited(len(content) - 2, "<H", min(len(content), 65_535)) + content[-65_535:]
        yield "zip: end", base, edited(len(content) - 34, "<Q", len(content) - 99)
        yield "zip: end", base, edited(len(content) - 58, "<2Q", 2**62, 2**62)
        yield "zip: end", base, edited(len(content) - 58, "<2Q", 46, list_start(content))
        yield "zip: start", base, b"PK\x03\x04" + content
        yield "zip: start", base, content[:4] + bytes(60) + content[4:]
    start = b"PK\x03\x04" + bytes(60)
    for count in (20_000, 40_000):
        listed = (b"PK\x01\x02" + bytes(42)) * count
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(start), 0)
        yield "zip: many records", "stage1", start + bytes(100) + listed + end
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(start) + 100, 0)
        yield "zip: many records", "stage1", start + bytes(100) + listed + end
    records = {f"data/{i}": b"" for i in range(1, 4950)}
    again = REBUILD + b"q\x00" + SOUND[len(REBUILD) : -1] + b"q\x01R" + b"h\x00h\x01R" * 19_000
    yield "zip: many records", "stage1", crafted(tuple_of(again), records)
    yield "zip: many records", "stage1", crafted(SOUND, {f"data/{i}": b"" for i in range(1, 5100)})
