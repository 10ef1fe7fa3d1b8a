"""The record of a service's predictions: findings, device and time, without images, names or addresses."""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from core.errors import UserError
from serving.http.logs import say
from serving.http.model_loader import Loaded
from serving.xray.findings import Findings


class Record:
    """Appends one line of JSON per prediction; thread-safe.

    Args:
        file: the file; a new one is readable only by its owner. None: no record.

    Raises:
        UserError: the file cannot be written, or does not end in ``.jsonl``.
    """

    def __init__(self, file: Path | None) -> None:
        self.lock = threading.Lock()
        self.descriptor: int | None = None
        if file is None:
            return
        if file.suffix != ".jsonl":
            raise UserError(f"{file}: the record's name must end in .jsonl")
        try:
            self.descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"{file}: the record cannot be written ({error.strerror}); choose another file") from error

    def add(self, findings: Findings, device: str, model: Loaded) -> None:
        """Append a prediction; a failure is only logged, so that the client still gets the response."""
        if self.descriptor is None:
            return
        now = datetime.now(UTC)
        about = {"time": now.isoformat(timespec="milliseconds"), "day": now.date().isoformat(), "device": device}
        line = json.dumps(about | {"model": model.name, "version": model.version} | asdict(findings)) + "\n"
        try:
            with self.lock:
                os.write(self.descriptor, line.encode())
        except OSError as error:
            say("a prediction was not recorded", logging.ERROR, reason=error.strerror)

    def close(self) -> None:
        """Close the file."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
