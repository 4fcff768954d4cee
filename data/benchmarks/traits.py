"""Traits of image files: format, size, compression and camera, and a hash of how the image looks.

None of it says whether a generator made a picture; where it predicts the label all the same, a benchmark has a
shortcut.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import ExifTags, Image, JpegImagePlugin
from torch.utils.data import Dataset
from tqdm import tqdm

from data.loading.lists import read_lists
from data.loading.samples import Sample
from data.records import Record
from gapl.decode import UnreadableImage, decode_image, to_rgb

IMAGES_PER_LIST = 16
# ITU-T T.81, table K.1: luminance, at what the IJG's software calls quality 50, rows from low to high frequency.
LUMINANCE_64 = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).ravel()
QUALITIES = np.arange(1, 101)
_PERCENT = np.where(QUALITIES < 50, 5000 // QUALITIES, 200 - 2 * QUALITIES)
_TABLES = ((LUMINANCE_64 * _PERCENT[:, None] + 50) // 100).clip(1, 255)
SUBSAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}


@dataclass(frozen=True, slots=True)
class ImageTraits:
    """What a file tells without a look at its pixels, except for the hash.

    format           as Pillow names it; an MPO, a JPEG with more behind it, is "JPEG"
    width, height    in pixels, as stored
    bytes_per_pixel  of the whole file
    jpeg_quality     1 to 100 as `estimate_quality` says; None of other formats
    subsampling      of a JPEG's colours, "4:2:0" and so on, "grey" without colours; "" of other formats
    has_exif, camera whether there is an EXIF block; its Make and Model, or ""
    perceptual_hash  16 hexadecimal digits, the 64 bits of imagehash.phash: alike for pictures that look alike
    content_sha256   of the file
    """

    format: str
    width: int
    height: int
    bytes_per_pixel: float
    jpeg_quality: int | None
    subsampling: str
    has_exif: bool
    camera: str
    perceptual_hash: str
    content_sha256: str


TRAIT_COLUMNS = ("uri", "label", "source", *(field.name for field in fields(ImageTraits)), "error")


def traits_of(encoded: bytes) -> ImageTraits:
    """Return the traits of an encoded image. Raises UnreadableImage, as decoding does."""
    pixels = to_rgb(decode_image(encoded))
    with warnings.catch_warnings():
        # Pillow warns of damaged EXIF, which counts as none, and of many pixels, which decoding has accepted.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded)) as header:
            has_exif, camera = _exif(header)
            jpeg = header if isinstance(header, JpegImagePlugin.JpegImageFile) else None
            return ImageTraits(
                format="JPEG" if jpeg else header.format or "",
                width=header.width,
                height=header.height,
                bytes_per_pixel=len(encoded) / (header.width * header.height),
                jpeg_quality=_quality(jpeg) if jpeg else None,
                subsampling=_subsampling(jpeg) if jpeg else "",
                has_exif=has_exif,
                camera=camera,
                perceptual_hash=str(imagehash.phash(pixels)),
                content_sha256=hashlib.sha256(encoded).hexdigest(),
            )


def estimate_quality(table_64: Sequence[int] | np.ndarray) -> int:
    """Estimate a JPEG's quality: that of the IJG's software, and so of Pillow, whose luminance table is nearest.

    That software scales table K.1 by 5000 / quality percent below 50, by 200 - 2 quality from there on. Nearest is
    the least sum of absolute differences over the 64 entries: 0 for its own files; for tables of other makers
    (cameras, Photoshop) it is the setting that quantises about as coarsely.

    table_64   rows from low to high frequency, not in zigzag order
    """
    return int(QUALITIES[np.abs(_TABLES - np.asarray(table_64)).sum(axis=1).argmin()])


def _quality(image: JpegImagePlugin.JpegImageFile) -> int | None:
    """Estimate the quality by the table of the first component, the luminance."""
    table = image.quantization.get(image.layer[0][3]) if image.layer else None
    return None if table is None or len(table) != len(LUMINANCE_64) else estimate_quality(table)


def _subsampling(image: JpegImagePlugin.JpegImageFile) -> str:
    """Return how often luminance is sampled for each sample of the first colour, across and down: "4:2:0"."""
    if len(image.layer) < 3:
        return "grey"
    (_, across, down, _), (_, colour_across, colour_down, _) = image.layer[:2]
    ratio = across / colour_across, down / colour_down
    return SUBSAMPLINGS.get((int(ratio[0]), int(ratio[1])), f"{ratio[0]:g}x{ratio[1]:g}")


def _exif(image: Image.Image) -> tuple[bool, str]:
    """Return whether there is an EXIF block, and the camera. A damaged block counts as one without a camera."""
    has_block = bool(image.info.get("exif"))
    try:
        exif = image.getexif()
        make, model = (str(exif.get(tag) or "").strip(" \0") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
        has_block = has_block or ExifTags.IFD.Exif in exif
    except Exception:  # Pillow parses a foreign format here and names no errors
        return has_block, ""
    return has_block, model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


# ---------------------------------------------------------------------------------------------------------
# Of many images


class TraitsDataset(Dataset[Any]):
    """Turn lists of samples into rows of TRAIT_COLUMNS, in the loader's worker processes."""

    def __getitems__(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        return [_row(sample) for sample in samples]


def read_traits(records: Sequence[Record], *, num_workers: int = 2, quiet: bool = False) -> pd.DataFrame:
    """Return a row for each image, in the order of the records.

    quiet   show no progress bar

    The columns are TRAIT_COLUMNS; `source` is the record's generator. `error` says why an image could not be read
    and is empty otherwise. Raises ValueError when there are no records or a shard cannot be read.
    """
    if not records:
        raise ValueError("no images to read the traits of; expected at least one")
    lists = [records[start : start + IMAGES_PER_LIST] for start in range(0, len(records), IMAGES_PER_LIST)]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(records), desc="traits", unit="image", dynamic_ncols=True, disable=quiet) as bar:
        for found in read_lists(lists, TraitsDataset(), num_workers=num_workers):
            rows += found
            bar.update(len(found))
    return pd.DataFrame(rows, columns=list(TRAIT_COLUMNS)).astype({"jpeg_quality": float})


def _row(sample: Sample) -> dict[str, Any]:
    record = sample.record
    about = {"uri": record.uri, "label": int(record.label), "source": record.generator}
    try:
        return {**about, **asdict(traits_of(sample.read_bytes())), "error": ""}
    except (UnreadableImage, OSError) as error:
        nothing = ImageTraits("", 0, 0, float("nan"), None, "", False, "", "", "")
        return {**about, **asdict(nothing), "error": str(error)}
