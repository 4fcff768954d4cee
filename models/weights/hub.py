"""The model hub: whether it answers, and the detectors that it keeps, the released one among them."""

from __future__ import annotations

import logging
from pathlib import Path

from gapl.files.checksum import sha256_of
from gapl.files.refusal import check_is_file, first_line
from gapl.model_path import as_repository, in_run
from gapl.names import DETECTOR_FILE, DETECTOR_NAME, RELEASED, RELEASED_FILE, RELEASED_MB

log = logging.getLogger(__name__)

RELEASED_SHA256 = "ffbcb5eb526f0df0fd197d7266bdd0325b66813e95010f1285685acf2d267235"


def find_model(name: str) -> Path:
    """Return the file that a user names: a path, a run's folder, or `owner/name[@revision]` on the model hub.

    A repository of the hub is downloaded once; it holds `detector.safetensors`, or `checkpoint.pt` as the
    released one does, whose sha256 is checked. torch is not imported.

    Raises ValueError, one line, when there is neither such a file nor a hub that has it.
    """
    match = as_repository(name)
    if match is None:
        path = in_run(Path(name))
        check_is_file(path, what=DETECTOR_FILE)
        return path
    path = _from_hub(name, match["repository"], match["revision"])
    if name == RELEASED and (found := sha256_of(path)) != RELEASED_SHA256:
        raise ValueError(
            f"{path}: its sha256 is {found}, not the released {RELEASED_SHA256}: damaged, or replaced by its "
            f"authors; remove {path.resolve()} and try again, or name {RELEASED}@main to use it unchecked"
        )
    return path


def _from_hub(name: str, repository: str, revision: str | None) -> Path:
    """Return the newest file that the hub has, or an earlier download when the hub cannot be asked.

    When the hub refuses, huggingface_hub itself falls back to an earlier download.
    """
    from huggingface_hub import errors, hf_hub_download

    files = (RELEASED_FILE,) if repository == RELEASED else (DETECTOR_NAME, RELEASED_FILE)
    if not hub_answers():
        return _downloaded_before(name, repository, revision, files)
    try:
        for file in files:
            try:
                return Path(hf_hub_download(repository, file, revision=revision))
            except errors.RemoteEntryNotFoundError:
                continue
        reason = f"this repository of the model hub has no {' or '.join(files)}"
    except errors.GatedRepoError:
        reason = "the owner of this repository of the model hub must let you in; ask there, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "no such file or folder here, nor a repository on the model hub (a private one needs HF_TOKEN)"
    except errors.RevisionNotFoundError:
        reason = f"this repository of the model hub has no revision {revision!r}"
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        cause = first_line(error.__cause__ or error)
        reason = f"no such file or folder here, and the model hub refuses ({cause})"
    except (errors.HTTPError, OSError) as error:
        reason = _what_went_wrong(error)
    raise ValueError(f"{name}: {reason}")


def _downloaded_before(name: str, repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    for file in files:
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    size = f" ({RELEASED_MB:,} MB)" if repository == RELEASED else ""
    raise ValueError(
        f"{name}: no such file or folder here, no such repository downloaded before, and no model hub to ask; "
        f"download {hf_hub_url(repository, files[0], revision=revision)}{size} and name the file's path instead, "
        f"such as pretrained/{files[0]}"
    )


def _what_went_wrong(error: Exception) -> str:
    """Return on one line what the network, the hub or the disk did to a download."""
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot write to {constants.HF_HUB_CACHE} ({error.strerror}); HF_HOME names another folder"
    return f"the download failed ({first_line(error)}); run the same again"


def hub_offline() -> bool:
    """Return whether HF_HUB_OFFLINE=1 forbids asking the model hub."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return HF_HUB_OFFLINE


def hub_answers() -> bool:
    """Return whether the model hub can be asked; HF_HUB_OFFLINE=1 says no without asking.

    huggingface_hub itself would try for a minute before it gives up.
    """
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
