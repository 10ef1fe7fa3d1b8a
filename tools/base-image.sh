#!/usr/bin/env bash
# Make the Dockerfile's base image from Debian's own packages, under the name that the Dockerfile uses, for places where
# no image registry is reachable. As root, with debootstrap and a Docker engine; takes about a minute and 200 MB.
#   tools/base-image.sh [NAME]
#   MIRROR=http://deb.debian.org/debian    where Debian's packages are
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
mirror=${MIRROR:-http://deb.debian.org/debian}

for tool in debootstrap docker; do
  command -v "$tool" >/dev/null || { echo "error: $tool not found: install it (Debian: apt-get install debootstrap docker.io)" >&2; exit 1; }
done
[ "$(id -u)" -eq 0 ] || { echo "error: debootstrap needs root" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" "$mirror" >"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  echo "error: debootstrap failed (see above); MIRROR=$mirror" >&2
  exit 1
}
root=$work/root
ln -s python3 "$root/usr/bin/python"
# As in the official image: no lists, archives or logs. The machine's name servers are nobody else's.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/log/*
rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
tar --create --numeric-owner --directory "$root" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' . |
  docker import --change 'CMD ["python3"]' --message "Debian bookworm's own Python, made by tools/base-image.sh" - "$name"
