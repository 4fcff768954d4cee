"""The scratch folders of runs: they go with the run, or with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gapl.inputs.input import Input
from gapl.kept import Kept

RUN = """
import os, signal, sys
from pathlib import Path
from gapl.inputs.input import Input
from gapl.kept import Kept

kept = Kept(Path(sys.argv[1]))
kept.keeping(Input("a", lambda: b"content")).read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    project = Path(__file__).resolve().parent.parent
    killed = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=False, cwd=project)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".scratch-*")
    assert names(left) == ["0"]
    (tmp_path / ".scratch-mine").mkdir()  # of a user, as is the next
    (tmp_path / ".scratch-notes123").mkdir()
    (tmp_path / ".scratch-notes123/notes.txt").write_text("mine")
    (tmp_path / ".scratch-abcdefgh").symlink_to(tmp_path / ".scratch-mine")
    first = Kept(tmp_path)
    assert not left.exists()
    first.keeping(Input("a", lambda: b"content")).read()
    second = Kept(tmp_path)  # of another run at the same time
    assert first.get("a").read_bytes() == b"content"  # type: ignore[union-attr]
    first.close()
    second.close()
    assert names(tmp_path) == [".scratch-abcdefgh", ".scratch-mine", ".scratch-notes123"]
