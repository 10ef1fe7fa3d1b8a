"""Kubeflow's artifact types as the steps' pods use them, without kfp, which costs every pod an import.

The classes bear the names of :mod:`kfp.dsl`, and :mod:`pipelines.components` declares kfp's type of the same name. The
metadata are what Kubeflow's page shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

# Where Kubeflow's launcher puts the files of an artifact, by the scheme of its address.
MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}


@dataclass
class Artifact:
    """An artifact of any kind.

    Attributes:
        name: the name of an output, or the store's number of an input.
        uri: the address in the store; on one machine the local path.
        metadata: what Kubeflow keeps with the artifact. It has no nulls: they would fail the step.
        path: the file or folder that the step reads or writes.
    """

    name: str = ""
    uri: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        self.path = self.path or local_path(self.uri)


def local_path(uri: str) -> str:
    """Return where the launcher puts the files of ``uri``; an address without a scheme is the path itself."""
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri


class Dataset(Artifact):
    """Images, arrays or splits."""


class Model(Artifact):
    """A trained network."""


class Markdown(Artifact):
    """A text that Kubeflow's page renders."""


class HTML(Artifact):
    """A page that Kubeflow's page shows."""


class Metrics(Artifact):
    """Figures, each under a name."""

    def log_metric(self, name: str, value: float) -> None:
        """Add a figure."""
        self.metadata[name] = value


class ClassificationMetrics(Artifact):
    """A ROC curve."""

    def log_roc_curve(self, fpr: Sequence[float], tpr: Sequence[float], thresholds: Sequence[float]) -> None:
        """Set the points of the curve, as many of each."""
        self.metadata["confidenceMetrics"] = [
            {"confidenceThreshold": threshold, "recall": true, "falsePositiveRate": false}
            for false, true, threshold in zip(fpr, tpr, thresholds, strict=True)
        ]


@dataclass(frozen=True)
class Status:
    """The final status of the steps before an exit handler: Kubeflow's state, and an error if it tells one."""

    state: str
    error: str = ""


T = TypeVar("T")
INPUT, OUTPUT, ARCHIVE = "input", "output", "archive"
Input = Annotated[T, INPUT]
Output = Annotated[T, OUTPUT]
# The step sees a folder; Kubeflow stores it as one tar file (:mod:`pipelines.archives`).
Archive = Annotated[T, ARCHIVE]
