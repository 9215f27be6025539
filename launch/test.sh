#!/usr/bin/env bash
# Sets itself up, then lints and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements-dev.txt
ruff check .
ruff format --check .
logs="$(mktemp -d)"
# Types are checked beside the tests, when a core is idle. New errors fail;
# `basedpyright --writebaseline` records that known ones are fixed.
nice -n 10 basedpyright --level error >"${logs}/types" 2>&1 &
checker=$!
trap 'kill "${checker}" 2>/dev/null || true; rm -rf "${logs}"' EXIT
color=no
[ ! -t 1 ] || color=yes
tests=0 types=0
# Compiled modules are kept in the environment, which is installed without any: each
# process that trains would take nine more seconds to compile its libraries.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX="${PWD}/.venv/bytecode"
# The tests of a file share fixtures, so they stay with one worker.
python -m pytest --color="${color}" -n auto --dist loadfile --no-loadscope-reorder "$@" \
  | tee "${logs}/tests" || tests=$?
wait "${checker}" || types=$?
cat "${logs}/types"
# Pytest's closing line is the last, below what the type checker reports.
tail -n 1 "${logs}/tests"
exit "$((tests ? tests : types))"
