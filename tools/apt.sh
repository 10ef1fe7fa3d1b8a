#!/usr/bin/env bash
# The system packages that the project needs besides Python 3.11, installed where they are missing (Debian, Ubuntu).
set -euo pipefail
# util-linux: `unshare`, with which tests fill up a disk of their own; docker.io and debootstrap: the image's tests;
# docker-compose: compose.yaml's; chromium: those of the report and of the service's page
packages=(git make util-linux)
command -v dockerd >/dev/null || packages+=(docker.io)
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || packages+=(docker-compose)
command -v chromium >/dev/null || packages+=(chromium)
packages+=(debootstrap)

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
