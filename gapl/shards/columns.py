"""Tell which columns of parquet shards hold images, labels and names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

LABEL_COLUMN = "label"


@dataclass(frozen=True)
class Columns:
    """The columns of one kind of shards. Those named by `source` and `architecture` may be missing.

    image         the encoded image: binary, or a struct whose field `bytes` is
    generator     what made a fake
    source        where a real image is from; without it, or where it is empty, that is in `generator`
    architecture  of the generator
    """

    image: str
    generator: str
    source: str | None = None
    architecture: str | None = None

    def needed(self) -> tuple[str, ...]:
        """Return the columns that a shard must have."""
        return self.image, LABEL_COLUMN, self.generator


KINDS = {
    "Community Forensics": Columns("image_data", "model_name", "real_source", "architecture"),
    "OpenFake": Columns("image", "model"),
}


def columns_of(names: Iterable[str]) -> Columns:
    """Return the columns of the kind whose image column is among these names, else of the first kind."""
    present = set(names)
    return next((kind for kind in KINDS.values() if kind.image in present), next(iter(KINDS.values())))


def image_leaf(schema: pa.Schema) -> str | None:
    """Return the path of the encoded images in the file, such as `image.bytes`; None when there are none."""
    column = columns_of(schema.names).image
    if column not in schema.names:
        return None
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        inner = kind.get_field_index("bytes")
        return f"{column}.bytes" if inner >= 0 and _is_binary(kind.field(inner).type) else None
    return column if _is_binary(kind) else None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
