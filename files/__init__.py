"""Files of weights: read as untrusted input, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from files.picklefile import PickleFile, is_pickle
from files.tensorfile import TensorFile

WeightFile = PickleFile | TensorFile


def open_weights(path: Path, *, what: str) -> WeightFile:
    """The file, by what is in it; its checksums are computed in the background until it is read.

    Raises ValueError, one line, when there is no such file or it is not sound; `what` says what was expected.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {what}")
    try:
        return PickleFile(path) if is_pickle(path) else TensorFile(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected {what}") from error
