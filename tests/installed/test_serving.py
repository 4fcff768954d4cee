"""`gapl serve` of the installed package: the service of the detector that ships, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from asset_logits import LOGITS
from conftest import PROJECT

IMAGE = "test_image.jpg"
WAIT_S = 120


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a service, and return its process and address."""
    options = ["--views", "fast", "--port", "0", "--jobs", str(folder / "jobs")]
    with (folder / "log").open("w") as log:
        line = [sys.executable, "-P", "-m", "gapl", "serve", *options]
        process = subprocess.Popen(line, stderr=log, cwd=folder)
    return process, f"http://127.0.0.1:{wait_for(folder / 'log', 'listening')['port']}"


def wait_for(log: Path, event: str) -> dict[str, Any]:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        for line in map(json.loads, log.read_text().splitlines()):
            if line["event"] == event:
                return dict(line)
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_it_answers(tower: bytes, tmp_path: Path) -> None:
    process, url = start(tmp_path)
    try:
        wait_for(tmp_path / "log", "ready")
        image = (PROJECT / "assets" / IMAGE).read_bytes()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/detect?explain=1", data=image)) as answer:
            (row,) = json.load(answer)
        assert row["logit"] == pytest.approx(LOGITS["fast"][IMAGE], abs=0.002)
        assert "in_words" in row["explanation"]
        with urllib.request.urlopen(f"{url}/v1/model") as answer:
            assert json.load(answer)["card"].startswith("# gapl-vit-b16-open")
        for path in ("", "page/app.js", "page/gallery.css", "page/sheet.css"):
            with urllib.request.urlopen(f"{url}/{path}") as answer:
                assert answer.read()
        with urllib.request.urlopen(f"{url}/openapi.json") as answer:
            assert "Result" in json.load(answer)["components"]["schemas"]
        process.terminate()
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
