"""Report progress to Kubeflow Trainer, which shows it as ``status.trainerStatus`` of the TrainJob.

Trainer sets three environment variables in the pods: a server URL, a certificate file and a token file.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.terminal import say

SERVER, CERTIFICATE, TOKEN = (
    "KUBEFLOW_TRAINER_SERVER_URL",
    "KUBEFLOW_TRAINER_SERVER_CA_CERT",
    "KUBEFLOW_TRAINER_SERVER_TOKEN",
)
TIMEOUT = 10  # seconds per request
NAMES = ("train_loss", "validation_loss", "validation_dice", "images_per_second")


class Progress:
    """Reports epochs if Trainer's server URL is set. The first failed report is a warning; none delays training.

    Args:
        epochs: number of epochs of all stages together.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs, self._seconds, self._counted = epochs, 0.0, 0
        self._told = False
        self._last: threading.Thread | None = None

    def __call__(self, row: dict[str, float]) -> None:
        """Report an epoch; ``row`` is its row of the history."""
        done = int(row["epoch"])
        self._seconds, self._counted = self._seconds + row["seconds"], self._counted + 1
        left = round(self._seconds / self._counted * (self._epochs - done))
        self._report(100 * done // self._epochs, left, {name: row[name] for name in NAMES} | {"epoch": done})

    def finish(self) -> None:
        """Report the end, which early stopping may reach before the last epoch."""
        self._report(100, 0, {})
        if self._last is not None:
            self._last.join(TIMEOUT)

    def _report(self, percent: int, left: int, metrics: dict[str, float]) -> None:
        # While a report is in progress, skip this one; the next epoch reports again.
        if os.environ.get(SERVER) and (percent == 100 or self._last is None or not self._last.is_alive()):
            status: dict[str, Any] = {"progressPercentage": percent, "estimatedRemainingSeconds": left}
            if metrics:
                status["metrics"] = [{"name": name, "value": f"{value:g}"} for name, value in metrics.items()]
            status["lastUpdatedTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._last = threading.Thread(target=self._send, args=(status, self._last), daemon=True)
            self._last.start()

    def _send(self, status: dict[str, Any], before: threading.Thread | None) -> None:
        if before is not None:
            before.join(TIMEOUT)
        address = os.environ[SERVER]
        try:
            headers = {"Content-Type": "application/json"}
            if token := os.environ.get(TOKEN):  # read each time, because the token is renewed
                headers["Authorization"] = f"Bearer {Path(token).read_text().strip()}"
            context = ssl.create_default_context(cafile=os.environ.get(CERTIFICATE)) if "https" in address else None
            body = json.dumps({"trainerStatus": status}).encode()
            request = urllib.request.Request(address, body, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=context):  # noqa: S310
                return
        except (OSError, ValueError) as error:
            if not self._told:
                self._told = True
                say(f"warning: {address}: the progress could not be reported ({error}); training continues")
