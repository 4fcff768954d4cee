"""The project's file format in tensors of torch; gapl/files/tensorfile.py says what a file holds."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapl.files import tensorfile
from gapl.files.atomic import replacing

if TYPE_CHECKING:
    from torch import Tensor

# The tensors begin at a multiple of this many bytes. They are mapped, and torch sums what begins elsewhere in a
# cache line in another order: a longer header would change the last bits of a score.
ALIGNMENT = 64


def read(path: Path, *, format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (header, tensors); the tensors are mapped from the file, privately.

    Raises ValueError when the file is damaged, or of another format.
    """
    return tensorfile.read(path, format=format, framework="pt")


def write(path: Path, tensors: dict[str, Tensor], *, format: str, header: dict[str, Any]) -> None:
    """Write tensors and a header; `path` is replaced only when the new file is complete and on disk.

    Raises OSError when it cannot be written, ValueError for a header with numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": format, "crc32": json.dumps({name: _crc32(tensor) for name, tensor in tensors.items()})}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    try:
        with replacing(path) as scratch:
            start = -1
            while start % ALIGNMENT:  # mostly twice; a header checksum with other digits may need a third time
                crc32 = str(zlib.crc32(text.encode()))
                save_file(tensors, scratch, metadata | {"header": text, "header_crc32": crc32})
                start = tensorfile.start_of_tensors(scratch)
                text += " " * (-start % ALIGNMENT)
    except SafetensorError as error:  # how the library reports a full disk or a read-only folder
        raise OSError(f"{path} cannot be written: {error}") from error


def _crc32(tensor: Tensor) -> int:
    import torch

    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)
