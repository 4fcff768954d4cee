"""The model hub: whether it answers, and detectors that it keeps.

The authors' detector is one of them; its sha256 is known.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from files import check_is_file
from files.checksum import sha256_of
from models.weights.names import DETECTOR_FILE, DETECTOR_NAME, RELEASED, RELEASED_FILE, RELEASED_MB

log = logging.getLogger(__name__)

RELEASED_SHA256 = "ffbcb5eb526f0df0fd197d7266bdd0325b66813e95010f1285685acf2d267235"
WORDS = r"\w+(?:[.-]\w+)*"  # the hub has no `a--b`, `..` or `.hidden`
REPOSITORY = re.compile(rf"(?P<repository>{WORDS}/{WORDS})(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
SHA256 = re.compile("[0-9a-f]{64}")
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def find_model(name: str) -> Path:
    """Return the file that a user names: a path, a run's folder, or `owner/name[@revision]` on the model hub.

    A repository of the hub is downloaded once; it holds `detector.safetensors`, or `checkpoint.pt` as the
    authors' does, whose sha256 is checked. Neither this nor asking the hub imports torch.

    Raises ValueError, one line, when there is neither such a file nor a hub that has it.
    """
    if (Path(name) / DETECTOR_NAME).is_file():
        return Path(name) / DETECTOR_NAME
    match = REPOSITORY.fullmatch(name)
    if Path(name).exists() or not match or name.endswith(FILE_SUFFIXES):
        check_is_file(Path(name), what=DETECTOR_FILE)
        return Path(name)
    path = _from_hub(name, match["repository"], match["revision"])
    if name == RELEASED and (found := sha256_of(path)) != RELEASED_SHA256:
        raise ValueError(
            f"{path}: its sha256 is {found}, not the released {RELEASED_SHA256}: damaged, or replaced by its "
            f"authors; remove {path.resolve()} and try again, or name {RELEASED}@main to use it unchecked"
        )
    return path


def _from_hub(name: str, repository: str, revision: str | None) -> Path:
    """The newest file that the hub has; what was downloaded before when the hub has none or cannot be asked."""
    files = (RELEASED_FILE,) if repository == RELEASED else (DETECTOR_NAME, RELEASED_FILE)
    before = _downloaded_before(repository, revision, files)
    if not hub_answers():
        if before:
            return before
        raise ValueError(f"{name}: {_without_a_hub(repository, revision, files[0])}")

    from huggingface_hub import errors

    try:
        for file in files:
            try:
                return _fetch(repository, revision, file)
            except errors.RemoteEntryNotFoundError:
                continue
        reason = f"this repository of the model hub has no {' or '.join(files)}"
    except errors.GatedRepoError:
        reason = "the owner of this repository of the model hub must let you in; ask there, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "no such file or folder here, nor a repository on the model hub (a private one needs HF_TOKEN)"
    except errors.RevisionNotFoundError:
        reason = f"this repository of the model hub has no revision {revision!r}"
    except errors.HfHubHTTPError as error:
        reason = f"no such file or folder here, and the model hub refuses ({_first_line(error)})"
    except (errors.HTTPError, OSError) as error:
        raise ValueError(f"{name}: {_what_went_wrong(error)}") from error
    if not before:
        raise ValueError(f"{name}: {reason}")
    log.warning("%s: %s; what was downloaded before is used", name, reason)
    return before


def _downloaded_before(repository: str, revision: str | None, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _without_a_hub(repository: str, revision: str | None, file: str) -> str:
    """What the user can do."""
    from huggingface_hub import hf_hub_url

    size = f" ({RELEASED_MB:,} MB)" if repository == RELEASED else ""
    return (
        "no such file or folder here, no such repository downloaded before, and no model hub to ask; "
        f"download {hf_hub_url(repository, file, revision=revision)}{size} and name the file's path instead, "
        f"such as pretrained/{file}"
    )


def _fetch(repository: str, revision: str | None, file: str) -> Path:
    """The file in the hub's own cache, downloaded unless the newest is there. Raises errors of huggingface_hub."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    url = hf_hub_url(repository, file, revision=revision)
    metadata = get_hf_file_metadata(url)
    if metadata.commit_hash and metadata.etag:  # else it is no hub that answers, as hf_hub_download explains
        folder = repo_folder_name(repo_id=repository, repo_type="model")
        blob = Path(constants.HF_HUB_CACHE, folder, "blobs", metadata.etag)
        if not blob.exists():
            _download(url, blob, file, metadata.size)
    return Path(hf_hub_download(repository, file, revision=revision))  # finds the blob, and links it


def _download(url: str, blob: Path, file: str, size: int | None) -> None:
    """Downloads with a progress bar, going on where an earlier call was interrupted.

    hf_hub_download of huggingface_hub 2 would start over, and it may ask another service, Xet, that cannot resume.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    partial = blob.with_name(f"{blob.name}.incomplete")
    lock = blob.parents[2] / ".locks" / blob.parents[1].name / f"{blob.name}.lock"
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():  # by another process, meanwhile
            return
        log.info("Downloading %s (%s MB, once) to %s", url, f"{(size or 0) / 1e6:,.0f}", blob.parents[1])
        with partial.open("ab") as stream:
            if size is not None and stream.tell() > size:
                stream.seek(0)
                stream.truncate()
            http_get(
                *(url, stream),
                resume_size=stream.tell(),
                headers=build_hf_headers(),
                expected_size=size,
                displayed_filename=file,
            )
        if SHA256.fullmatch(blob.name) and sha256_of(partial) != blob.name:  # a large file's ETag is its sha256
            partial.unlink()
            raise ValueError(f"{url}: what arrived was damaged, its sha256 is not the hub's; try again")
        partial.replace(blob)


def _what_went_wrong(error: Exception) -> str:
    """One line on what the network, the hub or the disk did to a download."""
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot write to {constants.HF_HUB_CACHE} ({error.strerror}); HF_HOME names another folder"
    return f"the download failed ({_first_line(error)}); run the same again, it goes on where it stopped"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
