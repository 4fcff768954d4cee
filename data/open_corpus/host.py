"""Download the listed files of a repository from public git hosting: two requests each, listed files only."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from data.open_corpus.listing import Origin
from data.open_corpus.repository import GitFailed, Repository, run_git

logger = logging.getLogger(__name__)

GITHUB = "https://github.com"
MAX_FAILURES = 3  # in a row: after them the host is asked no more

# What git says (in lower case) of a repository that is gone, private, renamed or blocked, and of a commit.
_REPOSITORY_GONE = (
    "not found",
    "repository not exported",
    "could not read username",
    "authentication failed",
    "does not appear to be a git repository",
    "unavailable due to",
    "has been disabled",
    "error: 451",
)
_COMMIT_GONE = ("not our ref", "unadvertised object", "couldn't find remote ref")


_SCRATCH = ".repository-"  # hidden, so that it is no class folder


class Gone(Exception):
    """Raised when a repository or a commit is not at the host any more; the text says which."""


class HostFailed(Exception):
    """Raised when the host cannot be reached, refuses or is too slow; the text is one line."""


def clear_scratch(folder: Path) -> None:
    """Delete the repositories that a killed process left in a folder."""
    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)


@dataclass
class Host:
    """Public git hosting: `<url>/<owner>/<name>.git` is a repository.

    timeout_s   for one request
    pause_s     before every repository but the first
    failures    repositories in a row for which the host failed
    """

    url: str = GITHUB
    timeout_s: float = 900
    pause_s: float = 1
    failures: int = 0
    _asked: bool = False

    @contextmanager
    def fetch(self, origin: Origin, paths: Collection[str], *, scratch: Path) -> Iterator[Repository]:
        """Yield a repository with those of the files `paths` that it has; it is deleted after the block.

        It is made in the folder `scratch`. Raises Gone or HostFailed.
        """
        with TemporaryDirectory(prefix=_SCRATCH, dir=scratch) as folder:
            yield self._download(origin, paths, Path(folder))

    def _download(self, origin: Origin, paths: Collection[str], git_dir: Path) -> Repository:
        if self.failures >= MAX_FAILURES:
            raise HostFailed(f"not tried: {self.url} failed {MAX_FAILURES} times in a row")
        if self._asked:
            time.sleep(self.pause_s)
        self._asked = True
        try:
            repository = self._fetch_listed(origin, paths, git_dir)
        except GitFailed as error:
            raise self._judge(str(error)) from None
        self.failures = 0
        return repository

    def _fetch_listed(self, origin: Origin, paths: Collection[str], git_dir: Path) -> Repository:
        run_git(git_dir, "init", "--quiet", "--bare", "--template=")
        run_git(git_dir, "remote", "add", "origin", f"{self.url.rstrip('/')}/{origin.repository}.git")
        options = ("fetch", "--quiet", "--no-tags", "--filter=blob:none")
        run_git(git_dir, *options, "--depth=1", "origin", origin.commit, network_s=self.timeout_s)
        repository = Repository(git_dir, origin.commit)
        files = repository.files()
        object_ids = sorted({files[path] for path in paths if path in files})
        if object_ids:
            # All of them at once, as git itself asks for what a partial clone lacks.
            batch = ("-c", "fetch.negotiationAlgorithm=noop", *options, "--no-write-fetch-head", "--stdin")
            wanted = "".join(f"{object_id}\n" for object_id in object_ids)
            run_git(git_dir, *batch, "origin", stdin=wanted.encode(), network_s=self.timeout_s)
        return repository

    def _judge(self, message: str) -> Gone | HostFailed:
        """Return what an error of git means, and count whether the host failed."""
        lower = message.lower()
        for texts, reason in ((_COMMIT_GONE, "commit gone"), (_REPOSITORY_GONE, "repository gone")):
            if any(text in lower for text in texts):
                self.failures = 0
                return Gone(reason)
        self.failures += 1
        lines = [line for line in message.splitlines() if line.startswith(("fatal:", "error:"))]
        reason = (lines or message.splitlines() or ["git failed"])[0].removeprefix("fatal: ")
        if self.failures == MAX_FAILURES:
            logger.warning("%s failed %d times in a row and is asked no more", self.url, MAX_FAILURES)
        return HostFailed(f"host failed: {reason}")
