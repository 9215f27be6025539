#!/usr/bin/env bash
# Which conditioning works best, on phantoms: all six paths, two training seeds, three
# sampling seeds, equal budgets. Ends in OUT/report/report.html. Interrupted or repeated,
# it goes on where it was.
#
#   ./launch/compare_phantom.sh [--out FOLDER]
#
#   SIZE=dit_tiny STEPS=1200   network and updates of every run
#   REAL=nih-cxr-mini          the same on a tree of real images, made small: 64 pixels,
#                              stand-in encoders; a folder named after it
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment requirements.txt

out=runs/compare_phantom
if [ "${1:-}" = "--out" ]; then out="$2"; fi
data=(--config.data.root="${out}/phantom-cxr")
if [ -n "${REAL:-}" ]; then
  data=(--config.data.root="${REAL}" --config.data.records_dir="${out}/records"
    --config.data.phantom_images=0)
fi

workdirs=()
for seed in 0 1; do
  for path in findings clip_text clip_vision elixr_b elixr_c elixr_bc; do
    workdir="${out}/runs/${path}-${seed}"
    workdirs+=("${workdir}")
    python -m cxr_diffusion_jax.main \
      --config "configs/phantom.py:${path},${SIZE:-dit_tiny}" "${data[@]}" \
      --config.train.num_steps="${STEPS:-1200}" --config.seed="${seed}" \
      --workdir "${workdir}"
  done
done
python -m cxr_diffusion_jax.compare --out "${out}/report" \
  --workdirs "$(IFS=,; echo "${workdirs[*]}")" \
  --num 200 --seeds 0,1,2 --features probe,clip \
  --sweep 1,1.5,3 --sweep_num 128 --metrics all \
  --utility_num 600 --utility_fractions 0.1,1
