#!/usr/bin/env bash
# Measures training, sampling, attention and precision on one GPU in under 8 minutes,
# with random data: no dataset, no weights, no network. See gpu.py beside this file.
#
#   tests/benchmarks/gpu.sh [--out FOLDER] [--tiny] [--parts small,dit_b]
#
#   PYTHON=python3   a Python with jax[cuda], flax, optax and orbax-checkpoint; torch and
#                    diffusers too for the peer
#   WHEELS=FOLDER    wheels to add first, for a machine without a network:
#                    pip download --no-deps --dest FOLDER ml_collections diffusers
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
if [ -n "${WHEELS:-}" ]; then
  site="$(mktemp -d)"
  trap 'rm -rf "${site}"' EXIT
  "${python}" -m pip install --quiet --no-index --no-deps --no-compile \
    --disable-pip-version-check --target "${site}" "${WHEELS}"/*.whl
  export PYTHONPATH="${site}${PYTHONPATH:+:${PYTHONPATH}}"
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
"${python}" - <<'END'
import flax, jax, jaxlib, platform
print(f"python {platform.python_version()}, jax {jax.__version__}, jaxlib "
      f"{jaxlib.__version__}, flax {flax.__version__}, {jax.devices()[0].device_kind}")
END
"${python}" tests/benchmarks/gpu.py "$@"
