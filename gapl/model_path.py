"""What a user names as a detector: a file, a run's folder, or a repository of the model hub."""

from __future__ import annotations

import re
from pathlib import Path

from gapl.names import DETECTOR_NAME

WORDS = r"\w+(?:[.-]\w+)*"  # the hub has no `a--b`, `..` or `.hidden`
REPOSITORY = re.compile(rf"(?P<repository>{WORDS}/{WORDS})(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
EXPORTED = (".onnx", ".xml", ".pt2")  # files of export.py
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt", *EXPORTED)


def in_run(path: Path) -> Path:
    """Return the detector file of a run's folder, or the file that export.py wrote into a folder; else the path.

    Raises ValueError when export.py wrote several.
    """
    inside = path / DETECTOR_NAME
    if inside.is_file():
        return inside
    exported = sorted(each for suffix in EXPORTED for each in path.glob(f"*{suffix}"))
    if len(exported) > 1:
        names = ", ".join(each.name for each in exported)
        raise ValueError(f"{path}: a folder with several detectors; name one of its files: {names}")
    return exported[0] if exported else path


def as_repository(name: str) -> re.Match[str] | None:
    """Return the `repository` and the `revision` that a name states, or None: it is a path, or ends like one."""
    is_path = Path(name).exists() or name.endswith(FILE_SUFFIXES)
    return None if is_path else REPOSITORY.fullmatch(name)
