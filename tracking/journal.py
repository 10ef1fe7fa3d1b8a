"""The records of one training, written here first and sent to MLflow from here: one JSON object a line, only added to.

The first line describes the run; every later one is a record with its own time, or says how many of the records an
MLflow run has. What a kill cuts off in the middle of a line is dropped.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from core.errors import UserError
from core.files import write_file

LIVE = "mlflow.jsonl"  # of the training whose state lies beside it
LEFT = "mlflow-*.jsonl"  # of trainings that are over, not all sent yet
RUNNING, FINISHED = "RUNNING", "FINISHED"  # of MLflow's states the two that are asked for
# Kinds of lines.
RUN, PARAMS, TAGS, DATA = "run", "params", "tags", "data"
EPOCH, SYSTEM, ARTIFACT, STATUS, SENT = "epoch", "system", "artifact", "status", "sent"


def now() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return int(time.time() * 1000)


class Journal:
    """A journal that is open for more; threads may add to it at the same time.

    Attributes:
        path: of the file.
        run: what the first line says: ``training`` (the mark by which MLflow's run is found), ``fingerprint``,
            ``experiment``, ``name``, ``tags``, ``time``.
        records: all others, in order.
        run_id: MLflow's run that has the first ``sent`` records; empty: none has any.
        sent: how many.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal.

        Raises:
            UserError: it is missing, or no journal.
        """
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.run_id, self.sent = "", 0
        self._lock = threading.RLock()
        try:
            lines = path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            parsed = [json.loads(line) for line in whole]
            self.run: dict[str, Any] = parsed[0]
            if self.run["kind"] != RUN:
                raise ValueError("its first line describes no run")
            for record in parsed[1:]:
                if record["kind"] == SENT:
                    self.run_id, self.sent = record["run_id"], record["count"]
                else:
                    self.records.append(record)
            self._file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            raise UserError(f"{path}: not found; records that have been sent are removed") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path}: not the journal of a training ({error}); move it away") from error
        self._file.truncate(sum(map(len, whole)))
        self._file.seek(0, os.SEEK_END)

    @classmethod
    def begin(cls, path: Path, **run: Any) -> Self:
        """Write a journal's first line, in one move, and open it."""
        with write_file(path) as partial:
            partial.write_text(json.dumps({"kind": RUN, "time": now(), **run}) + "\n")
        return cls(path)

    def add(self, kind: str, **values: Any) -> None:
        """Write a record down.

        Raises:
            OSError: it cannot be written, for instance because the disk is full.
        """
        record = {"kind": kind, "time": now(), **values}
        with self._lock, self._all_or_nothing():
            self._write(record)
            self.records.append(record)

    def acknowledge(self, run_id: str, count: int) -> None:
        """Write down that an MLflow run has the first ``count`` records."""
        with self._lock:
            if (run_id, count) != (self.run_id, self.sent):
                with self._all_or_nothing():
                    self._write({"kind": SENT, "run_id": run_id, "count": count})
                self.run_id, self.sent = run_id, count

    def _write(self, record: dict[str, Any]) -> None:
        line = memoryview(json.dumps(record).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Take back what an interrupt or a full disk leaves half done: the file and the memory must count alike."""
        place, count = self._file.tell(), len(self.records)
        try:
            yield
        except BaseException:
            self._file.truncate(place)
            self._file.seek(place)
            del self.records[count:]
            raise

    def has(self, kind: str, name: str, value: Any) -> bool:
        """Tell whether a record of this kind has this value under this name."""
        with self._lock:
            return any(record["kind"] == kind and record[name] == value for record in self.records)

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The records that are still to be sent."""
        with self._lock:
            return self.records[self.sent :]

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end; a failed or killed one may still go on."""
        with self._lock:
            last = next((record for record in reversed(self.records) if record["kind"] == STATUS), None)
        return last is not None and last["status"] == FINISHED

    @property
    def left(self) -> Path:
        """Where the journal lies once its training is over but not all of it has been sent."""
        return self.path.with_name(LEFT.replace("*", self.run["training"]))

    def lay_aside(self) -> None:
        """Give it the name of those that are over; removed instead if all has been sent."""
        with self._lock:
            if self.pending or not self.run_id:
                self.path = self.path.rename(self.left)
            else:
                self.path.unlink(missing_ok=True)
