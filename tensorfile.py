"""The project's file format: safetensors with a JSON header, written whole or not at all, read strictly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write(path: Path, tensors: dict[str, Tensor], *, format: str, header: dict[str, Any]) -> None:
    """Replaces `path` only once the new file is complete and on disk. Raises OSError when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    metadata = {"format": format, "header": json.dumps(header, sort_keys=True)}
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, metadata)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except SafetensorError as error:  # how the library reports a full disk or a read-only folder
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        if scratch.exists():
            scratch.unlink()


def read(path: Path, *, format: str, what: str, made_by: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a file of the given format.

    Raises ValueError when there is no such file, or it is damaged, or of another format; `what` and `made_by`
    tell the user what was expected and where it comes from.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {what}, made by {made_by}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                raise ValueError(f"{path}: a safetensors file, but not {what} (made by {made_by})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or not {what} made by {made_by} ({error})") from error
    return json.loads(metadata["header"]), tensors
