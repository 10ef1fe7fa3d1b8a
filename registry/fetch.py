"""Download model versions from the registry to local folders."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from core.errors import UserError
from core.files import explain_full_disk, write_folder
from model.inference.package import CONTRACT
from registry.seal import AUTO, PACKAGE_TAG, verify
from tracking.store import REGISTERED, answered, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCK = ".fetch.lock"
PACKAGE = "package"  # name of the package in the artifacts of the logged model
NESTED = f"artifacts/{PACKAGE}"  # its folder in an MLflow model


class NoVersionError(UserError):
    """No version of a model has the alias."""


def fetch(uri: str, to: Path, mark: str = "", signatures: str = AUTO) -> Path:
    """Return a package's folder; a registered version is downloaded first.

    Args:
        uri: ``models:/name@alias``, ``models:/name/3``, the folder of a package, or the folder of an MLflow model with
            a package in it.
        to: parent folder of the downloads. A version in it is not downloaded again, because versions are immutable.
        mark: name of an empty file to add to a new download; empty adds none.
        signatures: as for :func:`registry.seal.verify`.

    Raises:
        UserError: there is no such version, it has no package, its files are not those that were registered, its
            signature is missing or wrong, or the registry cannot be reached.
    """
    asked = located(uri)
    if isinstance(asked, Path):
        verify(asked, signatures=signatures)
        return asked
    client = connect(existing=True)
    name = asked["name"]
    with answered(uri), explain_full_disk(to):
        version = version_of(client, name, asked["alias"]) if asked["alias"] else asked["version"]
        found = client.get_model_version(name, version)
        # Another registry may have another model with this name and version, so the folder's name has the source's id.
        folder = to / name / f"{found.version}-{found.source.rpartition('/')[2]}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock(folder)):
            if not (folder / CONTRACT).is_file():
                _download(f"models:/{name}/{found.version}", folder, mark)
    verify(folder, found.tags.get(PACKAGE_TAG, ""), signatures, f"{name} version {found.version}")
    return folder


def located(uri: str) -> Path | re.Match[str]:
    """Return the folder of a local package, or the parts of a registry URI, without asking the registry.

    Raises:
        UserError: ``uri`` is neither.
    """
    if not uri.startswith("models:"):
        folder = Path(uri)
        if (folder / NESTED / CONTRACT).is_file():
            folder /= NESTED
        if not (folder / CONTRACT).is_file():
            why = f"it has no {CONTRACT}" if folder.exists() else "not found"
            raise UserError(f"{uri}: no model package ({why}); use pretrained, models:/NAME@ALIAS or a folder")
        return folder
    asked = REGISTERED.fullmatch(uri)
    if asked is None:
        raise UserError(f"{uri}: not a model URI; use models:/NAME@ALIAS or models:/NAME/VERSION")
    return asked


def version_of(client: MlflowClient, name: str, alias: str) -> str:
    """Return the version number of an alias.

    Raises:
        NoVersionError: no version has the alias.
        MlflowException: the registry does not answer, or has no such model.
    """
    aliases = client.get_registered_model(name).aliases
    if alias not in aliases:
        there = " or ".join(f"models:/{name}@{each}" for each in sorted(aliases)) or "another model"
        raise NoVersionError(
            f"models:/{name}@{alias}: no version is {alias} yet; promote one (`make promote`), or use {there}"
        )
    return str(aliases[alias])


def remove(folder: Path) -> None:
    """Remove a version that :func:`fetch` has downloaded; safe while other processes fetch it.

    Raises:
        OSError: it cannot be removed.
    """
    with FileLock(_lock(folder)), _scratch(folder) as scratch:
        # Rename before deletion, so that no process finds a partly deleted package.
        if folder.exists():
            folder.replace(Path(scratch) / folder.name)


def sweep(to: Path) -> None:
    """Remove the partial downloads of killed processes from a folder of downloaded versions.

    Raises:
        OSError: a folder cannot be removed.
    """
    for lock in to.glob(f"*/.*{LOCK}"):
        folder = lock.parent / lock.name[1:].removesuffix(LOCK)
        with suppress(Timeout), FileLock(lock, timeout=0):
            for stale in [*lock.parent.glob(_unfinished(folder, "*")), *lock.parent.glob(f".{folder.name}.partial-*")]:
                shutil.rmtree(stale)


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}{LOCK}"


def _unfinished(folder: Path, which: str) -> str:
    return f".{folder.name}.fetch-{which}"


def _scratch(folder: Path) -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=folder.parent, prefix=_unfinished(folder, ""))


def _download(uri: str, folder: Path, mark: str) -> None:
    import mlflow

    with _scratch(folder) as scratch:
        logged = Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
        package = logged / NESTED
        if not (package / CONTRACT).is_file():
            raise UserError(f"{uri}: has no model package; register the model again")
        with write_folder(folder) as partial:
            # With dst_path MLflow always copies, even from a local folder, so this moves only the copy.
            package.replace(partial)
            if mark:
                (partial / mark).touch()
