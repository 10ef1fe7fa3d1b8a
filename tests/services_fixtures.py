"""SeaweedFS and MLflow on free ports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import KEYS, Bucket, new_bucket, s3_settings
from tools.services import mlflow, s3
from tools.services.checks import free_ports


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS that runs for the session."""
    with s3(tmp_path_factory.mktemp("s3"), KEYS, free_ports(1)[0]) as server:
        yield server.url


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; the environment has the owner's credentials and knows nothing else of S3."""
    for name, value in s3_settings(s3_server, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return new_bucket(s3_server)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, s3_server: str, empty_store: Path) -> Iterator[str]:
    """The URL of an MLflow server that runs for the session and keeps its artifacts in the S3 server."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_store, folder / "mlflow.db")
    with mlflow(folder, f"sqlite:///{folder / 'mlflow.db'}", s3_server, KEYS, free_ports(1)[0]) as server:
        yield server.url
