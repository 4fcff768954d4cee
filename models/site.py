"""The folder of a web page that judges images in the browser: web/, a detector's files and onnxruntime-web."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gapl.files.atomic import replacing
from gapl.files.cache import cache_dir
from gapl.files.checksum import sha256_of
from gapl.files.refusal import begins_with
from gapl.gallery import listing
from models.web import save_web

if TYPE_CHECKING:
    from models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

PACKAGE = "onnxruntime-web@1.30.0"
PACKAGE_MB = 33
RUNTIME = {  # its files that the page needs, and their sha256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
KIND = "gapl-web"  # what the page says it is
INDEX, FILES = "index.html", "files.js"
LARGE = (".onnx", ".wasm")


def write_site(out: Path, checkpoint: Checkpoint, *, page: Path, images: Sequence[Image.Image]) -> float:
    """Write the folder, and return by how much P(fake) differs from that of torch.

    page     the folder with the sources of the page
    images   to compare the scores of

    Raises ValueError when another web site is there, it differs too much, the page cannot run this detector, or
    onnxruntime-web cannot be fetched; OSError when the folder cannot be written.
    """
    check_folder(out, page=page)
    runtime = fetch_runtime(cache_dir())
    difference = save_web(out / "model", checkpoint, images=images)
    for path in sorted(page.iterdir(), key=lambda path: path.name != INDEX):  # first what the folder is known by
        _copy(path, out / path.name)
    for name in RUNTIME:
        _copy(runtime / name, out / "onnxruntime" / name)
    list_files(out, page=page)
    return difference


def check_folder(out: Path, *, page: Path) -> None:
    """Raise ValueError where the page would replace files of another web site."""
    if begins_with(out / INDEX, listing.start(KIND)):
        return
    for path in (out / INDEX, *(out / path.name for path in page.iterdir()), out / FILES):
        if path.exists():
            raise ValueError(f"{path} is there already, and not of this page; name another folder")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as scratch:
        shutil.copyfile(source, scratch)


def list_files(out: Path, *, page: Path) -> None:
    """Write files.js: which files the page keeps for the next visit, and a name that changes with them."""
    paths = [out / path.name for path in page.iterdir()]
    paths += [path for folder in ("model", "onnxruntime") for path in (out / folder).iterdir()]
    paths.sort()
    version = hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()[:16]
    small = [path.relative_to(out).as_posix() for path in paths if path.suffix not in LARGE]
    large = {path.relative_to(out).as_posix(): path.stat().st_size for path in paths if path.suffix in LARGE}
    listed = {"CACHE": version, "FILES": [*small, FILES], "LARGE": large}
    lines = [f"self.{name} = {json.dumps(value, indent=1)};\n" for name, value in listed.items()]
    with replacing(out / FILES) as scratch:
        scratch.write_text("".join(lines), encoding="utf-8")


def fetch_runtime(folder: Path) -> Path:
    """Return the folder with the files of onnxruntime-web. npm downloads them once; they are kept below `folder`.

    Raises ValueError when npm cannot download the package or brings other files, OSError when they cannot be kept.
    """
    kept = kept_runtime(folder)
    if all((kept / name).is_file() and sha256_of(kept / name) == RUNTIME[name] for name in RUNTIME):
        return kept
    kept.mkdir(parents=True, exist_ok=True)
    log.info("Downloading %s from npm (%d MB, once) to %s", PACKAGE, PACKAGE_MB, kept)
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        with tarfile.open(npm_pack(PACKAGE, folder=Path(scratch))) as archive:
            for name in RUNTIME:
                archive.extract(f"package/dist/{name}", scratch, filter="data")
        for name, expected in RUNTIME.items():
            found = Path(scratch) / "package" / "dist" / name
            if sha256_of(found) != expected:
                raise ValueError(f"{PACKAGE}: npm brought a file {name} whose sha256 is not {expected}; not used")
            found.replace(kept / name)
    return kept


def kept_runtime(folder: Path) -> Path:
    """Return where the files of onnxruntime-web are kept."""
    return folder / PACKAGE.replace("@", "-")


def npm_pack(package: str, *, folder: Path) -> Path:
    """Let npm download a package as an archive, and return its path. Nothing of it is run.

    Raises ValueError, one line, when npm is missing or cannot download it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"{package} needs npm, which downloads it; install npm (it comes with Node.js)")
    command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"`npm pack {package}` failed: {reason}")
    return archives[0]
