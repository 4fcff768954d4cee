#!/usr/bin/env bash
# Makes the environment with the test tools, then runs ruff, mypy and pytest. Options go to pytest.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements.txt requirements-test.txt
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest "$@"
