"""The versions of the packages that make a detector, as files and reports state them."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "safetensors", "numpy", "pillow")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed PACKAGES by name, without importing any of them."""
    found = {name: each.version for name in PACKAGES for each in importlib.metadata.distributions(name=name)}
    return {"python": platform.python_version(), **found}
