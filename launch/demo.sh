#!/usr/bin/env bash
# The main job on the embedded default, nothing downloaded but packages: makes phantoms,
# stand-in encoders and records, trains a tiny ELIXR-C model, samples it, and ends in a
# picture report. Repeated, it goes on where it was.
#
#   ./launch/demo.sh [--workdir FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements.txt

workdir=runs/demo
if [ "${1:-}" = "--workdir" ]; then workdir="$2"; fi

# An accelerator affords images of twice the side.
size=(--config.data.image_size=64)
if python -c 'import jax, sys; sys.exit(jax.default_backend() == "cpu")'; then
  size=(--config.data.image_size=128)
fi

python -m cxr_diffusion_jax.main --config configs/phantom.py "${size[@]}" \
  --workdir "${workdir}"
python -m cxr_diffusion_jax.sample --workdir "${workdir}" --num 16
python -m cxr_diffusion_jax.report --workdir "${workdir}"
