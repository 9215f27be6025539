#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice. Requests the slice as a queued resource,
# waits for it, copies this commit to its workers and runs `main` there. After a
# preemption it requests the slice again and the run resumes from its last checkpoint.
#
#   data="--config configs/elixr_c.py:dit_b --config.data.root=gs://BUCKET/nih-cxr"
#   ./launch/tpu_vm.sh --name cxr --zone us-west4-a --type v5litepod-16 --spot \
#     --setup "JAX_PLATFORMS=cpu python -m cxr_diffusion_jax.prepare ${data}" \
#     -- ${data} --workdir gs://BUCKET/runs/dit_b
#
#   --name NAME        of the queued resource and of its node
#   --zone ZONE  --type ACCELERATOR_TYPE  [--project PROJECT]
#   --runtime VERSION  software of the VMs (default: by type)
#   --spot             preemptible, at a lower price
#   --setup COMMAND    runs on each worker before each start, in the copied folder:
#                      mounts a disk, or prepares the records on the worker's own
#   --restarts N       starts at most N times again (default 20)
#   --delete           deletes the slice at the end; without it, it runs on and costs
#   --dry_run          prints the commands only
#
# Ctrl-C ends this script, not the run on the slice; the same command ends that run
# after a save, and resumes it.
#
# Exit code: that of `main`. 0 ends the work, 2 (wrong input) is not repeated; 1 also
# after ten failures of gcloud in a row while the slice is not active.
# POLL=60 is the number of seconds between two looks at the slice.
set -euo pipefail
cd "$(dirname "$0")/.."

name="" zone="" type="" runtime="" project="" setup="" restarts=20
spot="" delete="" dry_run=""
fail() {
  echo "error: $*" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --name | --zone | --type | --runtime | --project | --setup | --restarts)
      [ $# -gt 1 ] || fail "$1; expected a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --spot) spot=yes; shift ;;
    --delete) delete=yes; shift ;;
    --dry_run) dry_run=yes; shift ;;
    --) shift; break ;;
    *) fail "$1; expected flags of launch/tpu_vm.sh, then -- and flags of main" ;;
  esac
done
for flag in name zone type; do
  [ -n "${!flag}" ] || fail "--${flag} is missing; see the head of launch/tpu_vm.sh"
done
[[ "${restarts}" =~ ^[0-9]+$ ]] || fail "--restarts ${restarts}; expected a number"
# The disks of the VMs are lost with the slice.
[[ " $* " =~ \ --workdir[\ =]gs:// ]] ||
  fail "no --workdir gs://BUCKET/FOLDER after --; a run must outlive its VMs"
if [ -z "${runtime}" ]; then
  case "${type}" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi

place=(--zone="${zone}")
if [ -n "${project}" ]; then place+=(--project="${project}"); fi
run() {
  if [ -n "${dry_run}" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpus() { # GROUP COMMAND ARGUMENTS: gcloud on the queued resource or its VMs
  run gcloud compute tpus "$@" "${place[@]}" --quiet
}
state() { # UNKNOWN if gcloud cannot tell.
  gcloud compute tpus queued-resources describe "${name}" "${place[@]}" \
    --format='value(state.state)' 2>"${folder}/said" && return
  if grep -q NOT_FOUND "${folder}/said"; then echo ABSENT; else
    cat "${folder}/said" >&2
    echo UNKNOWN
  fi
}
create() {
  tpus queued-resources create "${name}" --node-id="${name}" \
    --accelerator-type="${type}" --runtime-version="${runtime}" ${spot:+--spot}
}
remove() { tpus queued-resources delete "${name}" --force; }

act_on() { # STATE
  case "$1" in
    ABSENT) create ;;
    SUSPENDED | FAILED) remove ;;
    UNKNOWN) false ;;
  esac
}
wait_until_active() { # Requests the slice if it is absent or lost.
  local current last="" failures=0
  while current="$(state)" && [ "${current}" != ACTIVE ]; do
    if [ "${current}" != "${last}" ]; then
      echo "${name}: ${current}"
      last="${current}"
    fi
    if act_on "${current}"; then
      failures=0
    elif ((++failures == 10)); then
      echo "error: gcloud failed 10 times in a row; ${name} may run on and cost" >&2
      exit 1
    fi
    sleep "${POLL:-60}"
  done
}
copy() {
  run git archive --format=tar.gz --output="${archive}" HEAD &&
    tpus tpu-vm scp "${archive}" "${name}:cxr.tar.gz" --worker=all
}
train() { # FLAGS OF MAIN
  local command
  command="mkdir -p cxr && tar -xzf cxr.tar.gz -C cxr &&"
  command+=" $(printf '%q ' env SETUP="${setup}" bash cxr/launch/tpu_worker.sh "$@")"
  # Without keep-alive messages ssh does not notice that a VM is gone.
  tpus tpu-vm ssh "${name}" --worker=all --ssh-flag="-o ServerAliveInterval=30" \
    --command="${command}"
}

if [ -n "${dry_run}" ]; then
  archive=cxr.tar.gz
  create && copy && train "$@"
  if [ -n "${delete}" ]; then remove; fi
  exit
fi
folder="$(mktemp -d)"
archive="${folder}/cxr.tar.gz"
trap 'rm -rf "${folder}"' EXIT
for ((start = 0; ; start++)); do
  code=0
  wait_until_active
  { copy && train "$@"; } || code=$?
  case "${code}" in 0 | 2 | 130) break ;; esac
  if ((start >= restarts)); then
    echo "error: ended with ${code} after ${restarts} restarts" >&2
    break
  fi
  echo "${name}: ended with ${code}; starts again"
  sleep "${POLL:-60}" # A preempted slice is still ACTIVE for a moment.
done
if [ -n "${delete}" ]; then
  remove
else
  echo "the slice runs on; delete it: gcloud compute tpus queued-resources delete" \
    "${name} ${place[*]} --force"
fi
exit "${code}"
