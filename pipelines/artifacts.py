"""Kubeflow's artifact types for the steps' pods, which need not import kfp.

The classes have the names of those in :mod:`kfp.dsl`; :mod:`pipelines.components` declares kfp's type of the same name.
Kubeflow's page shows their metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

# Mount points where Kubeflow's launcher puts an artifact's files, by the scheme of its URI.
MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}


@dataclass
class Artifact:
    """An artifact of any kind.

    Attributes:
        name: the name of an output; for an input its number in the store.
        uri: the address in the store; in a local run the path.
        metadata: metadata that Kubeflow stores with the artifact; nulls would fail the step.
        path: the file or folder that the step reads or writes.
    """

    name: str = ""
    uri: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        self.path = self.path or local_path(self.uri)


def local_path(uri: str) -> str:
    """Return the path where the launcher puts the files of ``uri``; a URI without a scheme is a path."""
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri


class Dataset(Artifact):
    """Images, arrays or splits."""


class Model(Artifact):
    """A trained network."""


class Markdown(Artifact):
    """Markdown that Kubeflow's page renders."""


class HTML(Artifact):
    """An HTML document that Kubeflow's page shows."""


class Metrics(Artifact):
    """Named numbers."""

    def log_metric(self, name: str, value: float) -> None:
        """Add a number."""
        self.metadata[name] = value


class ClassificationMetrics(Artifact):
    """A ROC curve."""

    def log_roc_curve(self, fpr: Sequence[float], tpr: Sequence[float], thresholds: Sequence[float]) -> None:
        """Set the points of the curve; the arguments have equal lengths."""
        self.metadata["confidenceMetrics"] = [
            {"confidenceThreshold": threshold, "recall": true, "falsePositiveRate": false}
            for false, true, threshold in zip(fpr, tpr, thresholds, strict=True)
        ]


@dataclass(frozen=True)
class Status:
    """The final status of the steps before an exit handler: Kubeflow's state, and its error, if it gives one."""

    state: str
    error: str = ""


T = TypeVar("T")
INPUT, OUTPUT, ARCHIVE = "input", "output", "archive"
Input = Annotated[T, INPUT]
Output = Annotated[T, OUTPUT]
# The step sees a folder; Kubeflow stores it as one tar file (:mod:`pipelines.archives`).
Archive = Annotated[T, ARCHIVE]
