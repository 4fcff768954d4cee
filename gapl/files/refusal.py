"""How a file that cannot be used is refused: in one line that says what was expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_REASON = 200  # characters: an untrusted file may contain names and numbers of any length


def check_is_file(path: Path, *, what: str) -> None:
    """Raise ValueError, one line, unless there is such a file; `what` says what was expected."""
    if not path.is_file():
        missing = "a link to nothing" if path.is_symlink() else "no such file"
        kind = missing if not path.exists() else "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"{path}: {kind}; expected {what}")


def check_replaceable(path: Path, *, sources: Iterable[Path], what: str, is_one: Callable[[Path], bool]) -> None:
    """Raise ValueError, one line, where a file to write would replace a source, or another kind of file.

    sources  what the command reads
    what     what it writes
    is_one   tells whether a file is one of these; an empty file is lost without harm
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file")
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise ValueError(f"{path} is read by this command; name another --out")
    if path.is_file() and path.stat().st_size and not is_one(path):
        raise ValueError(f"{path} is there already, and no {what}; name another --out")


def begins_with(path: Path, start: str) -> bool:
    """Tell whether a file begins so, as one of ours does: only such a file may be replaced."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start.encode()


def refusal(path: Path, error: ValueError, *, what: str) -> ValueError:
    """Return a ValueError with the path, the reason and what was expected, on one short, printable line."""
    reason = "".join(char if char.isprintable() else "?" for char in " ".join(str(error).split()))
    reason = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 3]}..."
    return ValueError(f"{path}: {reason}; expected {what}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class when it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError of the block: that of a full disk does not say which."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
