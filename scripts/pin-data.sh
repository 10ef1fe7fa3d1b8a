#!/usr/bin/env bash
# Pin another cohort in data.dvc: a folder or a .zip in the publishers' layouts, or s3://bucket/prefix of either.
#   scripts/pin-data.sh SOURCE
# The source is copied into data/ (linked where the file system can) and pinned to the byte; `dvc repro` notices when it changes.
set -euo pipefail
cd "$(dirname "$0")/.."

source=${1:-}
case "$source" in
  "") echo "error: which cohort? say DATA=folder, DATA=file.zip or DATA=s3://bucket/prefix" >&2; exit 1 ;;
  s3://*) ;;
  *) [ -e "$source" ] || { echo "error: $source: not found; DATA is a folder, a .zip or s3://bucket/prefix" >&2; exit 1; } ;;
esac
dvc import-url --force "$source" data
dvc unfreeze data.dvc
