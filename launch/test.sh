#!/usr/bin/env bash
# Sets itself up, then lints and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements-dev.txt
ruff check .
ruff format --check .
# A file of tests shares what it has made: it stays with one worker.
python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
