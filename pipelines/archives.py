"""Store a folder as one object of the artifact store: an uncompressed tar file.

One large object transfers faster than thousands of small ones, and images and arrays compress little. Equal folders
give equal bytes.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.files import explain_full_disk, write_file


def pack(folder: Path, archive: Path) -> None:
    """Write a folder to the tar file ``archive``, with files sorted by name and without times or owners."""
    with write_file(archive) as partial, tarfile.open(partial, "w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def unpack(archive: Path, folder: Path) -> None:
    """Extract a tar file to ``folder``, reading it as a stream.

    Raises:
        UserError: the file is not a tar file or is truncated, or a member would be outside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with explain_full_disk(folder), tarfile.open(archive, "r|") as tar:
            for member in tar:
                _extract(tar, member, folder)
    except tarfile.TarError as error:
        raise UserError(
            f"{archive}: not an archive that a step left ({error}); run the step that writes it again"
        ) from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract a file or folder; tarfile's extraction filters require Python 3.11.4."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"{member.name}: not a file or folder inside it")
    target = folder / name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"{member.name}: has no content")
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
