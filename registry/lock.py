"""The lock under which a model's champion moves, held by one process at a time on any machine.

MLflow sets an alias unconditionally, but its database numbers the versions of a registered model consecutively and
never reuses a number. To take the lock, a process creates a version of the registered model
``<model>-promotion-locks``. The lowest number that is neither released nor expired holds the lock (Lamport's bakery
algorithm, with the database as the source of numbers). Ages come from the server's time stamps, so that the clocks of
clients do not matter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.terminal import printable
from registry import answered
from registry.history import actor

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds in which a holder's request may still arrive or be repeated: MLflow's attempts, their timeouts and pauses.
LATE = 60.0 * (1 + 3) + 30
DESCRIPTION = "Not a model: each version is the right to move a champion, held for moments. See docs/registry.md."


class UnconfirmedError(UserError):
    """A write got no response. It may still be applied, so the lock is not released but expires."""


class PromotionLock:
    """A held lock.

    Attributes:
        number: increases with every lock of a model, so that it orders decisions.
    """

    def __init__(self, name: str, number: int, since: float, lease: float) -> None:
        self.name, self.number, self._since, self._lease = name, number, since, lease

    def check(self) -> None:
        """Check that the lock does not expire during the next write.

        Raises:
            UserError: more than half of the lease is over.
        """
        if time.monotonic() - self._since > self._lease / 2:
            raise UserError(
                f"{self.name}: the registry was too slow, and the lock of the champion is about to expire; "
                "the champion was not changed: run again"
            )


def locks_of(name: str) -> str:
    """Return the name of the registered model whose versions are the locks for ``name``."""
    return f"{name}-promotion-locks"


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, lease: float, moved: Collection[int] = ()
) -> Iterator[PromotionLock]:
    """Hold the lock for the champion of ``name`` inside the block.

    Args:
        client: the MLflow client.
        name: the registered model.
        lease: seconds after which a lock expires.
        moved: locks whose decision the champion shows. Their holders have nothing left to write, so that these count
            only for :data:`LATE` seconds, in which a lost request may be repeated.

    Raises:
        UserError: another process holds the lock, or the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    model, token, since = locks_of(name), uuid.uuid4().hex, time.monotonic()
    with answered(f"model {model}"):
        try:
            client.create_registered_model(model, description=DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"token": token, "who": actor()}
        mine = client.create_model_version(model, f"lock:/{token}", tags=tags, await_creation_for=0)
        try:
            held = _held(client, model, mine, token, lease, moved)
        except BaseException:
            _release(client, model, [mine], lease)
            raise
    try:
        yield PromotionLock(name, min(int(each.version) for each in held), since, lease)
    except UnconfirmedError:
        raise
    except BaseException:
        _release(client, model, held, lease)
        raise
    _release(client, model, held, lease)


def _held(client: MlflowClient, model: str, mine: Any, token: str, lease: float, moved: Collection[int]) -> list[Any]:
    """Return this process's locks, or raise a UserError that names the holder of an earlier lock.

    There are several if a response was lost and MLflow's client retried the request.
    """
    every = list(client.search_model_versions(f"name='{model}'"))
    ours = [each for each in every if each.tags.get("token") == token]
    first = min(int(each.version) for each in ours)
    earlier = [each for each in every if int(each.version) < first]
    done = {each.tags.get("token") for each in earlier if int(each.version) in moved}
    expired = [
        each
        for each in earlier
        if mine.creation_timestamp - each.creation_timestamp
        > 1000 * (min(lease, LATE) if each.tags.get("token") in done else lease)
    ]
    for each in earlier:
        if each not in expired:
            _release(client, model, ours, lease)
            who = printable(each.tags.get("who", "another process"))
            raise UserError(
                f"{model.removesuffix(locks_of(''))}: {who} is moving the champion right now "
                f"(lock {each.version}); nothing was changed: check the result with `defunet models`, "
                f"then run again. The lock of a dead process expires after {lease / 60:g} min"
            )
    _release(client, model, expired, lease)
    return ours


def _release(client: MlflowClient, model: str, locks: list[Any], lease: float) -> None:
    from mlflow.exceptions import MlflowException

    for each in locks:
        try:
            client.delete_model_version(model, each.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                print(f"lock {each.version} on {model} could not be released; it expires in {lease / 60:g} min")


def live_locks(client: MlflowClient, name: str, lease: float) -> set[int]:
    """Return the numbers of the unexpired locks, by the local clock; only for display."""
    with answered(f"model {locks_of(name)}"):
        every = client.search_model_versions(f"name='{locks_of(name)}'")
    return {int(each.version) for each in every if time.time() * 1000 - each.creation_timestamp <= lease * 1000}
