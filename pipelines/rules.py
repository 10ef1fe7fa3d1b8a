"""Kubernetes' rules for names, labels and amounts, as types of the cluster settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from core.errors import UserError

# A DNS subdomain: Kubernetes' rule for names of Secrets, ConfigMaps, claims and service accounts.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
# The key of a label or a resource: an optional DNS subdomain and slash, then up to 63 characters.
Key = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
# A DNS label: Kubernetes' rule for names that are also label values.
QueueName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Folder = Annotated[str, Field(pattern=r"^/[^:\s]*[^:\s/]$")]
Place = Annotated[str, Field(pattern=r"^(s3:/)?/[^:\s]*[^:\s/]$")]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
CpuAmount = Annotated[str, Field(pattern=r"^([1-9][0-9]*m|[0-9]+(\.[0-9]+)?)$")]
# Only powers of 1024: kfp accepts "K", Kubernetes "k".
MemoryAmount = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
# Validate digests: a wrong one would show only when a pod cannot pull the image.
ImageName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][^\s@]*(@sha256:[0-9a-f]{64})?$", description="NAME:TAG or NAME@sha256:64 hex digits"),
]


def cores(amount: str) -> float:
    """Return a CPU amount, ``500m`` or ``0.5``, in cores."""
    return int(amount[:-1]) / 1000 if amount.endswith("m") else float(amount)


def mebibytes(amount: str) -> int:
    """Return a memory amount, such as ``4Gi``, in MiB."""
    return int(amount[:-2]) * {"Mi": 1, "Gi": 1024, "Ti": 1024**2}[amount[-2:]]


def named_image(name: str | None) -> str | None:
    """Validate the name of an image and return it unchanged; None is allowed.

    Raises:
        UserError: the name is malformed, or its digest is not ``sha256:`` and 64 hexadecimal digits.
    """
    if name is not None:
        try:
            TypeAdapter(ImageName).validate_python(name)
        except ValidationError:
            raise UserError(f"--image {name}: not an image; use NAME:TAG or NAME@sha256:64 hex digits") from None
    return name
