"""Provenance of a result: code, data, versions and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from core.params import read_yaml
from model.measured import cpu

PACKAGES = ("torch", "numpy", "opencv-python-headless", "mlflow", "dvc", "kfp", "great-expectations", "monai")
ROOT = Path(__file__).parents[1]
# Tracked files that DVC and a run rewrite: they do not count as changed code.
REWRITTEN = ("dvc.lock", "models", "evaluations", "reports")


def git_state(root: Path = ROOT) -> tuple[str | None, bool]:
    """Return the commit of the running code, and whether tracked files differ from it.

    In an image without a repository, GIT_COMMIT and GIT_DIRTY are set at build time. Without both: (None, True).
    """
    if commit := os.environ.get("GIT_COMMIT"):
        return commit, os.environ.get("GIT_DIRTY", "") not in ("", "0", "false")
    try:
        # ``root`` and not the current folder, which may be in another repository.
        commit = git(root, "rev-parse", "HEAD").strip()
        rewritten = [f":!{path}" for path in REWRITTEN]
        changed = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *rewritten)
    except (OSError, subprocess.CalledProcessError):
        return None, True
    return commit, bool(changed)


def git(folder: Path, *arguments: str) -> str:
    """Return the standard output of ``git`` in a folder.

    Raises:
        OSError: ``git`` is not installed.
        subprocess.CalledProcessError: ``git`` failed, for example outside a repository.
    """
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout


def data_md5(pin: Path = Path("data.dvc")) -> str | None:
    """Return the MD5 of the cohort in ``data.dvc``, None if the cohort is not pinned."""
    if not pin.exists():
        return None
    digest = read_yaml(pin)["outs"][0].get("md5")
    return None if digest is None else str(digest)


def pinned_md5(source: str) -> str | None:
    """Return the MD5 of :func:`data_md5` if ``source`` is the folder that ``data.dvc`` pins, else None."""
    pin = Path("data.dvc")
    if not pin.exists():
        return None
    brought = pin.parent / str(read_yaml(pin)["outs"][0].get("path", ""))
    return data_md5(pin) if Path(source).resolve() == brought.resolve() else None


def pinned_source(pin: Path = Path("data.dvc")) -> str | None:
    """Return where the cohort in ``data.dvc`` was imported from: a path or an ``s3://`` address; None if it was not."""
    imported = (read_yaml(pin) or {}).get("deps") if pin.exists() else None
    return str(imported[0]["path"]) if imported else None


def hardware() -> dict[str, Any]:
    """Return ``cpu``, the CPU's name; ``cores``, logical; ``memory_gib``; and ``gpu``, the GPU's name or None."""
    import torch

    return {
        "cpu": cpu(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):  # a training node needs neither DVC nor kfp
            found[name] = version(name)
    return found
