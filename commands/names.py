"""Short names for paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def tell_apart(paths: Sequence[Path]) -> list[str]:
    """Return the name of each path, or as much of the end of the path as tells them apart."""
    resolved = [path.resolve() for path in paths]
    for depth in (1, 2, 3):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))
