"""Make files of strangers: images of many formats that are cut, damaged or lie, and what is no image at all.

    python timing/hostile_files.py DIR

writes them to a folder, for whoever wants to look at one. `hostile_files()` has the same files in memory. All are
made from seeds, here: nobody's attack is among them. timing/abuse.py sends them to a service.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "ICO", "TGA", "AVIF")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "CMYK", "I;16", "F", "LAB", "YCbCr"),
}
SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "PPM": "ppm"}  # the others are called as their format
SIDE = 96  # of images, in pixels
CUTS = (0, 1, 2, 10, 0.3, 0.9, -1)  # where a file ends: bytes, or a share of them
LARGE = 2**31 - 1


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    files = hostile_files()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    print(f"{len(files)} files in {folder}")


def hostile_files(*, with_large: bool = True) -> dict[str, bytes]:
    """Return the files by their names, which say what is wrong with them.

    with_large  also those that take seconds to make, and to refuse
    """
    whole = {f"{format}.{_suffix(format)}": saved(image(), format) for format in FORMATS}
    return (
        whole
        | dict(_modes())
        | dict(_cut(whole))
        | dict(_damaged(whole))
        | dict(_misnamed(whole))
        | dict(_sizes())
        | dict(_bombs() if with_large else [])
        | dict(_containers(whole["PNG.png"]))
        | dict(_metadata())
        | dict(_no_images())
    )


def image(mode: str = "RGB", *, seed: int = 0, side: int = SIDE) -> Image.Image:
    """Return noise, in a mode of Pillow."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(noise).convert(mode)


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _suffix(format: str) -> str:
    return SUFFIXES.get(format, format.lower())


# ---------------------------------------------------------------------------------------------------------
# Damage


def _modes() -> Iterator[tuple[str, bytes]]:
    for format, modes in MODES.items():
        for mode in modes:
            yield f"mode-{mode.replace(';', '')}.{_suffix(format)}", saved(image(mode), format)
    yield "cmyk.jpg", saved(image("CMYK"), "JPEG")
    yield "lossless.webp", saved(image("RGBA"), "WEBP", lossless=True)
    yield "progressive.jpg", saved(image(), "JPEG", progressive=True)


def _cut(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, content in whole.items():
        for cut in CUTS:
            end = int(cut * len(content)) if isinstance(cut, float) else cut
            yield f"cut-{cut}-{name}", content[:end]


def _damaged(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield files in which bytes are others, and files with the middle of another."""
    for seed, (name, content) in enumerate(whole.items()):
        rng, damaged = np.random.default_rng(seed), bytearray(content)
        for place in rng.integers(8, len(content), 20):
            damaged[place] = int(rng.integers(256))
        yield f"flipped-{name}", bytes(damaged)
        half = len(content) // 2
        yield f"zeros-{name}", content[:half] + bytes(len(content) - half)
        yield f"twice-{name}", content * 2
        yield f"late-{name}", bytes(64) + content


def _misnamed(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    names = list(whole)
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        yield f"in-truth-{name}.{other.rpartition('.')[2]}", whole[name]


# ---------------------------------------------------------------------------------------------------------
# Sizes that lie, and what unpacks to too much


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    written = (struct.pack(">I", len(data)) + kind + data + _crc(kind + data) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def _sizes() -> Iterator[tuple[str, bytes]]:
    pixels = (b"IDAT", zlib.compress(bytes(100)))
    for width, height in ((LARGE, LARGE), (LARGE, 1), (1, LARGE), (0, 1), (1, 0), (30_000, 30_000), (65_500, 2)):
        yield f"lies-{width}x{height}.png", _png(width, height, pixels)
    bmp, jpeg, gif = saved(image(), "BMP"), saved(image(), "JPEG"), saved(image(), "GIF")
    yield "lies.bmp", bmp[:18] + struct.pack("<ii", LARGE, -LARGE) + bmp[26:]
    frame = jpeg.index(b"\xff\xc0")
    yield "lies.jpg", jpeg[: frame + 5] + struct.pack(">HH", 65_535, 65_535) + jpeg[frame + 9 :]
    yield "lies.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    yield "lies.ppm", b"P6 99999999 99999999 255\n" + bytes(100)
    yield "lies.tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0) + bytes(99)


def _bombs() -> Iterator[tuple[str, bytes]]:
    rows = zlib.compress(bytes(9_000 * (1 + 9_000 * 3)), 1)
    yield "black-81-megapixels.png", _png(9_000, 9_000, (b"IDAT", rows))
    yield (
        "text-unpacks.png",
        _png(
            8,
            8,
            (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20))),
            (b"IDAT", zlib.compress(bytes(8 * 25))),
        ),
    )
    yield (
        "profile-unpacks.png",
        _png(
            8, 8, (b"iCCP", b"icc\0\0" + zlib.compress(bytes(80 << 20))), (b"IDAT", zlib.compress(bytes(8 * 25)))
        ),
    )
    frames = [image("L", seed=seed, side=8) for seed in range(20)]
    yield "frames-3000.tiff", saved(frames[0], "TIFF", save_all=True, append_images=frames[1:] * 158)
    yield "frames-2000.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:] * 105)
    yield "gzip-unpacks.gz", gzip.compress(bytes(80 << 20))
    tiff = bytearray(saved(image("L"), "TIFF"))
    (start,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, start)
    struct.pack_into("<I", tiff, start + 2 + 12 * entries, start)
    yield "frames-in-a-circle.tiff", bytes(tiff)


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _containers(png: bytes) -> Iterator[tuple[str, bytes]]:
    nested = _zip({"a.png": png})
    for _ in range(5):
        nested = _zip({"inner.zip": nested})
    yield "zips-in-zips.zip", nested
    yield "unpacks.zip", _zip({"a.png": png[:60] + bytes(80 << 20)})
    yield "names.zip", _zip({"../../etc/passwd": png, "/root.png": png, "nul\0name.png": png, "a" * 60_000: png})
    damaged = bytearray(_zip({"a.png": png}, zipfile.ZIP_STORED))
    damaged[60:80] = bytes(20)
    yield "damaged.zip", bytes(damaged)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("device.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("caf\udce9.png")
        member.size = len(png)
        tar.addfile(member, io.BytesIO(png))
    yield "links.tar", file.getvalue()


# ---------------------------------------------------------------------------------------------------------
# Metadata, and what is no image


def _metadata() -> Iterator[tuple[str, bytes]]:
    for name, profile in (("broken", b"no profile" * 9), ("empty", b"\0"), ("large", bytes(1 << 20))):
        yield f"profile-{name}.jpg", saved(image(), "JPEG", icc_profile=profile)
        yield f"profile-{name}.png", saved(image(), "PNG", icc_profile=profile)
    for name, exif in (("noise", b"Exif\0\0" + bytes(range(256))), ("cut", b"Exif\0\0II*\0\x08\0\0\0\xff\xff")):
        yield f"exif-{name}.jpg", saved(image(), "JPEG", exif=exif)
        yield f"exif-{name}.webp", saved(image(), "WEBP", exif=exif[6:])
    turned = Image.Exif()
    turned[0x0112] = 99
    yield "turned-99-times.jpg", saved(image(), "JPEG", exif=turned)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "<script>alert(1)</script>\0\n" * 999)
    yield "script-in-text.png", saved(image(), "PNG", pnginfo=text)


def _no_images() -> Iterator[tuple[str, bytes]]:
    yield "vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "entities.svg", b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;&b;">]><svg>&c;</svg>'
    yield "page.html", b"<html><script>alert(1)</script></html>"
    yield "postscript.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n"
    yield "paper.pdf", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    yield "list.csv", b"filename,label\n/etc/passwd,real\nhttp://127.0.0.1/,fake\n"
    yield "table.parquet", b"PAR1" + bytes(60) + b"PAR1"
    yield "film.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0" + bytes(99)
    yield "program.elf", b"\x7fELF" + bytes(99)
    yield "nothing.jpg", b""
    yield "zeros.bin", bytes(4096)
    yield "noise.bin", np.random.default_rng(0).bytes(4096)
    yield "json.png", b'{"image": null}'
    yield "photoshop.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(12)


if __name__ == "__main__":
    cli.run(main)
