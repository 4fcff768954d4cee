"""Images and archives from anywhere: each is read as what it is, or refused, whatever was done to its bytes.

Hypothesis draws the damage, the same at each run. FUZZ_EXAMPLES=2000 python -m pytest tests/test_hostile_images.py
tries more of it.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from gapl.decode import FORMATS, UnreadableImage, image_format
from gapl.detector import seeing
from gapl.inputs.scan import scan_images
from gapl.pixels import PixelSpec
from gapl.thumbnail import make_thumbnail

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))  # of damage, for each file
FUZZ = settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SHOWN = PixelSpec(size_px=32, small_image="resize", views=("centre", "quarters", "reduced", "whole"))
RELEASED = PixelSpec(size_px=32, conversion="pillow")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@pytest.fixture(scope="module", autouse=True)
def few_pixels() -> Iterator[None]:
    """Damage may make any size of an image: large ones would take the time of all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 17)
        yield


def files() -> dict[str, bytes]:
    """Return a sound file of each format and mode that Pillow writes here, by the name of both."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8)
    noise[:20] = noise[0, 0]  # what is even is packed in other ways
    picture = Image.fromarray(noise)
    Image.init()
    found = {}
    for name in FORMATS:
        for mode in ("RGB", "RGBA", "P", "L", "1", "I;16", "CMYK"):
            image = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
            file = io.BytesIO()
            try:
                image.save(file, name, exif=_turned(), save_all=name in ("GIF", "WEBP", "TIFF"))
            except (OSError, KeyError, ValueError):  # a mode or a format that is not written
                continue
            found[f"{name} {mode}"] = file.getvalue()
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        file = io.BytesIO()
        picture.convert("1" if packed == "group4" else "RGB").save(file, "TIFF", compression=packed)
        found[f"TIFF {packed}"] = file.getvalue()
    return found


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


FILES = files()


def number(width: int, value: int, order: str) -> bytes:
    return (value & ((1 << 8 * width) - 1)).to_bytes(width, "little" if order == "<" else "big")


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw up to four changes: flipped bits, numbers at a limit, cuts, pieces repeated or lost."""
    changes = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "number", "cut", "repeat", "lose"]))
        near = draw(st.booleans())
        place = draw(st.floats(0, 0.999))
        value = draw(st.sampled_from(NUMBERS))
        width, order = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from("<>"))
        changes.append((kind, near, place, number(width, value, order)))

    def apply(content: bytes) -> bytes:
        for kind, near, place, piece in changes:
            start = 8 if near else 0  # what the format is told by stays
            at = start + int(place * (min(200, len(content)) if near else len(content)))
            before, after = content[:at], content[at:]
            content = {
                "flip": before + bytes([(after[:1] or b"\0")[0] ^ piece[0] | 1]) + after[1:],
                "number": before + piece + after[len(piece) :],
                "cut": before if not near else content,
                "repeat": before + after[:32] + after,
                "lose": before + after[len(piece) :],
            }[kind]
        return content

    return apply


def look(encoded: bytes) -> str:
    """See an image in all ways. Return what came of it: anything but a refusal raises."""
    said = "seen"
    for see in (seeing(SHOWN), seeing(RELEASED), make_thumbnail):
        try:
            see(encoded)
        except UnreadableImage as refused:
            said = str(refused)
            assert said
            assert said.isprintable(), said
    image_format(encoded[:32])
    return said.partition(":")[0]


def test_every_format_that_is_written_here_is_tried() -> None:
    expected = {"JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "ICO", "TGA"}
    expected |= {name for name, feature in (("WEBP", "webp"), ("AVIF", "avif")) if features.check(feature)}
    assert {name.split()[0] for name in FILES} >= expected
    assert {look(encoded) for encoded in FILES.values()} == {"seen"}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_image_is_seen_or_refused(name: str) -> None:
    outcomes: Counter[str] = Counter()

    @FUZZ
    @given(damage())
    def see(change: Callable[[bytes], bytes]) -> None:
        outcomes[look(change(FILES[name]))] += 1

    see()
    print(name, dict(outcomes))
    assert outcomes.total() >= EXAMPLES


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_image_is_seen_or_refused(name: str) -> None:
    content = FILES[name]
    for size in {*range(0, 40, 3), *(len(content) * part // 12 for part in range(12)), len(content) - 1}:
        look(content[:size])


# ---------------------------------------------------------------------------------------------------------
# Archives


def _zipped(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in ("a.png", "in/b.bmp", "notes.txt"):
            archive.writestr(name, FILES["PNG RGB" if name == "a.png" else "BMP L"])
    return file.getvalue()


def _tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name in ("a.png", "x" * 120 + ".bmp"):  # the second has a header of its own for its name
            member = tarfile.TarInfo(name)
            content = FILES["PNG RGB" if name == "a.png" else "BMP L"]
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


ARCHIVES = {
    "stored.zip": _zipped(zipfile.ZIP_STORED),
    "deflated.zip": _zipped(zipfile.ZIP_DEFLATED),
    "a.tar": _tarred("w"),
    "a.tar.gz": _tarred("w:gz"),
    "a.tar.bz2": _tarred("w:bz2"),
    "a.tar.xz": _tarred("w:xz"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_read_or_refused(name: str, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()

    @FUZZ
    @given(damage())
    def read(change: Callable[[bytes], bytes]) -> None:
        path = tmp_path / name
        path.write_bytes(change(ARCHIVES[name]))
        try:
            images = scan_images([path]).images
        except (ValueError, OSError):
            outcomes["refused"] += 1
            return
        for image in images:
            try:
                look(image.read())
                outcomes["read"] += 1
            except UnreadableImage:
                outcomes["member refused"] += 1

    read()
    print(name, dict(outcomes))
    assert outcomes.total() >= EXAMPLES
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_sizes_that_lie() -> None:
    """Headers that promise more than there is, or than there may be, cost neither memory nor time."""
    png = FILES["PNG RGB"]
    header = b"IHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:29]
    huge = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    bmp = FILES["BMP RGB"]
    wide = bmp[:18] + struct.pack("<ii", 30000, 1) + bmp[26:]
    assert look(huge).startswith("too many pixels")
    assert look(wide) in ("seen", "damaged image")
    assert look(b"P6 99999 99999 255\n" + bytes(100)).startswith("too many pixels")
