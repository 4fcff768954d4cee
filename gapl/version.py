"""The version of this project, which CITATION.cff states."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

CITATION = Path(__file__).parent.parent / "CITATION.cff"


def version() -> str:
    """Return the version: in a clone that of CITATION.cff, else that of the installed package."""
    if not CITATION.is_file():
        return importlib.metadata.version("gapl")
    (line,) = (line for line in CITATION.read_text(encoding="utf-8").splitlines() if line.startswith("version: "))
    return line.removeprefix("version: ")
