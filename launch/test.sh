#!/usr/bin/env bash
# Sets itself up, then lints and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements-dev.txt
ruff check .
ruff format --check .
python -m pytest "$@"
