"""gapl/ and a detector -> a wheel that holds all that a verdict needs. torch is not imported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gapl.detector import shipped_file
from gapl.explain.background import SUFFIX
from gapl.files.cache import cache_dir
from gapl.files.checksum import sha256_of
from gapl.version import version
from gapl.weights import read_engine
from gapl.wheel import INT8_FILE, read_int8

PROJECT = Path(__file__).resolve().parent.parent
PARTS = ("gapl", "pretrained/licenses", "docs/result.schema.json", "pyproject.toml", "LICENSE")  # of the project
CARD = "pretrained/README.md"  # of the detector that ships


def build_wheel(detector: Path, *, out: Path) -> Path:
    """Write a wheel of gapl/ to the folder `out`, and return its path.

    detector   a file that gapl can use without torch; the tower that an adapter stands on is added

    The version of the wheel ends with the first digits of the SHA-256 of the detector.

    Raises ValueError, one line, when gapl cannot use the detector, its tower cannot be had, or pip fails; OSError
    when something cannot be written.
    """
    info, _ = read_engine(detector)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".wheel-") as scratch:
        source = Path(scratch) / "source"
        _copy_project(source)
        for file in (detector, detector.with_suffix(SUFFIX)):
            if file.is_file():
                shutil.copyfile(file, source / "pretrained" / file.name)
        if (digits := sha256_of(detector)) == sha256_of(shipped_file()):
            shutil.copyfile(PROJECT / CARD, source / CARD)
        if info.form == "adapter":
            (source / "gapl" / INT8_FILE).write_bytes(read_int8(cache_dir()))
        stated = f"version: {version()}+weights.{digits[:8]}\n"
        (source / "CITATION.cff").write_text(stated, encoding="utf-8")
        built = _run_pip(source, Path(scratch))
        return built.replace(out / built.name)


def _copy_project(source: Path) -> None:
    for part in PARTS:
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copyfile
        copy(PROJECT / part, source / part)


def _run_pip(source: Path, out: Path) -> Path:
    """Return the wheel that pip and the build backend of pyproject.toml make of a source tree."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(out)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        errors = [line for line in lines if line.startswith("ERROR: ")]  # notes of pip may follow
        reason = (errors or lines or ["no message"])[-1]
        raise ValueError(f"`pip wheel` failed ({reason}); it needs hatchling from PyPI")
    (built,) = out.glob("*.whl")
    return built
