#!/usr/bin/env bash
# What tpu_vm.sh starts on each worker of a slice. Its arguments go to `main`.
#
#   SETUP='sudo mount ...' bash launch/tpu_worker.sh --config ... --workdir gs://...
set -euo pipefail
cd "$(dirname "$0")/.."

# A run whose connection was lost still holds the chips. SIGTERM saves and ends it.
pid="$(cat run.pid 2>/dev/null || true)"
if [ -n "${pid}" ] && grep -qs cxr_diffusion_jax "/proc/${pid}/cmdline"; then
  kill -TERM "${pid}"
  tail --pid="${pid}" --sleep-interval=0.2 -f /dev/null
fi

# The images of some TPU VMs have an older Python.
if [ ! -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] &&
  ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON="$(python3 -m uv python find 3.12)"
fi
export JAX_ACCELERATOR=tpu
. launch/environment.sh
prepare_environment requirements.txt
if [ -n "${SETUP:-}" ]; then bash -c "${SETUP}"; fi
echo $$ >run.pid
exec python -m cxr_diffusion_jax.main --distributed "$@"
