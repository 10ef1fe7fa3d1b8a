"""Digests of a step's inputs, recorded in its output, and a check that no input changed while the step ran."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from core.errors import UserError
from core.files import read_json, sha256

ROOT = Path(__file__).parents[1]


def code_files(places: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Return the SHA-256 of source files by name, 64 hexadecimal digits each.

    Args:
        places: Python files, or folders of which all Python files are included, relative to ``root``.
        root: the project's folder.
    """
    found: dict[str, str] = {}
    for place in places:
        path = root / place
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            # A missing file, for example after `git checkout` of another branch, differs from every file.
            found[file.relative_to(root).as_posix()] = sha256(file) if file.exists() else "missing"
    return dict(sorted(found.items()))


def code_digest(files: Mapping[str, str]) -> str:
    """Return one SHA-256 of the names and digests of source files, 64 hexadecimal digits."""
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


class Inputs:
    """Digests of files, code and parameters at the start of a step.

    Args:
        files: the input files by their names in the record.
        code: the ``places`` of :func:`code_files`.
        params: the step's section of the parameters.
        read: reads that section again from its file; None if the section was passed as a value.
    """

    def __init__(
        self, files: dict[str, Path], code: Iterable[str], params: BaseModel, read: Callable[[], BaseModel] | None
    ) -> None:
        self._files, self._places, self._params, self._read = files, tuple(code), params, read
        self._stamps = {name: _stamp(path) for name, path in files.items()}
        self.files = {name: sha256(path) for name, path in files.items()}
        self.code = code_files(self._places)

    def changed(self) -> list[str]:
        """Return one line per changed input; files are hashed again only if inode, size or mtime changed."""
        found = self.changed_params()
        for name, path in self._files.items():
            if not path.exists():
                found.append(f"{path}: was deleted")
            elif _stamp(path) != self._stamps[name] and sha256(path) != self.files[name]:
                found.append(f"{path}: has changed")
        now = code_files(self._places)
        edited = sorted(name for name in self.code.keys() | now.keys() if self.code.get(name) != now.get(name))
        return found + [f"{name}: was edited" for name in edited]

    def changed_params(self) -> list[str]:
        """Return one line per changed parameter."""
        if self._read is None:
            return []
        try:
            now = self._read()
        except UserError as error:
            return [str(error)]
        return differences(self._params.model_dump(mode="json"), now.model_dump(mode="json"))

    def record(self, manifest: str) -> dict[str, Any]:
        """Return the record of the inputs for a step's output; ``manifest`` is the SHA-256 of the cohort's manifest."""
        params = self._params.model_dump(mode="json")
        return {"params": params, "manifest": manifest, "files": self.files, "code": self.code}

    def require_unchanged(self, title: str) -> None:
        """Check that no input changed since the step began: DVC would record the result with the changed inputs.

        Raises:
            UserError: an input changed; each change is one line.
        """
        if changes := self.changed():
            raise UserError(
                f"{title}: its inputs changed while it ran, so nothing was written: DVC would record the result with "
                "the changed inputs. Restore them and run again; a training resumes from its checkpoint",
                changes,
            )


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_record(path: Path, step: str) -> dict[str, Any]:
    """Read a record that :meth:`Inputs.record` returned.

    Raises:
        UserError: the file is missing or not such a record.
    """
    record = read_json(path)
    try:
        texts = [record["manifest"], *record["code"].values(), *record["files"].values()]
        if not isinstance(record["params"], dict) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a value of the wrong kind")
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an output of the {step} step ({error}); run it again") from error
    return dict(record)


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted names, such as ``augmentation.rotation``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def differences(was: dict[str, Any], now: dict[str, Any], before: str = "") -> list[str]:
    """Return the keys in which two nested dicts differ, one line each: ``train.epochs: 24 -> 12``."""
    found = []
    for key in sorted(was.keys() | now.keys()):
        one, other = was.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{before}{key}.")
        elif one != other:
            found.append(f"{before}{key}: {one} -> {other}")
    return found
