#!/usr/bin/env bash
# Which conditioning works best, on phantoms: six paths, two training seeds, three
# sampling seeds, equal budgets. Ends in OUT/report/report.html. Ctrl-C stops it with
# exit code 130; the same command resumes it.
#
#   ./launch/compare_phantom.sh [--out FOLDER] [--dry_run]   # prints its commands only
#
# Paths that see an image see that of another patient with the same findings, sex and
# view (same_findings): as much as a text says. Beside them, and ranked apart or with a
# note, are paths that see another image of the patient (same_patient) or the very image
# (self). Phantom patients have 3.6 images on average, as NIH's have. Guidance is chosen
# for each path on validation patients. Losses are compared with those of a short run.
#
#   SCALE=full    as above (default); SCALE=gpu: longer, all image paths with all
#                 references, all metrics; SCALE=smoke: two paths, a few steps, minutes
#   SIZE=dit_tiny STEPS=700 BATCH=16    network, updates and batch of every run
#   JOBS=8        so many trainings at a time, on an accelerator with memory to spare;
#                 their output goes to OUT/stages/NAME.log. On CPUs they divide the
#                 cores: JOBS=2 trains at 79 instead of 58 images/s on two
#   REAL=nih-cxr-mini          a tree of real images in place of phantoms, at 64 pixels
#                 and with stand-in encoders. No same_patient and no sweep, since most
#                 patients of a small tree have one image. OUT is named after it.
#
#   UTILITY=1     classifiers trained on generated images too; SCALE=gpu has them anyway
#
# Estimate, not a measurement, for SCALE=full on 2 idle CPU cores: training at 60 images/s,
# sampling at 180 evaluations/s of the network (25 steps, 50 evaluations an image),
# classifiers at 10 updates/s:
#   records, encoders, probe            700 s
#   16 runs x 700 steps x 16 images    3000 s   and the short run, 50 s
#   48 sets x 276 images               3700 s
#   sweep, 8 paths x 64 x 3 scales      350 s
#   losses, 16 runs x 640 images        900 s
#   together                           8700 s, 2 h 25 min
#   UTILITY=1: 8 paths x 300 images, 75 trainings of up to 1,000 updates: 2 h 15 min more
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh

out=runs/compare_phantom dry_run=""
if [ -n "${REAL:-}" ]; then out="runs/compare_$(basename "${REAL}")"; fi
while [ $# -gt 0 ]; do
  case "$1 ${2:-}" in
    "--out "?*) out="$2"; shift 2 ;;
    "--dry_run "*) dry_run=yes; shift ;;
    *) echo "error: $1; expected --out FOLDER or --dry_run" >&2; exit 2 ;;
  esac
done

paths="findings clip_text elixr_b clip_vision elixr_c elixr_bc"
image_paths=" clip_vision elixr_c elixr_bc "
more_references="elixr_c" # image paths that also see the patient's and the very image
training_seeds="0 1" steps="${STEPS:-700}" size="${SIZE:-dit_tiny}" jobs="${JOBS:-1}"
data=(--config.data.root="${out}/phantom-cxr" --config.data.phantom_visits=3.6
  # Losses are compared between 300 patients of each list who have several images.
  --config.data.phantom_images=5400 --config.data.validation_fraction=0.4)
options=(--num 100 --seeds 0,1,2 --sweep 1,1.5,3 --sweep_num 64
  --memorisation_num 40 --primary frechet_distance:probe)
metrics=fidelity,adherence,diversity,privacy,embeddings
utility=(--utility_num 300 --utility_steps 1000 --utility_fractions 1)
case "${SCALE:-full}" in
  full) ;;
  gpu)
    more_references="${image_paths}" steps="${STEPS:-8000}"
    options=(--num 150 --seeds 0,1,2 --sweep 1,1.5,2,3 --sweep_num 128
      --memorisation_num 40 --primary frechet_distance:probe)
    UTILITY=1 utility=(--utility_fractions 0.1,1)
    ;;
  smoke)
    paths="findings elixr_c" training_seeds="0" steps="${STEPS:-4}"
    data=(--config.data.root="${out}/phantom-cxr" --config.data.phantom_visits=3.6
      --config.data.phantom_images=1000 --config.data.validation_fraction=0.4
      --config.data.standin_steps=4 --config.train.validate_every=4)
    options=(--num 20 --seeds 0 --sweep 1,2 --sweep_num 20 --memorisation_num 2
      --probe_steps 20 --primary kernel_distance:probe)
    metrics=fidelity,adherence,privacy utility=(--utility_num 20 --utility_steps 4)
    ;;
  *) echo "error: SCALE=${SCALE}; expected full, gpu or smoke" >&2; exit 2 ;;
esac
if [ -n "${REAL:-}" ]; then
  more_references=""
  data=(--config.data.root="${REAL}" --config.data.phantom_images=0
    --config.data.validation_fraction=0.2)
  # A Fréchet distance needs 50 images of each set.
  options=(--seeds 0,1,2 --per_patient 0 --memorisation_num 40
    --primary kernel_distance:probe)
fi
if [ -n "${UTILITY:-}" ]; then
  metrics+=,utility
  options+=("${utility[@]}")
fi
data+=(--config.data.records_dir="${out}/records")
batch=()
if [ -n "${BATCH:-}" ]; then batch=(--config.train.batch_size="${BATCH}"); fi

# Stages: a name, a cost relative to the others, a command.
names=() costs=() commands=() workdirs=()
add_stage() {
  names+=("$1") costs+=("$2") commands+=("$(printf '%q ' "${@:3}")")
}
add_prepare() { # PATH
  add_stage "prepare $1" 100 python -m cxr_diffusion_jax.prepare \
    --config "configs/phantom.py:$1,${size}" "${data[@]}"
}
add_run() { # NAME STEPS PATH REFERENCE SEED
  local workdir="${out}/runs/$1" reference=()
  if [ -n "$4" ]; then reference=(--config.conditioning.reference="$4"); fi
  add_stage "train $1" "$2" python -m cxr_diffusion_jax.main \
    --config "configs/phantom.py:$3,${size}" "${data[@]}" ${reference[@]+"${reference[@]}"} \
    --config.train.num_steps="$2" --config.train.sample_every=0 \
    ${batch[@]+"${batch[@]}"} --config.seed="$5" --workdir "${workdir}"
}

# Records and columns first: trainings that run at a time only read them.
for path in ${paths}; do add_prepare "${path}"; done
add_run reference "$(((steps + 3) / 4))" findings "" 100
for seed in ${training_seeds}; do
  for path in ${paths}; do
    references=same_findings
    if [[ "${image_paths}" != *" ${path} "* ]]; then references=none; fi
    if [[ " ${more_references} " == *" ${path} "* ]]; then
      references="same_findings same_patient self"
    fi
    for reference in ${references}; do
      name="${path}-${reference}-${seed}"
      if [ "${reference}" = none ]; then name="${path}-${seed}" reference=""; fi
      add_run "${name}" "${steps}" "${path}" "${reference}" "${seed}"
      workdirs+=("${out}/runs/${name}")
    done
  done
done
# By the estimate above, judging costs nearly twice as much as training.
add_stage compare "$((steps * 2 * ${#workdirs[@]}))" python -m cxr_diffusion_jax.compare \
  --out "${out}/report" --workdirs "$(IFS=,; echo "${workdirs[*]}")" \
  --features probe,clip --memorisation_reference "${out}/runs/reference" \
  --metrics "${metrics}" "${options[@]}"

if [ -n "${dry_run}" ]; then
  printf '%s\n' "${commands[@]}"
  exit
fi
prepare_environment requirements.txt
mkdir -p "${out}/stages"
total="${#names[@]}" left=0 finished=0 start=${SECONDS}
for cost in "${costs[@]}"; do left=$((left + cost)); done

failed="${out}/stages/failed"
rm -f "${failed}"

run_stage() { # INDEX
  eval "${commands[$1]}" || return
  if [ "${names[$1]}" != compare ]; then
    printf '%s' "${commands[$1]}" >"${out}/stages/${names[$1]// /_}"
  fi
}
run_in_background() { # INDEX
  local log="${out}/stages/${names[$1]// /_}.log"
  # XLA's threads on CPUs: those of several trainings would wait for each other's cores.
  local cores threads
  cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)" threads="$((cores / jobs))"
  # Job control, as Bash lets other background processes ignore Ctrl-C.
  set -m
  {
    export NPROC="$((threads > 1 ? threads : 1))"
    run_stage "$1" || echo "${names[$1]}: see ${log}" >>"${failed}"
  } >"${log}" 2>&1 &
  set +m
}
stop() {
  trap '' INT
  for group in $(jobs -rp); do kill -INT -- "-${group}"; done
  wait
  echo "interrupted: the same command resumes" >&2
  exit 130
}
trap stop INT
for i in "${!names[@]}"; do
  # A stage with the same command is not repeated; comparing reuses what it made.
  if [ "$(cat "${out}/stages/${names[i]// /_}" 2>/dev/null)" = "${commands[i]}" ]; then
    echo "[$((i + 1))/${total}] ${names[i]}: done before"
    left=$((left - costs[i]))
    continue
  fi
  limit=1
  if [[ "${names[i]}" == train* ]]; then limit="${jobs}"; fi
  while [ "$(jobs -rp | wc -l)" -ge "${limit}" ]; do wait -n || true; done
  if [ -s "${failed}" ]; then break; fi
  eta="unknown"
  if ((finished)); then eta="$(((SECONDS - start) * left / finished / 60)) min"; fi
  echo "[$((i + 1))/${total}] ${names[i]}  ETA of all ${eta}"
  if ((limit > 1)); then run_in_background "${i}"; else run_stage "${i}"; fi
  left=$((left - costs[i])) finished=$((finished + costs[i]))
done
wait
if [ -s "${failed}" ]; then
  sed 's/^/error: /' "${failed}" >&2
  exit 1
fi
