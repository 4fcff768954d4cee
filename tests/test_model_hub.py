"""Weights from the model hub: against a server on this machine that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import Finished

from gapl.names import DETECTOR_FILE, RELEASED, RELEASED_MB

PROJECT = Path(__file__).parent.parent
COMMIT, OTHER_COMMIT = "c" * 40, "d" * 40
OURS, THEIRS = "detector.safetensors", "checkpoint.pt"
MB = 1_000_000
LARGE = b"0123456789abcdef" * (24 * MB // 16)  # huggingface_hub writes pieces of 10 MiB
WRITTEN = 10 * 2**20  # of LARGE, when the connection breaks in its middle

# find_model as a command calls it, with another sha256 of the released file when one is given.
DRIVER = """
import sys
from gapl import cli
from models.weights import hub

def main():
    name, *sha256 = sys.argv[1:]
    hub.RELEASED_SHA256 = (sha256 or [hub.RELEASED_SHA256])[0]
    print(hub.find_model(name))

cli.run(main)
"""


@dataclass
class FakeHub:
    """What the server holds, how it misbehaves, and what it was asked.

    files   (repository, revision, file) -> content
    stall   stop in the middle of a file, until it is unset
    refuse  status of every answer on files
    asked   (method, path) of every request
    """

    url: str = ""
    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    stall: bool = False
    refuse: int | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def num_downloads(self) -> int:
        return sum(method == "GET" and "/resolve/" in path for method, path in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *_arguments: Any) -> None:
        pass

    def answer(self) -> None:
        self.hub.asked.append((self.command, self.path))
        parts = [unquote(part) for part in self.path.strip("/").split("/")]
        if self.path == "/":
            self.reply(200, {})
        elif self.hub.refuse:
            self.reply(self.hub.refuse, {"ETag": '"a page"'})
        elif parts[0] == "api":  # nothing of it is needed
            self.reply(404, {})
        else:
            self.resolve("/".join(parts[:2]), parts[3], parts[4])

    def resolve(self, repository: str, revision: str, file: str) -> None:
        """Answer /{repository}/resolve/{revision}/{file} as the hub does."""
        hub = self.hub
        if repository in hub.gated:
            return self.reply(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if all(repository != key[0] for key in hub.files):  # or it is private
            return self.reply(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if all((repository, revision) != key[:2] for key in hub.files):
            return self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        commit = {"X-Repo-Commit": OTHER_COMMIT if revision != "main" else COMMIT}
        content = hub.files.get((repository, revision, file))
        if content is None:
            return self.reply(404, {"X-Error-Code": "EntryNotFound", **commit})
        return self.send_file(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', **commit})

    def send_file(self, content: bytes, headers: dict[str, str]) -> None:
        self.begin(200, headers | {"Content-Length": str(len(content))})
        if self.command == "HEAD":
            return
        middle = len(content) // 2
        self.wfile.write(content[:middle])
        while self.hub.stall:
            time.sleep(0.05)
        self.wfile.write(content[middle:])

    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.begin(status, {"Content-Length": "0", **headers})

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, _request: Any, _address: Any) -> None:
        """A client that hangs up is nothing to report."""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """An empty model hub on a port of this machine."""
    hub = FakeHub()
    handler = type("HandlerOfThisHub", (Handler,), {"hub": hub})
    server = Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield hub
    hub.stall = False
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class User:
    """Somebody whose hub is `hub_url`, with an empty cache at first."""

    home: Path
    hub_url: str
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        unwanted = ("HF_", "HTTP_", "HTTPS_", "ALL_PROXY")
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(unwanted)}
        ours = {"HF_ENDPOINT": self.hub_url, "HF_HOME": str(self.home / "hf"), "PYTHONPATH": str(PROJECT)}
        return kept | ours | self.settings

    def start(self, *command: object, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        # A shell starts what is in its background with SIGINT ignored, which children inherit.
        interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        words = [sys.executable, *map(str, command)]
        return subprocess.Popen(words, env=self.environment(), cwd=self.home, text=True, **pipes, **interruptible)

    def find(self, name: str, *sha256: str) -> Finished:
        """What `find_model` does; stdout is the path that it found."""
        process = self.start("-c", DRIVER, name, *sha256)
        out, err = process.communicate(timeout=30)
        return Finished(process.returncode, out, err)

    def found(self, name: str, *sha256: str) -> Path:
        done = self.find(name, *sha256)
        assert done.code == 0, done.err
        return Path(done.out.strip())

    def without_a_hub(self) -> User:
        """The same user when nobody listens at the hub's port."""
        with closing(socket.socket()) as unused:
            unused.bind(("127.0.0.1", 0))
            return replace(self, hub_url=f"http://127.0.0.1:{unused.getsockname()[1]}")

    def partial_files(self) -> list[Path]:
        return list((self.home / "hf").rglob("*.incomplete"))


@pytest.fixture
def user(hub: FakeHub, tmp_path: Path) -> User:
    return User(tmp_path, hub.url)


# ---------------------------------------------------------------------------------------------------------
# Downloading, and what is here


def test_a_file_is_downloaded_once(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    hub.files["some/detector", "main", THEIRS] = b"other weights"
    path = user.found("some/detector")
    assert path.name == OURS
    assert path.read_bytes() == b"weights"
    assert user.found("some/detector") == path
    assert hub.num_downloads() == 1
    assert not user.partial_files()


def test_a_new_version_is_downloaded(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    user.found("some/detector")
    hub.files["some/detector", "main", OURS] = b"new weights"
    hub.files["some/detector", "v2", OURS] = b"new weights"
    assert user.found("some/detector@v2").read_bytes() == b"new weights"


def test_checkpoint_is_taken_when_there_is_no_detector_file(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", THEIRS] = b"weights"
    assert user.found("some/detector").name == THEIRS
    assert user.without_a_hub().found("some/detector").name == THEIRS


@pytest.mark.parametrize(("revision", "asked"), [("v1.0", "v1.0"), ("refs/pr/2", "refs%2Fpr%2F2")])
def test_the_revision_reaches_the_hub(revision: str, asked: str, hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    hub.files["some/detector", revision, OURS] = b"old weights"
    assert user.found(f"some/detector@{revision}").read_bytes() == b"old weights"
    assert {path for _, path in hub.asked if "/resolve/" in path} == {f"/some/detector/resolve/{asked}/{OURS}"}
    assert user.without_a_hub().found(f"some/detector@{revision}").read_bytes() == b"old weights"


def test_without_a_hub_what_is_here_is_used(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    path = user.found("some/detector")
    done = user.without_a_hub().find("some/detector")
    assert Path(done.out.strip()) == path
    assert "the model hub does not answer (ConnectError): only files that are here are used" in done.err
    offline = replace(user.without_a_hub(), settings={"HF_HUB_OFFLINE": "1"}).find("some/detector")
    assert (Path(offline.out.strip()), offline.err) == (path, "")


def test_a_hub_that_refuses_is_none(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    path = user.found("some/detector")
    for status in (503, 403):
        hub.refuse = status
        assert user.found("some/detector") == path
    error = user.find("other/detector").only_error()
    assert error.startswith("error: other/detector: no such file or folder here, and the model hub refuses (")
    assert "403" in error


def test_a_repository_that_is_gone_serves_from_here(hub: FakeHub, user: User) -> None:
    hub.files[RELEASED, "main", THEIRS] = b"weights"
    path = user.found(f"{RELEASED}@main")
    hub.files.clear()
    assert user.found(f"{RELEASED}@main") == path


def test_a_server_that_is_no_hub_is_one_line(hub: FakeHub, user: User) -> None:
    """As a login page of the network that answers all with itself."""
    hub.refuse = 200
    error = user.find("some/detector").only_error()
    assert "does not seem to be served by a Hugging Face Hub endpoint" in error
    assert hub.num_downloads() == 0


def test_an_interrupted_download_leaves_nothing_and_is_started_anew(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = LARGE
    hub.stall = True
    process = user.start("-c", DRIVER, "some/detector")
    give_up = time.monotonic() + 20
    while not any(path.stat().st_size >= WRITTEN for path in user.partial_files()):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert not user.partial_files()
    hub.stall = False
    assert user.found("some/detector").read_bytes() == LARGE


# ---------------------------------------------------------------------------------------------------------
# The released file


def test_the_released_file_is_checked_on_each_call(hub: FakeHub, user: User) -> None:
    hub.files[RELEASED, "main", THEIRS] = b"weights"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    path = user.found(RELEASED, sha256)
    assert path.name == THEIRS
    path.write_bytes(b"damaged")
    error = user.find(RELEASED, sha256).only_error()
    assert f"not the released {sha256}" in error
    assert f"remove {path.resolve()} and try again" in error
    path.resolve().unlink()
    assert user.found(RELEASED, sha256).read_bytes() == b"weights"


def test_another_released_file_is_refused_unless_its_revision_is_named(hub: FakeHub, user: User) -> None:
    hub.files[RELEASED, "main", THEIRS] = b"weights"
    error = user.find(RELEASED).only_error()
    assert f"its sha256 is {hashlib.sha256(b'weights').hexdigest()}, not the released" in error
    assert error.endswith(f"or name {RELEASED}@main to use it unchecked")
    assert user.found(f"{RELEASED}@main").read_bytes() == b"weights"
    assert hub.num_downloads() == 1


@pytest.mark.parametrize("settings", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_without_a_hub_one_line_says_what_to_download(settings: dict[str, str], user: User) -> None:
    nowhere = replace(user.without_a_hub(), settings=settings)
    started = time.monotonic()
    error = nowhere.find(RELEASED).only_error()
    assert time.monotonic() - started < 15
    assert error.startswith(f"error: {RELEASED}: ")
    assert f"download {nowhere.hub_url}/{RELEASED}/resolve/main/{THEIRS} ({RELEASED_MB:,} MB)" in error
    assert error.endswith(f"name the file's path instead, such as pretrained/{THEIRS}")


def test_a_silent_server_is_not_waited_for(user: User) -> None:
    """Its port accepts connections, and nothing comes back."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        done = replace(user, hub_url=f"http://127.0.0.1:{silent.getsockname()[1]}").find(RELEASED)
    assert time.monotonic() - started < 15
    assert "the model hub does not answer (ReadTimeout)" in done.err
    assert "no model hub to ask" in done.only_error()


# ---------------------------------------------------------------------------------------------------------
# Names that lead to nothing


def test_what_the_hub_has_not_is_named(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", "README.md"] = b"text"
    hub.gated.add("closed/detector")
    neither = "no such file or folder here, nor a repository on the model hub (a private one needs HF_TOKEN)"
    gated = "the owner of this repository of the model hub must let you in; ask there, and set HF_TOKEN"
    expected = {
        "nobody/nothing": neither,
        "nobody/nothing@v1": neither,
        "runs/stage2": neither,
        "some/detector@v1": "this repository of the model hub has no revision 'v1'",
        "some/detector": f"this repository of the model hub has no {OURS} or {THEIRS}",
        "closed/detector": gated,
    }
    running = {name: user.start("-c", DRIVER, name) for name in expected}
    for name, process in running.items():
        out, err = process.communicate(timeout=30)
        assert Finished(process.returncode, out, err).only_error() == f"error: {name}: {expected[name]}"


def test_a_missing_folder_without_a_hub(user: User) -> None:
    error = replace(user, settings={"HF_HUB_OFFLINE": "1"}).find("runs/stage2").only_error()
    assert (
        "runs/stage2: no such file or folder here, no such repository downloaded before, and no model hub" in error
    )


def test_paths_are_not_asked_for(hub: FakeHub, user: User) -> None:
    (user.home / "runs" / "stage2").mkdir(parents=True)
    for path in ("x/y.safetensors", "x/y.pt", "../x", "./x", "a/b/c", "a--b/c", "stage2"):
        assert user.find(path).only_error() == f"error: {Path(path)}: no such file; expected {DETECTOR_FILE}"
    assert user.find("runs/stage2").only_error() == f"error: runs/stage2: a folder; expected {DETECTOR_FILE}"
    (user.home / "runs" / "stage2" / OURS).touch()
    assert user.found("runs/stage2") == Path("runs/stage2") / OURS
    assert not hub.asked


# ---------------------------------------------------------------------------------------------------------
# Disks


def test_a_cache_that_is_no_folder_is_one_line(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    (user.home / "hf").write_bytes(b"")
    error = user.find("some/detector").only_error()
    assert error == (
        f"error: some/detector: cannot write to {user.home / 'hf' / 'hub'} (Not a directory); "
        "HF_HOME names another folder"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_one_line_and_serves_what_it_has(hub: FakeHub, user: User) -> None:
    hub.files["some/detector", "main", OURS] = b"weights"
    hub.files["other/detector", "main", OURS] = b"weights"
    path = user.found("some/detector")
    folders = [user.home / "hf", *(folder for folder in (user.home / "hf").rglob("*") if folder.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert user.found("some/detector") == path
        assert "(Permission denied); HF_HOME names" in user.find("other/detector").only_error()
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_full_disk_is_one_line_and_leaves_nothing(hub: FakeHub, user: User) -> None:
    """The limit of a file's size stands for the disk's."""
    hub.files["some/detector", "main", OURS] = LARGE
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({15 * MB}, {15 * MB}))"
    process = user.start("-c", f"{limit}\n{DRIVER}", "some/detector")
    out, err = process.communicate(timeout=30)
    error = Finished(process.returncode, out, err).only_error()
    assert "(File too large); HF_HOME names another folder" in error
    assert not user.partial_files()
    assert user.found("some/detector").read_bytes() == LARGE


# ---------------------------------------------------------------------------------------------------------
# The command line


def tiny_detector(path: Path) -> bytes:
    """A detector file that needs no backbone."""
    from gapl.config import DetectorConfig
    from gapl.names import TINY
    from models.detector import build_detector
    from models.weights.backbone import architecture, fingerprint, load_backbone
    from models.weights.checkpoint import Checkpoint, save_checkpoint

    backbone = load_backbone(TINY)
    config = DetectorConfig(1, TINY, architecture(TINY), backbone.pixel)
    detector = build_detector(config, backbone.tower).eval()
    print_of_tower = fingerprint(backbone.tower.state_dict())
    save_checkpoint(
        path, Checkpoint(detector=detector, config=config, backbone_fingerprint=print_of_tower, form="full")
    )
    return path.read_bytes()


def read_all(terminal: int) -> str:
    """All that is written to a terminal until its last writer closes it."""
    read = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # so says Linux
            piece = b""
        if not piece:
            return read.decode()
        read += piece


def test_inference_downloads_its_detector(hub: FakeHub, user: User) -> None:
    """The progress bar is on the terminal, and stdout holds the verdict alone."""
    hub.files["some/detector", "main", OURS] = tiny_detector(user.home / OURS)
    image = PROJECT / "assets" / "test_image.jpg"
    command = ("--model_path", "some/detector", "--image_path", image, "--allow-tiny", "--json")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = user.start(PROJECT / "inference.py", *command, stderr=theirs)
    os.close(theirs)
    shown = read_all(ours)
    os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, shown
    assert json.loads(out)["label"] in ("real", "fake")
    assert re.search(rf"{OURS}: +100%\|", shown)


def test_inference_says_in_one_line_what_is_missing(user: User) -> None:
    image = PROJECT / "assets" / "test_image.jpg"
    process = user.start(PROJECT / "inference.py", "--model_path", "x/y", "--image_path", image, "--json")
    out, err = process.communicate(timeout=30)
    assert out == ""
    assert (
        Finished(process.returncode, out, err).only_error().startswith("error: x/y: no such file or folder here")
    )
