"""What a user names as a detector: a file, a run's folder, or a repository of the model hub."""

from __future__ import annotations

import re
from pathlib import Path

from gapl.names import DETECTOR_NAME

WORDS = r"\w+(?:[.-]\w+)*"  # the hub has no `a--b`, `..` or `.hidden`
REPOSITORY = re.compile(rf"(?P<repository>{WORDS}/{WORDS})(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt", ".onnx", ".xml")


def in_run(path: Path) -> Path:
    """Return the detector file of a run's folder; any other path is itself."""
    inside = path / DETECTOR_NAME
    return inside if inside.is_file() else path


def as_repository(name: str) -> re.Match[str] | None:
    """Return the `repository` and the `revision` that a name states, or None: it is a path, or ends like one."""
    is_path = Path(name).exists() or name.endswith(FILE_SUFFIXES)
    return None if is_path else REPOSITORY.fullmatch(name)
