"""Files of weights: read as untrusted input, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from files.picklefile import PickleFile, is_pickle
from files.tensorfile import TensorFile

WeightFile = PickleFile | TensorFile
MAX_REASON = 200  # characters: an untrusted file may have a name, or a number, as long as itself


def open_weights(path: Path, *, what: str) -> WeightFile:
    """The file, by what is in it; its checksums are computed in the background until it is read.

    Raises ValueError, one line, when there is no such file or it is not sound; `what` says what was expected.
    """
    check_is_file(path, what=what)
    try:
        return PickleFile(path) if is_pickle(path) else TensorFile(path)
    except ValueError as error:
        raise refusal(path, error, what=what) from error


def check_is_file(path: Path, *, what: str) -> None:
    """Raise ValueError, one line, unless there is such a file; `what` says what was expected."""
    if not path.is_file():
        kind = "no such file" if not path.exists() else "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"{path}: {kind}; expected {what}")


def refusal(path: Path, error: ValueError, *, what: str) -> ValueError:
    """One line, not long, of characters that a terminal shows: path, what is wrong, what was expected."""
    reason = "".join(char if char.isprintable() else "?" for char in " ".join(str(error).split()))
    reason = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..."
    return ValueError(f"{path}: {reason}; expected {what}")
