# shellcheck shell=bash
# Sourced by the other scripts: makes .venv if it is missing or its requirements have
# changed, and activates it. Its argument is a requirements file.
#
#   PYTHON=python3.12          which Python makes .venv (default python3)
#   JAX_ACCELERATOR=cuda|tpu   adds the jax extra of that accelerator

prepare_environment() {
  local requirements="$1" stamp wanted extra=""
  case "${JAX_ACCELERATOR:-}" in
    "" | cpu) ;;
    cuda) extra="jax[cuda13]" ;;
    tpu) extra="jax[tpu]" ;;
    *)
      echo "error: JAX_ACCELERATOR=${JAX_ACCELERATOR}; expected cuda, tpu or nothing" >&2
      return 2
      ;;
  esac
  stamp=".venv/installed-${requirements}"
  wanted="$(cat requirements*.txt; echo "${extra}")"
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
      echo "error: $("${PYTHON:-python3}" --version); expected Python 3.11 to 3.13; fix: set PYTHON=" >&2
      return 2
    }
    echo "making .venv"
    "${PYTHON:-python3}" -m venv .venv
  fi
  if [ "$(cat "${stamp}" 2>/dev/null)" != "${wanted}" ]; then
    echo "installing ${requirements} ${extra} into .venv (a minute or more)"
    # uv takes seconds; where it cannot be installed, or lacks a private index that
    # pip is configured for, pip does the work.
    { .venv/bin/python -m pip install --quiet --disable-pip-version-check uv &&
      .venv/bin/uv pip install --quiet --python .venv/bin/python \
        -r "${requirements}" ${extra}; } ||
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        -r "${requirements}" ${extra}
    printf '%s\n' "${wanted}" >"${stamp}"
  fi
  # shellcheck disable=SC1091
  . .venv/bin/activate
}
