"""A service in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import psutil

PROJECT = Path(__file__).resolve().parent.parent
GAPL = ("-m", "gapl", "serve")
WAIT_S = 120  # in which whatever is waited for must have come
LOOK_S = 0.01  # from one look for it to the next

T = TypeVar("T")


class ServiceProcess:
    """A service. Leaving the block kills it."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        *options: object,
        config: str = "",
        token: str = "",
        command: Sequence[str] = GAPL,
    ) -> None:
        """Start it.

        folder   for its log and jobs
        options  of the command line
        config   the text of its configuration
        token    that it can be asked with
        """
        folder.mkdir(exist_ok=True)
        self.token = token
        self.jobs = folder / "jobs"
        (folder / "config.toml").write_text(config, encoding="utf-8")
        given = [
            "--port",
            0,
            "--model_path",
            model,
            "--jobs",
            self.jobs,
            "--config",
            folder / "config.toml",
            *options,
        ]
        line = [sys.executable, *command, *map(str, given)]
        number = len(list(folder.glob("log*.jsonl")))  # what was killed may still write to its own
        self._log = folder / f"log{number}.jsonl"
        with self._log.open("x", encoding="utf-8") as log:
            self.process = subprocess.Popen(line, stderr=log, cwd=PROJECT, start_new_session=True)
        try:
            self.url = f"http://127.0.0.1:{self.wait_for_event('listening')['port']}"
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far, all of which are JSON. The last one may be half written: it is left out."""
        whole, _, _ = self._log.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for_event(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """Wait until the log has the event so many times, and return the first."""

        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None, self._log.read_text(encoding="utf-8")
            lines = [line for line in self.log() if line["event"] == event]
            return lines[0] if len(lines) >= count else None

        return wait_until(found)

    def client(self, token: str | None = None) -> httpx2.Client:
        used = self.token if token is None else token
        headers = {"Authorization": f"Bearer {used}"} if used else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=WAIT_S)

    def metric(self, name: str) -> float:
        with self.client() as client:
            text = client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for_images(self, num: int) -> None:
        """Wait until so many images of requests are in the service."""
        wait_until(lambda: self.metric("gapl_waiting_images") == num)

    def decoders(self) -> list[psutil.Process]:
        """The processes that decode."""
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]

    @contextmanager
    def decoders_stopped(self) -> Iterator[list[psutil.Process]]:
        """Have no image decoded while the block lasts."""
        stopped = self.decoders()
        for each in stopped:
            each.suspend()
        try:
            yield stopped
        finally:
            for each in stopped:
                if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                    each.resume()

    def tell_to_end(self) -> None:
        """Tell all of its processes to end, as systemd does."""
        os.killpg(self.process.pid, signal.SIGTERM)

    def end(self) -> int:
        """Tell it to end, and return its exit code."""
        self.tell_to_end()
        return self.process.wait(WAIT_S)


def wait_until(found: Callable[[], T]) -> T:
    """Return what a function finds, once that is something."""
    end = time.monotonic() + WAIT_S
    while not (it := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(LOOK_S)
    return it


def in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> Future[T]:
    """Call a function in a thread of its own, and return what will come of it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function(*arguments, **keywords))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
