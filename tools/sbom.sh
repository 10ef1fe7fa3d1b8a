#!/usr/bin/env bash
# Write a software bill of materials (CycloneDX 1.5, JSON) of the committed lock, or look its packages up in the OSV
# database, by uv. Both need a package index; audit needs https://api.osv.dev too (UV_AUDIT_SERVICE_URL= for a mirror).
#   sbom.sh FILE [cpu|gpu]
#   sbom.sh audit [cpu|gpu]
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${VENV:-.venv}/bin/uv
locks=(requirements.lock requirements-torch.lock)
if [ "${2:-cpu}" = gpu ]; then locks+=(requirements-cuda.lock); fi

# uv reads a project's own lock, so the pins of ours become the dependencies of a project that lives for a moment.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  echo '[project]'
  echo 'name = "defu-net-pipeline"'
  echo "version = \"$(sed -n 's/^__version__ = "\(.*\)".*/\1/p' core/__init__.py 2>/dev/null || echo 0)\""
  echo 'requires-python = "==3.11.*"'
  echo 'dependencies = ['
  sed -nE 's/^([A-Za-z0-9][^ ]*==[^ ;\\]+)[ ;\\]*.*/  "\1",/p' "${locks[@]}" | sort -u
  echo ']'
  echo '[tool.uv]'
  # torch's own needs stand in the locks: those of the build on PyPI are CUDA's, which the CPU build has not.
  torch=$(sed -nE 's/^torch==([^ ;\\]+).*/\1/p' requirements-torch.lock)
  printf 'dependency-metadata = [{ name = "torch", version = "%s", requires-dist = [] }]\n' "$torch"
  echo "environments = [\"sys_platform == 'linux' and platform_machine == 'x86_64'\"]"
} >"$work/pyproject.toml"
"$uv" lock --quiet --python "${VENV:-.venv}/bin/python" --project "$work" || { echo "error: sbom: uv cannot resolve the lock; see above" >&2; exit 1; }
if [ "$1" = audit ]; then
  "$uv" audit --project "$work" --frozen
else
  "$uv" export --quiet --project "$work" --frozen --preview-features sbom-export --format cyclonedx1.5 --output-file "$work/sbom.json" >/dev/null
  mkdir -p "$(dirname "$1")"
  mv "$work/sbom.json" "$1"
fi
