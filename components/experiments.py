"""Experiments that DVC runs in a copy of the project, which it removes when they are over."""

from __future__ import annotations

from pathlib import Path

COPIES = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` put them, below the project's folder


def project_folder() -> Path:
    """Return the project whose copy the current folder is or lies in, else the current folder."""
    here = Path.cwd()
    for folder in here.parents:
        if folder.parts[-len(COPIES) :] == COPIES:
            return folder.parents[len(COPIES) - 1]
    return here


def local_store() -> str:
    """Return the address of the project's MLflow database: that of a copy would go with it."""
    project = project_folder()
    return "sqlite:///mlflow.db" if project == Path.cwd() else f"sqlite:///{project / 'mlflow.db'}"
