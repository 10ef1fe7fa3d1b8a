"""Agreement of a version in shadow with the champion on production images, counted in the version's tags.

Each service that runs a version in shadow (:mod:`serving.http.shadow`) has one tag, which it overwrites. The promotion
gate uses the sum over all tags that name the same champion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry import answered

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "shadow."


class Agreement(BaseModel):
    """The counts of one service, or their sum over services.

    Attributes:
        against: version number of the champion.
        pictures: number of images that both versions segmented.
        dice: sum over these images of the Dice between the two masks, 0 to ``pictures``.
        errors: number of images that only the champion segmented.
        withdrawn: why the version's canary was withdrawn; empty if it was not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    against: int
    pictures: int = Field(0, ge=0)
    dice: float = Field(0.0, ge=0, allow_inf_nan=False)
    errors: int = Field(0, ge=0)
    withdrawn: str = Field("", max_length=500)

    @property
    def mean(self) -> float | None:
        """Mean Dice over the images, None without images."""
        return self.dice / self.pictures if self.pictures else None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            against=self.against,
            pictures=self.pictures + other.pictures,
            dice=self.dice + other.dice,
            errors=self.errors + other.errors,
            withdrawn=self.withdrawn or other.withdrawn,
        )


def write(client: MlflowClient, name: str, version: str, service: str, counted: Agreement) -> None:
    """Set a service's tag on a version.

    Args:
        client: the registry's client.
        name: the registered model.
        version: the version in shadow.
        service: identifies the service's process; part of the tag's key.
        counted: the service's counts since it started.

    Raises:
        UserError: the registry does not answer or refuses.
    """
    with answered(f"{name} version {version}"):
        client.set_model_version_tag(name, version, f"{PREFIX}{service}", counted.model_dump_json())


def read(tags: Mapping[str, str], champion: int) -> Agreement:
    """Return the sum of all services' counts against one champion; invalid tags are ignored."""
    total = Agreement(against=champion)
    for key, value in tags.items():
        if not key.startswith(PREFIX):
            continue
        try:
            counted = Agreement.model_validate_json(value)
        except ValidationError:
            continue  # set manually or by another release
        if counted.against == champion and counted.dice <= counted.pictures:
            total += counted
    return total
