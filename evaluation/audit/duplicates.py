"""Perceptual hashes and checksums of two lists of images -> which of the first have a near copy in the second.

Shape suffixes: A images of the one list, B of the other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

# The largest Hamming distance of two hashes that counts, of 64 bits.
# Saving 218 pictures of 256 px again as JPEG of quality 30 changed at most 6 bits, mostly none or 2.
# Unrelated pictures differ in 32 bits on average, with a standard deviation of 4.
MAX_BITS = 6
COLUMNS = ("uri", "source", "partner", "partner_source", "bits", "same_file")
BLOCK = 1 << 22  # pairs compared at once
# The hashes of pictures of one colour: these look alike, but are not duplicates.
FLAT = frozenset({"0000000000000000", "8000000000000000", "ffffffffffffffff"})


def find_duplicates(images: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return the images that have a partner among the others: the same file, or the one with the nearest hash.

    images, others   rows of data.benchmarks.traits.read_traits without an error

    There is a row for each such image; the columns are COLUMNS. Hashes count as near up to MAX_BITS apart.
    """
    partner_of_file = others.drop_duplicates("content_sha256").set_index("content_sha256")["uri"]
    source_of = dict(zip(others["uri"], others["source"], strict=True))
    same = images["content_sha256"].map(partner_of_file)
    nearest, bits = _nearest(images, others)
    found = pd.DataFrame(
        {
            "uri": images["uri"],
            "source": images["source"],
            "partner": same.where(same.notna(), nearest),
            "bits": np.where(same.notna(), 0, bits),
            "same_file": same.notna(),
        }
    )
    found = found[found["bits"] <= MAX_BITS]
    found = found.assign(partner_source=found["partner"].map(source_of)).sort_values(["bits", "uri"])
    return found[list(COLUMNS)].reset_index(drop=True)


def _nearest(images: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.Series, np.ndarray]:
    """Return for each image the uri of the nearest other, and its distance in bits: 64 where there is none."""
    first, second = (frame[~frame["perceptual_hash"].isin(FLAT)] for frame in (images, others))
    uris = pd.Series("", index=images.index, dtype=object)
    bits = pd.Series(64, index=images.index)
    hash_A, hash_B = _numbers(first), _numbers(second)
    if len(hash_B):
        rows = max(1, BLOCK // len(hash_B))
        for start in range(0, len(hash_A), rows):
            bits_AB = np.bitwise_count(hash_A[start : start + rows, None] ^ hash_B)
            best_A = bits_AB.argmin(axis=1)
            index = first.index[start : start + rows]
            uris[index] = second["uri"].to_numpy()[best_A]
            bits[index] = bits_AB[np.arange(len(best_A)), best_A]
    return uris, bits.to_numpy()


def _numbers(frame: pd.DataFrame) -> np.ndarray:
    return np.array([int(digits, 16) for digits in frame["perceptual_hash"]], dtype=np.uint64)
