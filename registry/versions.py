"""Versions of a registered model: aliases, tags, and the images of their training."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cell import SPLIT
from core.errors import UserError
from core.terminal import printable
from registry import CHALLENGER, CHAMPION, answered
from tracking.store import store_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

MANIFEST_TAG = "manifest.sha256"
SPLITS_TAG = "splits.sha256"


@dataclass(frozen=True)
class Version:
    """A model version in the registry; ``created`` is in milliseconds since 1970 (UTC)."""

    name: str
    number: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    created: int

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def uri(self) -> str:
        """Its URI in the registry."""
        return f"models:/{self.name}/{self.number}"


def read_aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Return the version number of each alias of a model.

    Raises:
        UserError: nothing is registered under this name, or the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    with answered(f"model {name}"):
        try:
            return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            told = f"{name}: no version is registered yet in {store_name()}"
            raise UserError(f"{told}; `make run` (or `dvc repro`) trains and registers one") from error


def read_versions(client: MlflowClient, name: str) -> list[Version]:
    """Return all versions of a model, newest first; raises as :func:`read_aliases`."""
    aliases = read_aliases(client, name)
    found, token = [], None
    with answered(f"model {name}"):
        while True:
            page = client.search_model_versions(f"name='{name}'", page_token=token)
            found += [_version(version, aliases) for version in page]
            if not (token := page.token):
                return sorted(found, key=lambda version: -version.number)


def read_version(client: MlflowClient, name: str, number: int | None) -> Version:
    """Return one version of a model; ``number`` None: the challenger.

    Raises:
        UserError: there is no such model or version, or the registry does not answer.
    """
    aliases = read_aliases(client, name)
    if number is None and CHALLENGER not in aliases:
        raise UserError(f"{name}: no version is {CHALLENGER}; run the register step first, or pass --version N")
    with answered(f"model {name}"):
        return _version(client.get_model_version(name, str(number or aliases[CHALLENGER])), aliases)


def read_champion(client: MlflowClient, name: str) -> Version | None:
    """Return the champion, None if there is none; raises as :func:`read_version`."""
    number = read_aliases(client, name).get(CHAMPION)
    return None if number is None else read_version(client, name, number)


def _version(version: Any, aliases: dict[str, int]) -> Version:
    number = int(version.version)
    named = tuple(sorted(printable(alias) for alias, of in aliases.items() if of == number))
    tags = {printable(key): printable(str(value)) for key, value in version.tags.items()}
    return Version(version.name, number, named, tags, version.run_id or "", int(version.creation_timestamp))


@dataclass(frozen=True)
class TrainedOn:
    """A version's training data as recorded in MLflow; None if not recorded.

    Attributes:
        data_md5: MD5 of the cohort in ``data.dvc``.
        manifest_sha256: SHA-256 of the raw cohort's manifest, which contains the hash of every image and mask.
        ids: ids of the images in the training and validation splits.
        splits_sha256: :func:`splits_digest` of all three splits.
    """

    data_md5: str | None
    manifest_sha256: str | None
    ids: frozenset[str] | None
    splits_sha256: str | None


def trained_on(client: MlflowClient, version: Version) -> TrainedOn:
    """Return the training data from a version's tags and its MLflow run.

    Fields from the run are None if the store does not have the run.

    Raises:
        UserError: the registry does not answer.
    """
    pinned = version.tags.get("data.md5", "not pinned")
    manifest, ids = version.tags.get(MANIFEST_TAG), None
    if (run := _run(client, version)) is not None:
        for given in run.inputs.dataset_inputs:
            # The inputs of the newest training attempt are first; each has the manifest of its cohort.
            manifest = manifest or _in_json(given.dataset.source).get("manifest.sha256")
        ids = _training_ids(client, version.run_id)
    return TrainedOn(None if pinned == "not pinned" else pinned, manifest, ids, version.tags.get(SPLITS_TAG))


def _run(client: MlflowClient, version: Version) -> Any | None:
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return None
    with answered(f"run {version.run_id}"):
        try:
            return client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def _in_json(text: str) -> dict[str, Any]:
    """Return the tags in the JSON source of an MLflow data set."""
    values = json.loads(text)
    return dict(values.get("tags", values)) if isinstance(values, dict) else {}


def _training_ids(client: MlflowClient, run_id: str) -> frozenset[str] | None:
    """Return the training and validation ids from a run's evaluation; None if the run has none."""
    with answered(f"run {run_id}"), tempfile.TemporaryDirectory() as folder:
        kept = {file.path for file in client.list_artifacts(run_id, "evaluation")}
        if (name := f"evaluation/{SPLIT}") not in kept:
            return None
        split = json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text())
    return frozenset(str(image) for part in ("train", "validation") for image in split[part])


def splits_digest(splits: Mapping[str, Iterable[str]]) -> str:
    """Return the SHA-256 of the splits as sorted lines ``split id``, independent of the order of the images."""
    lines = sorted(f"{split} {image}\n" for split, images in splits.items() for image in set(images))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
