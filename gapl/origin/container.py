"""Take the blocks of metadata out of an image file. Nothing of its pixels is decoded."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from gapl.decode import UnreadableImage, opened
from gapl.origin.exif import IPTC_FIELD, XMP_FIELD, exif_fields
from gapl.origin.finding import COMMENT, PNG_TEXT

MAX_CHUNKS = 100_000  # of a PNG that are looked at
MAX_TEXTS = 100
MAX_TEXT_BYTES = 1 << 20  # of a text, also once it is decompressed
_PNG = b"\x89PNG\r\n\x1a\n"
_XMP_KEYWORD = "XML:com.adobe.xmp"
_PROFILE = "Raw profile type "  # before the names of blocks that ImageMagick writes as hexadecimal text


@dataclass
class Metadata:
    """The blocks of a file, each empty where there is none.

    texts  (kind, where, keyword, text)
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    texts: list[tuple[str, str, str, str]] = field(default_factory=list)


def metadata_of(encoded: bytes) -> Metadata:
    """Return the metadata of an image file; what cannot be opened as an image has none."""
    if encoded.startswith(_PNG):
        return _of_png(encoded)
    if encoded.startswith((b"II*\0", b"MM\0*")):  # a TIFF file is what EXIF is
        fields = exif_fields(encoded)
        return Metadata(encoded, fields.get(XMP_FIELD, b""), fields.get(IPTC_FIELD, b""))
    try:
        with opened(encoded) as image:
            info = image.info
    except UnreadableImage:
        return Metadata()
    metadata = Metadata(_bytes(info.get("exif")), _bytes(info.get("xmp")))
    resources = info.get("photoshop")
    if isinstance(resources, dict):
        metadata.iptc = _bytes(resources.get(0x0404))
    if comment := _bytes(info.get("comment")):
        metadata.texts.append((COMMENT, "comment", "comment", comment[:MAX_TEXT_BYTES].decode(errors="replace")))
    return metadata


def _bytes(block: object) -> bytes:
    return block if isinstance(block, bytes) else b""


# ---------------------------------------------------------------------------------------------------------
# PNG. Pillow would decode the pixels to reach the texts behind them.


def _of_png(encoded: bytes) -> Metadata:
    metadata = Metadata()
    for kind, content in itertools.islice(_chunks(encoded), MAX_CHUNKS):
        if kind == "eXIf":
            metadata.exif = content
        elif kind in ("tEXt", "zTXt", "iTXt"):
            keyword, text = _text(kind, content)
            name = keyword.removeprefix(_PROFILE).lower()
            if keyword == _XMP_KEYWORD:
                metadata.xmp = text
            elif name == keyword.lower():
                metadata.texts.append((PNG_TEXT, f"{kind} {keyword}", keyword, _decoded(text)))
            else:
                _add_profile(metadata, name, text)
        if len(metadata.texts) == MAX_TEXTS:
            break
    return metadata


def _chunks(encoded: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the type and content of each chunk of a PNG that may hold metadata, and of the others nothing."""
    at = len(_PNG)
    while at + 8 <= len(encoded):
        size = int.from_bytes(encoded[at : at + 4])
        kind = encoded[at + 4 : at + 8].decode("latin-1")
        holds = kind in ("tEXt", "zTXt", "iTXt", "eXIf")
        yield kind, encoded[at + 8 : at + 8 + size] if holds else b""
        at += 12 + size


def _text(kind: str, content: bytes) -> tuple[str, bytes]:
    """Return the keyword and the text of a chunk; of a compressed one no more than is allowed."""
    keyword, _, text = content.partition(b"\0")
    compressed = kind == "zTXt"
    if compressed:
        text = text[1:]  # the method
    elif kind == "iTXt":
        compressed = text[:1] == b"\1"
        _language, _, rest = text[2:].partition(b"\0")
        _translated, _, text = rest.partition(b"\0")
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, MAX_TEXT_BYTES)
        except zlib.error:
            text = b""
    return keyword.decode("latin-1"), text[:MAX_TEXT_BYTES]


def _decoded(text: bytes) -> str:
    """Return a text; tEXt and zTXt should be Latin-1, and are often UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _add_profile(metadata: Metadata, name: str, text: bytes) -> None:
    """Add a block that is written as hexadecimal text: a name, the number of bytes, and these."""
    try:
        block = bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return
    if block.startswith((b"Exif\0\0", b"II*\0", b"MM\0*")):
        metadata.exif = metadata.exif or block
    elif name in ("iptc", "8bim"):
        metadata.iptc = metadata.iptc or block
    elif name == "xmp":
        metadata.xmp = metadata.xmp or block
