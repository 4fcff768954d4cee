#!/usr/bin/env bash
# Makes the environment with the test tools, then runs ruff, mypy and pytest. Options go to pytest.
# Tests of the HTML report need a Chromium; without one they are skipped (with CI set, one is installed).
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt requirements-test.txt
if [ -n "${CI:-}" ] && ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing chromium, in which the HTML report is opened"
    (apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || echo "not installed: its tests are skipped"
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest "$@"
