"""Checks before a server starts: its port, program and database."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from core.errors import UserError

HOST = "127.0.0.1"
URI_FORM = "say postgresql+pg8000://user:password@host/name"


def free_ports(count: int) -> list[int]:
    """Return currently free ports of the loopback address."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def check_port(name: str, port: int, option: str) -> None:
    """Raise UserError if the port is in use."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise UserError(f"{name}: port {port} is taken ({error.strerror}); choose another with {option}") from error


def check_database(uri: str) -> None:
    """Raise UserError if the database cannot be reached; the server itself would retry for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        shown = make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        raise UserError(f"not the URI of a database; {URI_FORM}") from None
    try:
        engine = create_engine(uri, poolclass=NullPool)  # keeps no connection open
        engine.connect().close()
    except ImportError as error:
        raise UserError(f"{shown}: its driver, {error.name}, is not installed; {URI_FORM}") from error
    except SQLAlchemyError as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        raise UserError(f"{shown}: {reason}; check the address, the user and that the database exists") from error


def find_program(name: str) -> str:
    """Return the path of a program of this environment."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise UserError(f"{name}: not found; `make setup` installs it")
    return found
