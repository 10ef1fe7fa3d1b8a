"""The local MLflow store, used if no server is named: ``mlflow.db`` and ``mlruns`` in the project's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Connection

DATABASE, ARTIFACTS = "mlflow.db", "mlruns"
# Tables and columns in which MLflow stores artifact addresses.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def workspace(here: Path | None = None) -> Path:
    """Return the folder whose store is used: ``here``, or the workspace for an experiment in a temporary DVC folder.

    ``dvc exp run --temp`` and ``--queue`` run in ``.dvc/tmp/exps/...`` of the workspace, which DVC deletes afterwards.

    Args:
        here: the folder; None: the current folder.
    """
    here = (here or Path.cwd()).resolve()
    for folder in here.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return here


def adopt(root: Path) -> str | None:
    """Update the absolute artifact paths in the store of a renamed or copied clone.

    Args:
        root: the folder with ``mlflow.db`` and ``mlruns``.

    Returns:
        A note in one line; None if nothing was changed, or DVC ran the experiment in a temporary folder.

    Raises:
        UserError: the database was copied without its artifacts.
    """
    file = root / DATABASE
    if not file.exists():
        return None
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    with create_engine(f"sqlite:///{file}", poolclass=NullPool).begin() as store:
        if (made_in := _made_in(store)) is None or made_in.resolve() == root.resolve():
            return None
        if (made_in / ARTIFACTS).is_dir() and not (root / ARTIFACTS).is_dir():
            raise UserError(
                f"{file}: it came from {made_in} without its artifacts; copy {made_in / ARTIFACTS} here too, or remove "
                f"{file} to begin a store of its own"
            )
        # If two steps start at once, the second finds no old address.
        _readdress(store, f"{made_in / ARTIFACTS}/", f"{root / ARTIFACTS}/")
    if workspace(made_in) == root.resolve():
        return None  # DVC ran the experiment in a temporary folder
    return f"note: {file} came from {made_in}; the addresses of its artifacts now name {root / ARTIFACTS}"


def _made_in(store: Connection) -> Path | None:
    """Return the folder in which MLflow created the database, from its first experiment; None if unknown."""
    from sqlalchemy import String, column, inspect, select, table

    if not inspect(store).has_table("experiments"):
        return None
    address = column("artifact_location", String)
    first = select(address).select_from(table("experiments")).where(column("experiment_id") == 0)
    place = Path(str(store.execute(first).scalar()))
    return place.parents[1] if place.is_absolute() and place.parent.name == ARTIFACTS else None


def _readdress(store: Connection, old: str, new: str) -> None:
    from sqlalchemy import String, column, func, inspect, literal, table, update

    found = inspect(store)
    for name, field in ADDRESSES:
        # Other MLflow versions may lack the table or the column.
        if not found.has_table(name) or field not in (each["name"] for each in found.get_columns(name)):
            continue
        address = column(field, String)
        changed = literal(new).concat(func.substr(address, len(old) + 1))
        where = func.substr(address, 1, len(old)) == old
        store.execute(update(table(name, address)).values({field: changed}).where(where))
