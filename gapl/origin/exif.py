"""EXIF: the camera, the software, and texts that generators leave in its fields.

Only the few fields below are read. Reading all, as libraries do, lets a small file claim gigabytes: thousands of
fields may share the same bytes.
"""

from __future__ import annotations

import struct

from PIL.ExifTags import Base

from gapl.origin.finding import EXIF, Finding, found
from gapl.origin.names import of_device, of_program
from gapl.origin.texts import read_text

MAX_FIELDS = 1000  # of a directory that are looked at
MAX_VALUE = 1 << 20  # bytes of a field
XMP_FIELD, IPTC_FIELD = 0x2BC, 0x83BB  # of a TIFF file, which is built like EXIF
_PROGRAMS = (Base.Software, Base.ProcessingSoftware)
_TEXTS = (*_PROGRAMS, Base.ImageDescription, Base.Make, Base.Model, Base.UserComment)
_WANTED = {*_TEXTS, Base.ExifOffset, XMP_FIELD, IPTC_FIELD}
_BYTES = {1: 1, 2: 1, 4: 4, 7: 1, 13: 4, 129: 1}  # of the types of values that are read
_WORKFLOW = ("workflow:", "prompt:")


def exif_fields(exif: bytes) -> dict[int, bytes]:
    """Return the values of the fields that are read, by number; none of what is damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return {}
    main = _fields(exif, struct.unpack_from(f"{order}I", exif, 4)[0], order)
    pointer = main.pop(Base.ExifOffset, b"")
    return main if len(pointer) != 4 else _fields(exif, struct.unpack(f"{order}I", pointer)[0], order) | main


def _fields(exif: bytes, at: int, order: str) -> dict[int, bytes]:
    if at + 2 > len(exif):
        return {}
    number = min(struct.unpack_from(f"{order}H", exif, at)[0], MAX_FIELDS, (len(exif) - at - 2) // 12)
    fields = {}
    for entry in range(at + 2, at + 2 + 12 * number, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag not in _WANTED or kind not in _BYTES:
            continue
        size = count * _BYTES[kind]
        start = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", exif, entry + 8)[0]
        fields[tag] = bytes(exif[start : start + min(size, MAX_VALUE)])
    return fields


def read_exif(exif: bytes) -> list[Finding]:
    """Return what EXIF says, with or without the six bytes before it that it has in a JPEG."""
    fields = exif_fields(exif)
    texts = {tag: _text(tag, fields[tag]) for tag in _TEXTS if tag in fields}
    findings = []
    for tag, text in texts.items():
        prefix = _prefix(text)
        if tag in _PROGRAMS and text and not prefix:
            findings.append(found(EXIF, tag.name, of_program(text), name=text, text=text))
        elif finding := read_text(EXIF, tag.name, prefix.rstrip(":") or tag.name, text[len(prefix) :]):
            findings.append(finding)
    make, model = (texts.get(tag, "") for tag in (Base.Make, Base.Model))
    if (make or model) and not _prefix(make) and not _prefix(model):
        name = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
        findings.append(found(EXIF, "Make, Model", of_device(name), name=name))
    return findings


def _prefix(text: str) -> str:
    """Return what ComfyUI puts before the text of a field, whichever it is."""
    return next((each for each in _WORKFLOW if text[: len(each)].lower() == each), "")


def _text(tag: int, value: bytes) -> str:
    if tag == Base.UserComment:
        return _comment(value)
    return value.partition(b"\0")[0].decode(errors="replace").strip()


def _comment(value: bytes) -> str:
    """Return a UserComment, whose first eight bytes name its encoding."""
    code, content = value[:8].rstrip(b"\0"), value[8:]
    if code != b"UNICODE":
        return content.decode(errors="replace").strip("\0 ")
    # The order of bytes is not told, and programs differ; of most texts, the higher bytes are 0.
    big = content[::2].count(0) >= content[1::2].count(0)
    return content.decode("utf-16-be" if big else "utf-16-le", errors="replace").strip("\0\ufeff ")
