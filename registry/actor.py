"""The actor of a decision, as recorded in the history."""

from __future__ import annotations

import getpass
import os
import socket


def who() -> str:
    """Return user and host, and the Kubeflow run if KUBEFLOW_RUN_ID is set."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"  # a container's user need not have a name
    run = os.environ.get("KUBEFLOW_RUN_ID")
    return f"{user}@{socket.gethostname()}" + (f", Kubeflow run {run}" if run else "")
