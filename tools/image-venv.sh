#!/usr/bin/env bash
# Inside the Dockerfile's build stages: make /opt/venv, which the image keeps, with the script of every other
# environment (tools/setup.sh) and from the same lock, less what only tests and checks need.
#   image-venv.sh cpu|gpu
#   /inputs/ca.pem     trusted besides the image's own authorities
#   /inputs/*.whl      taken before an index; a wheel of torch takes the place of TORCH_INDEX_URL
#   INDEX_URL          in the place of PyPI
#   TORCH_INDEX_URL    for torch alone
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
export VENV=/opt/venv

export PIP_NO_CACHE_DIR=1 PIP_FIND_LINKS=/inputs UV_FIND_LINKS=/inputs UV_CACHE_DIR=/tmp/uv
if [ -n "${INDEX_URL:-}" ]; then export PIP_INDEX_URL=$INDEX_URL UV_DEFAULT_INDEX=$INDEX_URL; fi
if compgen -G "/inputs/torch-*.whl" >/dev/null; then unset TORCH_INDEX_URL; fi
if [ -e /inputs/ca.pem ]; then
  cat /etc/ssl/certs/ca-certificates.crt /inputs/ca.pem >/tmp/ca.pem
  export SSL_CERT_FILE=/tmp/ca.pem PIP_CERT=/tmp/ca.pem
fi

# The lock says after every package why it is there ("via"): kept is what leads to a line above "# tests and checks".
python3.11 - <<'PYTHON'
import re
from pathlib import Path

wanted, marker, _ = Path("requirements.in").read_text().partition("# tests and checks\n")
if not marker:
    raise SystemExit("requirements.in has no line '# tests and checks'")
lock = Path("requirements.lock")
entries = {}
for entry in re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]:
    name = entry.partition("==")[0].partition("[")[0]
    _, _, via = entry.partition("# via")
    entries[name] = (entry, set(re.findall(r"[a-z0-9][a-z0-9._-]*", via.replace("-r requirements.in", ""))))
names = re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*", wanted, flags=re.MULTILINE)
kept, grown = set(), {re.sub(r"[-_.]+", "-", name).lower() for name in names}
while grown - kept:
    kept |= grown
    grown = {name for name, (_, via) in entries.items() if via & kept}
left = [name for name in entries if name not in kept]
lock.write_text("".join(entry for name, (entry, _) in entries.items() if name in kept))
print(f"image-venv: {len(entries) - len(left)} packages of the lock; left out: {', '.join(left)}")
PYTHON

tools/setup.sh

python=$VENV/bin/python
"$VENV/bin/uv" pip check --quiet --python "$python"
"$python" - "$target" <<'PYTHON'
import sys
import torch

if (sys.argv[1] == "gpu") != (torch.version.cuda is not None):
    raise SystemExit(f"image-venv: torch {torch.__version__} is no build for the target {sys.argv[1]}")
print(f"image-venv: torch {torch.__version__}")
PYTHON
# What is in the image, before the installer goes; the lock is by now that of the image.
tools/sbom.sh "$VENV/sbom.json" "$target"
# Installers have no use where nothing is installed. The code will lie in /app, to be run from any folder.
"$python" -m pip uninstall --quiet --yes uv pip
rm -rf "$VENV"/.lock* "$UV_CACHE_DIR" /tmp/ca.pem
printf '#!%s\nfrom defunet.__main__ import main\n\nmain()\n' "$python" >"$VENV/bin/defunet"
chmod +x "$VENV/bin/defunet"
"$python" -c 'import site; print(site.getsitepackages()[0])' | { read -r folder; echo /app >"$folder/app.pth"; }
