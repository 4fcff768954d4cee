"""Images that tables hold or list: rows of parquet shards, and the paths in a column of CSV or parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gapl.columns import candidates, name_columns, place_of, read_header, read_rows, text_of
from gapl.inputs.input import Input, file_input, inputs_in, refused_input, require


def list_parquet(path: Path, *, columns: Mapping[str, str], named: Callable[[str], Input | None]) -> list[Input]:
    """Return the images in the rows of a shard, called "<path>#<row>" from 0 on; without such, those it lists.

    columns  what --columns says of a list
    named    see list_rows

    Raises ValueError when no column, or it is not clear which, has encoded images or paths, or it cannot be read.
    """
    require("pyarrow", "pyarrow", what=f"{path}: parquet")
    from gapl.shards.columns import image_leaf
    from gapl.shards.files import open_shard
    from gapl.shards.rows import describe

    with open_shard(str(path)) as (file, stream):
        if image_leaf(file.schema_arrow) is not None:
            shard = describe(str(path), stream.size(), file)
            names = [(f"{path}#{row}", row) for row in range(shard.num_rows)]
            return inputs_in(names, partial(_open_shard, shard))
        header = file.schema_arrow.names
    if "filename" not in columns and not candidates(header, "filename", columns):
        found = ", ".join(header)
        raise ValueError(f"{path}: no column of encoded images, nor one of paths; found {found}")
    return list_rows(path, columns=columns, named=named)


@contextmanager
def _open_shard(shard: object) -> Iterator[Callable[[int], bytes]]:
    rows = _Rows(shard)
    try:
        yield rows.read
    finally:
        rows.close()


class _Rows:
    """The images of a shard: as long as they are asked for in order, none is read twice."""

    def __init__(self, shard: object) -> None:
        from gapl.shards.rows import Shard

        assert isinstance(shard, Shard)
        self._shard = shard
        self._rows: Iterator[tuple[int, bytes]] = iter(())
        self._next = -1

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row. Raises UnreadableImage."""
        from gapl.decode import UnreadableImage
        from gapl.shards.rows import read_rows as rows_of

        if row != self._next:
            self._rows = rows_of(self._shard, range(row, self._shard.num_rows))
        self._next = -1
        try:
            _, encoded = next(self._rows)
        except ValueError as error:
            raise UnreadableImage(str(error)) from error
        self._next = row + 1
        if not encoded:
            raise UnreadableImage("the row has no image")
        return encoded

    def close(self) -> None:
        """Close the shard."""
        self._rows = iter(())


def list_rows(path: Path, *, columns: Mapping[str, str], named: Callable[[str], Input | None]) -> list[Input]:
    """Return the images that a CSV or parquet table lists, in its order: paths relative to the table's folder.

    columns  what --columns says, such as {"filename": "picture"}
    named    returns the input of a text that is more than a path, such as a URL

    A row without a path is an input that says so when it is read.

    Raises ValueError when the table cannot be read, or it is not clear which column has the paths.
    """
    theirs = name_columns(path, read_header(path), columns, needed=("filename",), wanted=("filename",))
    inputs = []
    for number, row in enumerate(read_rows(path, theirs), start=1):
        filename = text_of(row, "filename")
        if None in row:
            inputs.append(refused_input(f"{path}, row {number}", "more fields than columns; quote a comma"))
        elif not filename:
            inputs.append(refused_input(f"{path}, row {number}", "no path"))
        else:
            inputs.append(named(filename) or file_input(place_of(path, filename)))
    return inputs
