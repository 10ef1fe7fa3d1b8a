"""The lock for changing a model's champion, held by one process at a time across machines.

MLflow sets an alias unconditionally, but experiment names are unique in its database, even after an experiment is
deleted. To take the lock, a process creates the experiment ``<model>-promotion-lock-<number>`` with the next number; to
release it, it deletes the experiment. A number is only taken when all lower ones are. So the lowest number that is
neither released nor expired holds the lock (Lamport's bakery algorithm, with the database as the source of numbers).
Ages come from the server's timestamps, so that the clients' clocks do not matter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.errors import UserError
from core.terminal import printable
from registry import answered, history

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds in which a holder's request may still arrive or be retried: MLflow's attempts, timeouts and pauses.
LATE = 60.0 * (1 + 3) + 30
DESCRIPTION = "The right to move a model's champion, held for moments by one promotion. See docs/registry.md."
NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as an experiment's description


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


@dataclass(frozen=True)
class Ticket:
    """A lock in the registry that was not released: held, waiting, or expired.

    Attributes:
        number: the number in the experiment's name.
        id: the experiment's id.
        created: the server's time of creation, in milliseconds since 1970.
        token: a random name of the attempt to take the lock.
        who: user and host.
    """

    number: int
    id: str
    created: int
    token: str
    who: str


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, lease: float, moved: Collection[int] = ()
) -> Iterator[PromotionLock]:
    """Hold the lock for the champion of ``name`` inside the block.

    Args:
        client: the MLflow client.
        name: the registered model.
        lease: seconds after which a lock expires.
        moved: locks whose decision already moved the champion. Their holders have nothing left to write, so these
            locks expire after :data:`LATE` seconds, in which a lost request may be retried.

    Raises:
        UserError: another process holds the lock, or the registry does not answer.
    """
    token, since = uuid.uuid4().hex, time.monotonic()
    with answered(f"model {name}"):
        mine = _take(client, name, token)
        try:
            held = _held(client, name, token, lease, moved)
        except BaseException:
            _release(client, name, [mine], lease)
            raise
    try:
        yield PromotionLock(name, min(each.number for each in held), since, lease)
    except UnconfirmedError:
        raise
    except BaseException:
        _release(client, name, held, lease)
        raise
    _release(client, name, held, lease)


def tickets(client: MlflowClient, name: str) -> list[Ticket]:
    """Return all locks for the champion of ``name`` that were not released, including expired ones."""
    from mlflow.entities import ViewType

    return _tickets(client, name, ViewType.ACTIVE_ONLY)


def live_locks(client: MlflowClient, name: str, lease: float) -> set[int]:
    """Return the numbers of the unexpired locks, by the local clock; only for display."""
    with answered(f"model {name}"):
        return {each.number for each in tickets(client, name) if time.time() * 1000 - each.created <= lease * 1000}


def _tickets(client: MlflowClient, name: str, view: int) -> list[Ticket]:
    begin, found, token = f"{name}-promotion-lock-", [], None
    while True:
        page = client.search_experiments(view, filter_string=f"name LIKE '{begin}%'", page_token=token)
        found += list(page)
        if not (token := page.token):
            break
    return [
        Ticket(
            int(number), each.experiment_id, each.creation_time, each.tags.get("token", ""), each.tags.get("who", "")
        )
        for each in found
        if (number := each.name.removeprefix(begin)).isdecimal()  # in LIKE, "_" is any character
    ]


def _take(client: MlflowClient, name: str, token: str) -> Ticket:
    """Create the experiment with the next number."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    # `mlflow gc` removes the names of released locks; the history keeps the numbers of its decisions.
    known = _tickets(client, name, ViewType.ALL) + history.read(client, name, None)
    number = max((each.number for each in known), default=0) + 1
    who = history.actor()
    while True:
        title = f"{name}-promotion-lock-{number}"
        try:
            created = client.create_experiment(title, tags={"token": token, "who": who, NOTE: DESCRIPTION})
            return Ticket(number, created, 0, token, who)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            number += 1  # another process took it in the meantime


def _held(client: MlflowClient, name: str, token: str, lease: float, moved: Collection[int]) -> list[Ticket]:
    """Return this process's locks, or raise a UserError that names the holder of an earlier lock.

    There are several if a response was lost and MLflow's client retried the request.
    """
    every = tickets(client, name)
    ours = [each for each in every if each.token == token]
    if not ours:
        raise UserError(f"{name}: somebody removed the lock of this process; nothing was changed: run again")
    first = min(ours, key=lambda each: each.number)
    # A lower number is created earlier, unless `mlflow gc` removed the names between this process's request and
    # another's. Then both processes find an earlier lock, and neither holds it.
    earlier = [
        each for each in every if each.token != token and (each.number < first.number or each.created < first.created)
    ]
    done = {each.token for each in earlier if each.number in moved}
    expired = [
        each
        for each in earlier
        if first.created - each.created > 1000 * (min(lease, LATE) if each.token in done else lease)
    ]
    for each in earlier:
        if each not in expired:
            _release(client, name, ours, lease)
            raise UserError(
                f"{name}: {printable(each.who or 'another process')} is moving the champion right now "
                f"(lock {each.number}); nothing was changed: check the result with `defunet models`, "
                f"then run again. The lock of a dead process expires after {lease / 60:g} min"
            )
    _release(client, name, expired, lease)
    return ours


def _release(client: MlflowClient, name: str, locks: list[Ticket], lease: float) -> None:
    from mlflow.exceptions import MlflowException

    for each in locks:
        try:
            client.delete_experiment(each.id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                print(f"lock {each.number} of {name} could not be released; it expires in {lease / 60:g} min")
