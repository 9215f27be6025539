#!/usr/bin/env bash
# Sets itself up, then lints and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements-dev.txt
ruff check .
ruff format --check .
# New errors fail; `basedpyright --writebaseline` records that known ones are fixed.
basedpyright --level error
# The tests of a file share fixtures, so they stay with one worker.
python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
