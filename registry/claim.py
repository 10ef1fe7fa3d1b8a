"""A distributed lock for a model's champion alias: the claim.

MLflow sets an alias unconditionally. Its database guarantees only that the versions of a registered model have
consecutive numbers and that no number is reused, even after deletion. So a claim is a version of the registered model
``<model>-promotion-claims``. The lowest number that is neither released nor expired holds the lock (Lamport's bakery
algorithm, with numbers from the database). Ages are computed from the server's timestamps, so client clocks do not
matter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from registry import answered
from registry.actor import who

if TYPE_CHECKING:
    from mlflow import MlflowClient

DESCRIPTION = "Not a model: each version is the right to move a champion, held for moments. See docs/registry.md."


class UnconfirmedError(UserError):
    """A write got no response. It may still be applied, so the claim is not released but expires."""


class Claim:
    """A held lock.

    Attributes:
        number: increases with every claim of a model, so that it orders decisions.
    """

    def __init__(self, name: str, number: int, since: float, lease: float) -> None:
        self.name, self.number, self._since, self._lease = name, number, since, lease

    def check(self) -> None:
        """Check that the claim does not expire during the next write.

        Raises:
            UserError: more than half of the lease is over.
        """
        if time.monotonic() - self._since > self._lease / 2:
            raise UserError(
                f"{self.name}: the registry was too slow, and the right to move the champion is about to expire; "
                "the champion was not touched: run again"
            )


def claims_of(name: str) -> str:
    """Return the name of the registered model whose versions are the claims for ``name``."""
    return f"{name}-promotion-claims"


@contextmanager
def claim(client: MlflowClient, name: str, lease: float) -> Iterator[Claim]:
    """Hold the lock for the champion of ``name`` inside the block.

    Args:
        client: the MLflow client.
        name: the registered model.
        lease: seconds after which a claim expires.

    Raises:
        UserError: another process holds the lock, or the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    model, token, since = claims_of(name), uuid.uuid4().hex, time.monotonic()
    with answered(f"model {model}"):
        try:
            client.create_registered_model(model, description=DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"token": token, "who": who()}
        mine = client.create_model_version(model, f"claim:/{token}", tags=tags, await_creation_for=0)
        try:
            held = _held(client, model, mine, token, lease)
        except BaseException:
            _give_back(client, model, [mine], lease)
            raise
    try:
        yield Claim(name, min(int(each.version) for each in held), since, lease)
    except UnconfirmedError:
        raise
    except BaseException:
        _give_back(client, model, held, lease)
        raise
    _give_back(client, model, held, lease)


def _held(client: MlflowClient, model: str, mine: Any, token: str, lease: float) -> list[Any]:
    """Return this process's claims, or raise a UserError that names the holder of an earlier claim.

    There are several if a response was lost and MLflow's client retried the request.
    """
    every = list(client.search_model_versions(f"name='{model}'"))
    ours = [each for each in every if each.tags.get("token") == token]
    first = min(int(each.version) for each in ours)
    earlier = [each for each in every if int(each.version) < first]
    expired = [each for each in earlier if mine.creation_timestamp - each.creation_timestamp > lease * 1000]
    for each in earlier:
        if each not in expired:
            _give_back(client, model, ours, lease)
            raise UserError(
                f"{model.removesuffix(claims_of(''))}: {each.tags.get('who', 'another process')} is moving the "
                f"champion at this moment (claim {each.version}); nothing was changed: look at its outcome with "
                f"`defunet models`, then run again. A claim whose holder died counts for {lease / 60:g} min"
            )
    _give_back(client, model, expired, lease)
    return ours


def _give_back(client: MlflowClient, model: str, claims: list[Any], lease: float) -> None:
    from mlflow.exceptions import MlflowException

    for each in claims:
        try:
            client.delete_model_version(model, each.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                print(f"claim {each.version} on {model} could not be given back; it expires in {lease / 60:g} min")


def live_claims(client: MlflowClient, name: str, lease: float) -> set[int]:
    """Return the numbers of the unexpired claims, by the local clock; only for display."""
    with answered(f"model {claims_of(name)}"):
        every = client.search_model_versions(f"name='{claims_of(name)}'")
    return {int(each.version) for each in every if time.time() * 1000 - each.creation_timestamp <= lease * 1000}
