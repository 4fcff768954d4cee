"""Command lines parse their options before they import what is slow. timing/startup.py measures the same ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from timing.startup import PROJECT, help_lines, refused_lines

SLOW = ("torch", "torchvision", "sklearn", "scipy", "pandas")

RUN = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *sorted(sys.modules.keys() & {set(SLOW)}), file=sys.stderr)
"""


@pytest.mark.parametrize("line", help_lines())
def test_help_imports_nothing_slow(line: str) -> None:
    assert run(line) == (0, "imported:")


@pytest.mark.parametrize("line", refused_lines())
def test_a_refusal_imports_nothing_slow(line: str) -> None:
    assert run(line) == (2, "imported:")


def run(line: str) -> tuple[int, str]:
    """Run a command line, and return its exit code and the slow modules that it imported."""
    command = [sys.executable, "-c", RUN, *line.split()]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1]
