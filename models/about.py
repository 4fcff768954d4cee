"""What an exported file says of itself: in its metadata, and in a JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from gapl.files.atomic import replacing
from gapl.files.checksum import sha256_of
from gapl.info import DetectorInfo, header_of
from gapl.weights import ONNX_FORMAT
from models.export import OUTPUTS, PIXELS
from models.parity import Parity


def metadata_of(info: DetectorInfo, *, precision: str) -> dict[str, str]:
    """Return the metadata of an exported detector without LoRA: pixels, calibrations, threshold, provenance."""
    stated = {each.name: getattr(info, each.name) for each in fields(DetectorInfo)}
    stated |= {"form": "merged", "config": replace(info.config, lora=None)}
    header = json.dumps(header_of(DetectorInfo(**stated)), allow_nan=False)
    return {"format": ONNX_FORMAT, "header": header, "precision": precision}


def write_about(
    path: Path,
    metadata: Mapping[str, str],
    *,
    files: Sequence[Path],
    parity: Mapping[str, Parity],
    versions: Mapping[str, str],
) -> None:
    """Write the JSON file `path`.

    metadata   as metadata_of returns it
    files      of the detector, which are hashed
    parity     what the check found, for each look
    versions   of the packages that wrote the files
    """
    header = json.loads(metadata["header"])
    outputs = OUTPUTS if header["config"]["stage"] == 2 else OUTPUTS[:-1]
    about: dict[str, Any] = {
        "format": metadata["format"],
        "precision": metadata["precision"],
        "files": {file.name: sha256_of(file) for file in files},
        "input": PIXELS,
        "outputs": list(outputs),
        "differs_from_torch": {look: asdict(found) for look, found in parity.items()},
        "written_by": dict(versions),
        "detector": header,
    }
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
