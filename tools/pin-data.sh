#!/usr/bin/env bash
# Pin another cohort in data.dvc: a folder or a zip in the publishers' layouts, or s3://bucket/prefix of either.
#   tools/pin-data.sh SOURCE
# The source is copied into data/ and pinned to the byte. If it cannot be had, what was pinned before stays.
set -euo pipefail
cd "$(dirname "$0")/.."

source=${1:-}
case "$source" in
  "") echo "error: which cohort? pass DATA=folder, DATA=file.zip or DATA=s3://bucket/prefix" >&2; exit 1 ;;
  s3://*) ;;
  *) [ -e "$source" ] || { echo "error: $source: not found; DATA is a folder, a zip or s3://bucket/prefix" >&2; exit 1; } ;;
esac

# DVC would put a single file into a folder that is there already, so the pinned cohort stands aside until the new one is in.
aside=$(mktemp -d .pin-XXXXXX)
restore() {
  rm -rf data data.dvc
  for path in data data.dvc; do if [ -e "$aside/$path" ]; then mv "$aside/$path" .; fi; done
  rmdir "$aside"
}
trap restore EXIT
for path in data data.dvc; do if [ -e "$path" ]; then mv "$path" "$aside"; fi; done
if ! dvc import-url "$source" data; then
  echo "error: $source: could not be imported (see above); data.dvc pins what it did before" >&2
  exit 1
fi
# A folder that Git tracks whole exists in every clone, so `dvc repro` may follow it. Any other source may disappear, and
# `dvc repro` would then delete data/: its import stays frozen, as `dvc import-url` makes it.
case "$(realpath -- "$source" 2>/dev/null || true)" in
  "$(pwd -P)"/*) if git ls-files --error-unmatch -- "$source" >/dev/null 2>&1 && [ -z "$(git ls-files --others -- "$source")" ]; then dvc unfreeze data.dvc; fi ;;
esac
trap - EXIT
rm -rf "$aside"
echo "data.dvc pins $source"
