"""Send a record in a thread during training, so that a server that is down or hangs never delays training."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from core.errors import UserError
from tracking.send import send, tell
from tracking.store import is_lasting, is_local, reason, store_name

# Seconds to wait for a server's first response at the start, and for the next successful request at the end.
START, PATIENCE, TICK = 30.0, 15.0, 0.1
PAUSES = (1.0, 30.0)  # seconds after a failed attempt: the first pause, which doubles up to the second
EVERY = 15.0  # seconds after which system metrics are sent if no epoch ends


class BackgroundSender:
    """Sends the record of a training run, and unsent records of earlier runs next to it.

    Attributes:
        folder: the record.
        earlier: unsent records of earlier runs; each is removed once it has been sent.
        run_id: id of the MLflow run; None until it has been found or created.
        trouble: the error of the last attempt; None if it succeeded.
        sent: whether the whole record has been sent.
    """

    def __init__(self, folder: Path, earlier: list[Path]) -> None:
        self.folder, self.earlier = folder, earlier
        self.run_id: str | None = None
        self.trouble: BaseException | None = None
        self.sent = self._down = self._started = False
        self._requests = 0
        self._answered, self._wake, self._ending, self._over = (threading.Event() for _ in range(4))
        self._thread = threading.Thread(target=self._work, name="MLflow", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait until the first attempt succeeds, fails or times out (:data:`START`).

        Raises:
            UserError: the settings are wrong: the address, the credentials or the database file.
        """
        self._thread.start()
        answered = self._answered.wait(None if is_local() else START)
        if self.trouble is not None and is_lasting(self.trouble):
            self._over.set()
            if isinstance(self.trouble, UserError):
                raise self.trouble
            raise UserError(f"MLflow, {store_name()}: {reason(self.trouble)}; check MLFLOW_TRACKING_URI and run again")
        self._started = True
        if self.trouble is not None or not answered:
            self._tell_down()

    def wake(self) -> None:
        """Notify the thread of new data to send."""
        self._wake.set()

    def finish(self) -> bool:
        """Wait while requests succeed, at most :data:`PATIENCE` without a success; return whether all was sent."""
        self._ending.set()
        self._wake.set()
        count, patience = self._requests, PATIENCE
        # Count ticks instead of reading a clock, so that a suspended process still waits after it resumes.
        while self._thread.is_alive() and patience > 0:
            self._thread.join(TICK)
            patience = PATIENCE if self._requests != count else patience - TICK
            count = self._requests
        self._over.set()
        return self.sent

    def _work(self) -> None:
        pause = PAUSES[0]
        while not (self._over.is_set() or self.sent):
            self._wake.clear()
            whole = self._ending.is_set()
            try:
                self.run_id = send(self.folder, self._count)
                self.sent = whole
                self._answered.set()
                self._send_earlier()
            # Any MLflow error is printed, and training continues.
            except Exception as error:
                self.trouble = error
                self._answered.set()
                if self._started and not self._down:
                    self._tell_down()
                # If training ends during a long pause, try again at once, then every second.
                _ = self._over.wait(PAUSES[0]) if whole else self._ending.wait(pause)
                pause = min(2 * pause, PAUSES[1])
            else:
                self.trouble, pause = None, PAUSES[0]
                if self._down and not self._over.is_set():
                    self._down = False
                    tell(f"MLflow, {store_name()}: is back; the records of the meantime have been sent")
                if not whole:
                    self._wake.wait(EVERY)

    def _count(self) -> None:
        self._requests += 1

    def _send_earlier(self) -> None:
        while self.earlier:
            send(self.earlier[-1], self._count)
            folder = self.earlier.pop()
            shutil.rmtree(folder, ignore_errors=True)
            tell(f"MLflow, {store_name()}: the records of an earlier training run in {folder} have been sent")

    def _tell_down(self) -> None:
        if not self._over.is_set():
            self._down = True
            why = reason(self.trouble) if self.trouble else f"no answer in {START:.0f} s"
            tell(
                f"warning: MLflow, {store_name()}: {why}; training continues, its records are kept in {self.folder} "
                "and sent when the server is back"
            )
