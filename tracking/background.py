"""A thread that sends a journal while the training goes on, so that no server, down or hanging, ever holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError
from tracking.journal import LEFT, Journal
from tracking.sender import Sender, is_lasting, is_local, reason, tell
from tracking.store import RETRIES, TIMEOUT, store_name

# Seconds that a training waits at its start for a server's first answer, and at its end while nothing goes through.
START, PATIENCE = 30.0, 15.0
PAUSES = (1.0, 30.0)  # seconds between attempts that fail: the first, and the longest to which it doubles
REQUESTS = {RETRIES: "0", TIMEOUT: "10"}  # MLflow's own patience: the journal keeps what fails, and is sent again


class Courier:
    """Sends a journal, and what earlier trainings have left beside it.

    Args:
        journal: of the training.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.sender = Sender(journal)
        self._left = list(_left_beside(journal.path))
        self.trouble: BaseException | None = None
        self._told = self._started = False
        self._begun = self._ended = 0  # attempts at sending
        self._attempted, self._wake, self._hurry, self._over = (threading.Event() for _ in range(4))
        self._thread = threading.Thread(target=self._work, name="MLflow", daemon=True)

    def start(self) -> None:
        """Send what there is; return when it has gone, or when waiting is no use.

        Raises:
            UserError: the settings are wrong: the address, the credentials, the database's file.
        """
        self._thread.start()
        answered = self._attempted.wait(None if is_local() else START)
        if answered and self.trouble is not None and is_lasting(self.trouble):
            self._over.set()
            self._hurry.set()
            if isinstance(self.trouble, UserError):
                raise self.trouble
            raise UserError(f"MLflow, {store_name()}: {reason(self.trouble)}; check MLFLOW_TRACKING_URI and run again")
        self._started = True
        if self.trouble is not None or not answered:
            self._tell()

    def wake(self) -> None:
        """Say that there is more to send."""
        self._wake.set()

    def finish(self) -> bool:
        """Wait while records go through, and a little where they do not; tell whether all have been sent."""
        self._hurry.set()
        self._wake.set()
        count, limit, last = self.journal.sent, time.monotonic() + PATIENCE, 0
        while self.journal.pending and self._thread.is_alive() and (not last or self._ended < last):
            if self.journal.sent != count:
                count, limit, last = self.journal.sent, time.monotonic() + PATIENCE, 0
            elif not last and time.monotonic() >= limit:
                # One that begins now: who was stopped meanwhile (a suspended job, a laptop) has waited, but not tried.
                last = self._begun + 1
            time.sleep(0.01)
        self._over.set()
        self._wake.set()
        sent = not self.journal.pending
        if sent:
            self._thread.join(PATIENCE)
        return sent

    def _work(self) -> None:
        pause = PAUSES[0]
        while not self._over.is_set():
            self._begun += 1
            try:
                self.sender.send()
                self._attempted.set()
                self._send_left()
                self._recover()
            # Whatever it is that goes wrong with MLflow, it is told, and the training goes on.
            except Exception as error:
                self.trouble = error
                self._ended += 1
                self._attempted.set()
                if self._started and not self._told:
                    self._tell()
                if self._hurry.wait(pause):
                    pause = PAUSES[0]
                    self._over.wait(pause)
                else:
                    pause = min(2 * pause, PAUSES[1])
            else:
                self._ended += 1
                pause = PAUSES[0]
                self._wake.wait()
                self._wake.clear()

    def _send_left(self) -> None:
        while self._left:
            earlier = self._left[-1]
            Sender(earlier).send()
            earlier.lay_aside()
            tell(f"MLflow, {store_name()}: what an earlier training had left in {earlier.path} has been sent")
            self._left.pop()

    def _recover(self) -> None:
        self.trouble = None
        if self._told:
            self._told = False
            tell(f"MLflow, {store_name()}: is back; what was kept meanwhile has been sent")

    def _tell(self) -> None:
        self._told = True
        why = reason(self.trouble) if self.trouble else f"no answer in {START:.0f} s"
        tell(
            f"warning: MLflow, {store_name()}: {why}; training goes on, its records are kept in {self.journal.path} "
            "and sent when the server is back"
        )


def _left_beside(path: Path) -> Iterator[Journal]:
    for left in sorted(path.parent.glob(LEFT)):
        try:
            yield Journal(left)
        except UserError as error:
            tell(f"warning: {error}")
