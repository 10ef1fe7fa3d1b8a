"""Send the records that trainings have kept while MLflow was down."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from core.errors import UserError
from core.files import exclusive
from tracking.journal import LEFT, LIVE, Journal
from tracking.sender import Sender
from tracking.store import answered, store_name


def command(place: str) -> str:
    """Return the line that sends what is kept in ``place``, as one types it; passwords are left out."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    shown = "" if uri is None else f"MLFLOW_TRACKING_URI={shlex.quote(store_name())} "
    return f"{shown}python -m tracking {shlex.quote(place)}"


def send_records(place: str) -> list[str]:
    """Send every record below ``place`` that MLflow does not have; sent twice, nothing is logged twice.

    The journal of a training that is over is removed when all of it has been sent, that of an unfinished one is kept.

    Args:
        place: a journal, a folder (of checkpoints), or ``s3://bucket/prefix``.

    Returns:
        The ids of the runs that have them now.

    Raises:
        UserError: there is no such place, a training is writing there, MLflow or S3 cannot be reached.
    """
    if place.startswith("s3://"):
        from tracking.bucket import journals

        return [_send(path, f"{place}: {path.name}", removed) for path, removed in journals(place)]
    folder = Path(place)
    if not folder.exists():
        raise UserError(f"{place}: not found; name a journal, a folder of checkpoints, or s3://bucket/prefix")
    paths = [folder] if folder.is_file() else sorted([*folder.rglob(LIVE), *folder.rglob(LEFT)])
    return [_send(path, str(path)) for path in paths]


def send_left(kept: str | None) -> None:
    """Send a journal that a training may have left, as ``run.json`` names it; nothing is done where there is none.

    Raises:
        UserError: MLflow cannot be reached.
    """
    if kept is not None and Path(kept).is_file():
        _send(Path(kept), kept)


def _send(path: Path, called: str, removed: Callable[[], None] = lambda: None) -> str:
    live = path.name == LIVE
    with exclusive(path.parent) if live else nullcontext():
        journal = Journal(path)
        count = len(journal.pending)
        sender = Sender(journal)
        with answered(called):
            sender.send()
        over = journal.finished or not live
        if over:
            journal.lay_aside()
            removed()
    kept = "" if over else "; the journal is kept, because its training has not come to its end"
    print(f"{called}: {count} record(s) sent to {store_name()}, run {sender.run_id}{kept}")
    return sender.run_id
