"""A folder as one object of the artifact store: a plain tar file, since pictures and arrays gain little by compression.

A store takes and gives one large object faster than thousands of small ones. Equal folders give equal bytes.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from core.errors import UserError
from core.files import explain_full_disk, write_file


def pack(folder: Path, archive: Path) -> None:
    """Write a folder to the tar file ``archive``, its files in the order of their names, without times or owners."""
    with write_file(archive) as partial, tarfile.open(partial, "w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def unpack(archive: Path, folder: Path) -> None:
    """Write the members of a tar file to ``folder``, one after the other as they are read.

    Raises:
        UserError: the file is no tar file or is cut off, or a member would lie outside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with explain_full_disk(folder), tarfile.open(archive, "r|") as tar:
            tar.extractall(folder, filter="data")  # refuses absolute paths, "..", devices and links that lead out
    except tarfile.TarError as error:
        raise UserError(
            f"{archive}: not an archive that a step left ({error}); run the step that writes it again"
        ) from error
