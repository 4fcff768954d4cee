"""The files that were sent with jobs, in a folder: they are there until their job is done."""

from __future__ import annotations

import logging
import math
import re
import secrets
import shutil
from pathlib import Path

from gapl.serving.logs import FIELDS

log = logging.getLogger(__name__)

ID = re.compile("[0-9a-f]{32}")  # of a job: who does not know it does not guess it


class JobFiles:
    """The folder <folder>/<id of a job>/<number of a file>. Other files beside them are left alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> str:
        """Make room for the files of a job, and return its id."""
        id = secrets.token_hex(16)
        self.folder(id).mkdir(mode=0o700)
        return id

    def folder(self, id: str) -> Path:
        """Return the folder of a job's files."""
        assert ID.fullmatch(id)
        return self._folder / id

    def path(self, id: str, number: int) -> Path:
        """Return the path of a file."""
        return self.folder(id) / str(number)

    def delete(self, id: str) -> None:
        """Delete the files of a job, if they are there. What cannot be deleted is told in the log."""
        try:
            shutil.rmtree(self.folder(id))
        except FileNotFoundError:
            pass
        except OSError as error:
            log.error("files were not deleted", extra={FIELDS: {"job": id, "why": error.strerror}})

    def ids(self, *, before: float) -> set[str]:
        """Return the ids of which there are files, to which none was added since a moment (seconds since 1970)."""
        return {each.name for each in self._folder.iterdir() if ID.fullmatch(each.name) and _moment(each) < before}


def _moment(folder: Path) -> float:
    """Return when a folder was changed; for one that is gone, never."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return math.inf
