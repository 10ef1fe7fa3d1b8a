"""Promote altered model versions: in a copy of a project, alter every file of a version, one at a time."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.artifacts import download_artifacts

from benchmarks.attack.corpus import flipped
from benchmarks.attack.counts import READ, REFUSED, Counts
from components.promote import promote
from core.errors import UserError
from core.params import read_params
from core.terminal import tracked
from registry import CHAMPION
from registry.fetch import PACKAGE
from registry.seal import PACKAGE_TAG
from registry.versions import read_version
from tracking.local_store import ARTIFACTS, DATABASE
from tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAGS = ("0" * 64, "no digest", "\x1b[31m")


def promotions(project: Path, seed: int, version: int | None = None) -> Counts:
    """Alter each file of a version's package and the digest in its tags, and promote it with ``--force``.

    Every altered version must be refused in one line and not become champion; the original must be promoted.

    Args:
        project: a folder with the outputs of ``make run``: ``params.yaml``, ``artifacts/``, ``mlflow.db`` and
            ``mlruns/``. It is not changed.
        seed: seed of the flipped bits.
        version: the version's number; None: the challenger.

    Raises:
        UserError: the project lacks one of these outputs or the version, or its package is stored elsewhere.
    """
    counts, chance, project = Counts(), random.Random(seed), project.resolve()
    params = read_params(project / "params.yaml")
    arrays, splits = (project / "artifacts" / name for name in ("arrays", "splits"))
    for path in (project / DATABASE, project / ARTIFACTS, arrays, splits):
        if not path.exists():
            raise UserError(f"{path}: not there; name a project in which `make run` was")
    with _copy(project):
        name, client = params.register_.model, connect(existing=True)
        found = read_version(client, name, version)
        if not (digest := found.tags.get(PACKAGE_TAG)):
            raise UserError(f"{found}: was registered without a digest of its package; register it again")
        if CHAMPION in client.get_registered_model(name).aliases:
            client.delete_registered_model_alias(name, CHAMPION)

        def attempt(what: str) -> str:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    promote(params, arrays, splits, found.number, force=True, reason="attack")
            except UserError as error:
                return REFUSED if "\n" not in str(error) and not _champion(client, name) else f"{what}: unclear"
            except Exception as error:  # any other exception is a failure
                return f"{what}: raises {type(error).__name__}"
            return f"{what}: promoted"

        package = _package(client, name, found.number)
        if not package.is_relative_to(Path.cwd()):
            raise UserError(f"{package}: the package of {found} lies outside {project}, and an attack would damage it")
        every = sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        for path in tracked("promotions of an altered package", every):
            for what in _altered(path, chance):
                counts.add(attempt(f"{path.name} {what}"))
        for value in TAGS:
            client.set_model_version_tag(name, str(found.number), PACKAGE_TAG, value)
            counts.add(attempt("a wrong digest"))
        client.set_model_version_tag(name, str(found.number), PACKAGE_TAG, digest)
        outcome = attempt("the whole version")
        counts.add(READ if _champion(client, name) == found.number else outcome)
    return counts


@contextlib.contextmanager
def _copy(project: Path) -> Iterator[None]:
    """Work in a copy of a project's MLflow store."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        shutil.copy(project / DATABASE, DATABASE)
        shutil.copytree(project / ARTIFACTS, ARTIFACTS)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        try:
            yield
        finally:
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


def _champion(client: MlflowClient, name: str) -> int | None:
    number = client.get_registered_model(name).aliases.get(CHAMPION)
    return int(number) if number else None


def _package(client: MlflowClient, name: str, number: int) -> Path:
    """Return the folder of a version's package in the store; a local package is not copied."""
    uri = client.get_model_version_download_uri(name, str(number))
    return Path(download_artifacts(uri)) / "artifacts" / PACKAGE


def _altered(path: Path, chance: random.Random) -> Iterator[str]:
    """Flip a bit in a file, truncate it, empty it and remove it; yield each change's name, and restore the file."""
    whole = path.read_bytes()
    try:
        if whole:
            path.write_bytes(flipped(whole, chance))
            yield "with a flipped bit"
            path.write_bytes(whole[: len(whole) // 2])
            yield "without its end"
            path.write_bytes(b"")
            yield "emptied"
        path.unlink()
        yield "removed"
    finally:
        path.write_bytes(whole)
