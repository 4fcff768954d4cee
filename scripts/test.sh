#!/usr/bin/env bash
# Install the test tools, then run ruff, mypy and pytest. Options go to pytest.
# Tests of the HTML report need Chromium and are skipped without it; where CI is set, Chromium is installed.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements-test.txt
if [ -n "${CI:-}" ] && ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium for the tests of the HTML report"
    (apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || echo "Chromium was not installed; its tests are skipped"
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest "$@"
