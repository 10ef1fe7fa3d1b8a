#!/usr/bin/env bash
# Make the environment .venv from the committed lock. A second run finds it made and returns at once.
#   PYTHON=python3.11     the interpreter to make it with
#   TORCH_INDEX_URL=...   a package index for torch alone, for instance one of CPU-only or other CUDA builds
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-python3.11}

fail() { echo "error: $*" >&2; exit 1; }

# A virtual environment holds the path it was made at in its scripts and its interpreter's version in its folders: in a clone
# that was renamed or copied, or for another Python, it is made anew.
made_for() { { sha256sum requirements.lock requirements-{cuda,torch,uv}.lock tools/setup.sh pyproject.toml; (cd "$VENV" 2>/dev/null && pwd -P); "$VENV/bin/python" -VV 2>/dev/null; } | sha256sum | cut -c1-16; }
[ -e "$VENV/.made-$(made_for)" ] && exit 0

command -v "$PYTHON" >/dev/null || fail "$PYTHON not found: install Python 3.11 or pass PYTHON=/path/to/python3.11"
found=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = 3.11 ] || fail "$PYTHON is Python $found, the lock is for 3.11: pass PYTHON=/path/to/python3.11"
seconds() { local start=$SECONDS; "${@:2}"; echo "setup: $1 took $((SECONDS - start)) s"; }

seconds "the virtual environment" "$PYTHON" -m venv --clear "$VENV"
seconds "uv" "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-uv.lock
uv=("$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python")
# Bytecode is compiled here once: without it the imports of one step take ten seconds and more.
seconds "the lock" "${uv[@]}" --no-deps --require-hashes --compile-bytecode -r requirements.lock
# torch stands beside the lock, because its CPU and CUDA builds share a version but no hash. uv does not read
# pip's settings, so a folder of wheels that pip knows is handed on.
torch=("${uv[@]}" --compile-bytecode)
[ -n "${PIP_FIND_LINKS:-}" ] && torch+=(--find-links "$PIP_FIND_LINKS")
if [ -n "${TORCH_INDEX_URL:-}" ]; then  # another index has builds of its own, whose hashes nobody knows here
  seconds "torch, from $TORCH_INDEX_URL" "${torch[@]}" --extra-index-url "$TORCH_INDEX_URL" "$(grep -o '^torch==[^ ]*' requirements-torch.lock)"
else
  # By pip: uv finds no hash for a local version, 2.13.0+cpu. A wheel in the folder is taken before the index's.
  torch=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes)
  if compgen -G "${PIP_FIND_LINKS:-/nowhere}/torch-*.whl" >/dev/null; then torch+=(--no-index --find-links "$PIP_FIND_LINKS"); fi
  seconds "torch" "${torch[@]}" -r requirements-torch.lock
  if "$VENV/bin/python" -c 'from importlib.metadata import requires; raise SystemExit(not any("cuda" in r for r in requires("torch")))'; then
    seconds "CUDA's libraries" "${uv[@]}" --no-deps --require-hashes -r requirements-cuda.lock
  fi
fi
# In place: the command `defunet` works from any folder. The image's build has no code yet at this point.
if [ -d defunet ]; then seconds "the project" "${uv[@]}" --no-deps --no-build-isolation --editable .; fi
# The activated shell sends no telemetry. DVC's is off in .dvc/config.
printf '%s\n' '' '# Of the project: no telemetry.' 'export MLFLOW_DISABLE_TELEMETRY=true GX_ANALYTICS_ENABLED=false' >> "$VENV/bin/activate"
rm -f "$VENV"/.made-*; touch "$VENV/.made-$(made_for)"
