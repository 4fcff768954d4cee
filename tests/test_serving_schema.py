"""The service answers as its OpenAPI document says. docs/serving.md has the command of a longer run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import PROJECT, ServiceProcess
from tests.test_serving_limits import sha256

EXAMPLES = 2  # of each route and kind
SECONDS = 300  # on a machine that does something else
CONFIG = f"""
[batches]
waiting = 1_000_000
[tokens.ann]
sha256 = "{sha256("ann's")}"
"""


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_answers_are_those_of_the_document(tiny_onnx: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        PROJECT / "tests/schemathesis.toml",
        "run",
    ]
    options = ["--max-examples", EXAMPLES, "--seed", 1, "--no-shrink", "--generation-database", "none"]
    header = ["--header", "Authorization: Bearer ann's"]
    with ServiceProcess(tiny_onnx, tmp_path / "service", config=CONFIG, token="ann's") as service:
        service.wait_for_event("ready")
        line = [str(each) for each in (*command, f"{service.url}/openapi.json", *options, *header)]
        done = subprocess.run(line, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.end() == 0
        assert not [line for line in service.log() if line["event"] == "failed"]
