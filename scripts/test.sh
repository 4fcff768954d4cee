#!/usr/bin/env bash
# Install the test tools, then run ruff, mypy and pytest; and, unless there are options for pytest, the tests of the
# package as it is installed, in .venv-slim, which has no torch.
# Tests of the HTML report need Chromium, those of shared jobs PostgreSQL, and some of the detector that ships the vision
# tower in GAPL_CACHE: they are skipped without it, and those of OpenVINO without requirements/export.txt. Where CI is
# set, all are installed.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements-test.txt
missing=()
command -v chromium >/dev/null || missing+=(chromium)
compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql)
if [ -n "${CI:-}" ] && [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing for tests: ${missing[*]}"
    (apt-get update -qq && apt-get install -y -qq "${missing[@]}" >/dev/null) || echo "Not installed; their tests are skipped"
fi
if [ -n "${CI:-}" ]; then
    install requirements/export.txt
    "$python" -m gapl assets || echo "The vision tower was not downloaded; its tests are skipped"
fi
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
OMP_NUM_THREADS=1 "$python" -m pytest --numprocesses 2 --dist worksteal "$@"
[ $# = 0 ] || exit 0

python=.venv-slim/bin/python
install requirements/installed-test.txt
"$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --force-reinstall .
"$python" -P -m pytest -o pythonpath=tests --confcutdir=tests/installed tests/installed
