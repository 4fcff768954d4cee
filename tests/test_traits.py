"""What a file tells of itself: format, size, compression, camera, and the hash of its look."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from data.benchmarks.traits import TRAIT_COLUMNS, estimate_quality, read_traits, traits_of
from data.records import Record
from data.shards.scan import read_index
from evaluation.audit.duplicates import MAX_BITS
from gapl.decode import UnreadableImage
from gapl.labels import Label


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Blobs of colour: smooth, with structure at low frequencies as photographs have."""
    grid = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((160, 120), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format, **options)
    return encoded.getvalue()


def distance(one: str, other: str) -> int:
    return int(imagehash.hex_to_hash(one) - imagehash.hex_to_hash(other))


def test_quality_is_that_pillow_wrote(picture: Image.Image) -> None:
    small = picture.resize((16, 16))
    wrong = {
        quality: found
        for quality in range(30, 99)
        if abs((found := traits_of(encode(small, quality=quality)).jpeg_quality or 0) - quality) > 2
    }
    assert wrong == {}


def test_quality_of_grey_and_of_two_tables(picture: Image.Image) -> None:
    """The luminance table counts; that of the colours may be another."""
    assert traits_of(encode(picture.convert("L"), quality=81)).jpeg_quality == 81
    with (
        Image.open(io.BytesIO(encode(picture, quality=60))) as sixty,
        Image.open(io.BytesIO(encode(picture, quality=90))) as ninety,
    ):
        tables = {0: sixty.quantization[0], 1: ninety.quantization[1]}
    assert traits_of(encode(picture, qtables=tables)).jpeg_quality == 60


def test_quality_of_a_foreign_table_is_the_nearest() -> None:
    flat = np.full(64, 8)
    assert 80 < estimate_quality(flat) < 100
    assert estimate_quality(4 * flat) < estimate_quality(2 * flat) < estimate_quality(flat)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg(picture: Image.Image, subsampling: str) -> None:
    encoded = encode(picture, quality=75, subsampling=subsampling)
    found = traits_of(encoded)
    assert (found.format, found.width, found.height, found.subsampling) == ("JPEG", 160, 120, subsampling)
    assert found.bytes_per_pixel == pytest.approx(len(encoded) / (160 * 120))
    assert (found.has_exif, found.camera) == (False, "")


def test_png_has_nothing_of_a_jpeg(picture: Image.Image) -> None:
    found = traits_of(encode(picture, "PNG"))
    assert (found.format, found.jpeg_quality, found.subsampling) == ("PNG", None, "")
    assert traits_of(encode(picture.convert("L"))).subsampling == "grey"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [("NIKON", "D90\0 ", "NIKON D90"), ("Canon", "Canon EOS 5D", "Canon EOS 5D"), ("", "Pixel 8", "Pixel 8")],
)
def test_camera(picture: Image.Image, format: str, make: str, model: str, camera: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = make, model
    found = traits_of(encode(picture, format, exif=exif.tobytes()))
    assert (found.has_exif, found.camera) == (True, camera)


def test_damaged_exif_is_no_camera(picture: Image.Image) -> None:
    found = traits_of(encode(picture, exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged"))
    assert (found.has_exif, found.camera) == (True, "")


@pytest.mark.parametrize(("format", "quality"), [("JPEG", 30), ("JPEG", 90), ("WEBP", 50)])
def test_hash_stays_when_saved_again(picture: Image.Image, format: str, quality: int) -> None:
    before = traits_of(encode(picture, "PNG"))
    after = traits_of(encode(picture, format, quality=quality))
    assert distance(before.perceptual_hash, after.perceptual_hash) <= MAX_BITS
    assert before.content_sha256 != after.content_sha256
    turned = traits_of(encode(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"))
    assert distance(before.perceptual_hash, turned.perceptual_hash) > MAX_BITS


def test_no_image() -> None:
    with pytest.raises(UnreadableImage, match="not an image"):
        traits_of(b"no image")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_table_of_files(tmp_path: Path, picture: Image.Image, num_workers: int) -> None:
    records = []
    for number in range(20):
        path = tmp_path / f"{number:02d}.jpg"
        path.write_bytes(encode(picture, quality=40 + number))
        records.append(Record(str(path), Label(number % 2), f"source{number % 3}"))
    (tmp_path / "05.jpg").write_bytes(b"broken")
    (tmp_path / "07.jpg").unlink()
    table = read_traits(records, num_workers=num_workers, quiet=True)
    assert tuple(table.columns) == TRAIT_COLUMNS
    assert table["uri"].to_list() == [record.uri for record in records]
    assert table.index[table["error"] != ""].to_list() == [5, 7]
    read = table[table["error"] == ""]
    assert read["jpeg_quality"].to_list() == [40 + number for number in read.index]
    assert table["label"].to_list() == [0, 1] * 10


def test_table_of_rows_of_a_shard(tmp_path: Path, picture: Image.Image) -> None:
    images = [encode(picture, quality=50 + number) for number in range(4)]
    columns = {"image_data": images, "label": [1, 1, 0, 0], "model_name": ["a", "a", "b", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    index = read_index(tmp_path / "rows.parquet")
    records = [index.record(position) for position in (3, 0, 2)]
    table = read_traits(records, num_workers=0, quiet=True)
    assert table["jpeg_quality"].to_list() == [53, 50, 52]
    assert table["source"].to_list() == ["b", "a", "b"]


def test_no_records() -> None:
    with pytest.raises(ValueError, match="at least one"):
        read_traits([])
