"""Read files of one commit from a git directory. Paths come from a list: git never gets one as an argument."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from data.open_corpus.listing import Origin

# No question to the user, no password of theirs, and messages that we can read.
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true", "LC_ALL": "C"}
_SETTINGS = ("-c", "credential.helper=", "-c", "gc.auto=0", "-c", "maintenance.auto=0")
_NETWORK = {"GIT_ALLOW_PROTOCOL": "https:http:git:file"}
# What a partial clone lacks is an error, and not a request for each file.
_NO_NETWORK = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}


class GitFailed(Exception):
    """Raised when git ends with an error; the text is what it wrote to stderr."""


def require_git() -> None:
    """Raise ValueError when this machine has no git."""
    if shutil.which("git") is None:
        raise ValueError("there is no git on this machine, which pictures are collected with; install git")


def run_git(git_dir: Path, *arguments: str, stdin: bytes = b"", network_s: float | None = None) -> bytes:
    """Run git on a git directory and return its output.

    network_s   seconds that a request to a host may take; None: git asks no host

    Raises GitFailed, also when the time is over. Git and the helpers that it started are then ended.
    """
    command = ["git", f"--git-dir={git_dir}", *_SETTINGS, *arguments]
    environment = {**os.environ, **_QUIET, **(_NO_NETWORK if network_s is None else _NETWORK)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=network_s)
        except BaseException as stop:  # also Ctrl-C, which reaches us alone: git has a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(stop, subprocess.TimeoutExpired):
                raise GitFailed(f"fatal: no answer within {network_s:g} s") from None
            raise
    if process.returncode:
        raise GitFailed(err.decode(errors="replace"))
    return out


@dataclass(frozen=True)
class Repository:
    """A git directory that has a commit."""

    git_dir: Path
    commit: str

    def files(self) -> dict[str, str]:
        """Return the object id of every file of the commit, by its path. Raises GitFailed."""
        listed = run_git(self.git_dir, "ls-tree", "-r", "-z", "--full-tree", self.commit)
        entries = (entry.partition(b"\t") for entry in listed.split(b"\0") if entry)
        return {
            path.decode(errors="surrogateescape"): facts.split()[2].decode()
            for facts, _, path in entries
            if facts.split()[1] == b"blob"
        }

    def read(self, object_id: str) -> bytes:
        """Return the content of an object of `files()`. Raises GitFailed."""
        return run_git(self.git_dir, "cat-file", "blob", object_id)


def find_in_mirror(mirror: Path, origin: Origin) -> Repository | None:
    """Return the repository of a mirror, `<mirror>/<owner>+<name>/repo`, if it can list the files of the commit.

    `repo` is a git directory, or a work tree with one in `.git`.
    """
    folder = mirror / origin.repository.replace("/", "+") / "repo"
    git_dir = folder / ".git" if (folder / ".git").is_dir() else folder
    if not git_dir.is_dir():
        return None
    repository = Repository(git_dir, origin.commit)
    try:
        repository.files()  # a partial clone may have the commit without its folders
    except GitFailed:
        return None
    return repository
