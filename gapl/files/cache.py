"""Where downloads and computed features are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder of downloads and features: $GAPL_CACHE, or `gapl` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapl"
    return Path(os.environ.get("GAPL_CACHE") or default)
