"""Verify the lineage of a version: commit, data, parameters, code, weights, training and signature."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.cell import PROVENANCE, SCORED
from core.errors import UserError
from core.files import sha256
from core.inputs import ROOT, code_digest, code_files, read_record
from core.params import Params, check, params_hash, read_params
from core.provenance import git
from model.weights import WEIGHTS
from registry import wide_console
from registry.fetch import fetch
from registry.seal import SIGNED_TAG, can_verify, check_signature
from registry.versions import MANIFEST_TAG, Version, read_version
from tracking.store import connect

PIN, PARAMS = "data.dvc", "params.yaml"
T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """One recorded property of a version's lineage, and its verification.

    Attributes:
        name: commit, data, parameters, code, weights, training or signature.
        says: the recorded value.
        proved: whether the value was verified.
        found: the evidence, and where it was found.
        differs: whether the evidence contradicts the recorded value.
    """

    name: str
    says: str
    proved: bool
    found: str
    differs: bool = False

    @property
    def status(self) -> str:
        """``verified``, ``differs`` (the evidence contradicts the recorded value) or ``not available``."""
        return "verified" if self.proved else "differs" if self.differs else "not available"


def lineage(params: Params, number: int | None, file: Path = Path(PARAMS)) -> tuple[Version, list[Fact]]:
    """Verify every recorded property of a version, without changing the working tree.

    Args:
        params: all parameters; only the model's name and ``registry`` are used.
        number: the version's number; None: the challenger.
        file: the current parameter file.

    Raises:
        UserError: there is no such version, its files cannot be fetched, or the registry does not answer.
    """
    version = read_version(connect(existing=True), params.register_.model, number)
    commit = version.tags.get("git.commit", "unknown")
    here = _git("cat-file", "-e", f"{commit}^{{commit}}") is not None if commit != "unknown" else False
    facts = [
        _commit(version, commit, here),
        _data(version, commit if here else None),
    ]
    with tempfile.TemporaryDirectory(prefix="lineage-") as scratch:
        folder = fetch(version.uri, Path(scratch), signatures=params.registry.signatures)
        facts += [
            _parameters(version, commit if here else None, file, folder),
            _code(version, commit if here else None, folder),
            _weights(version, folder),
            _training(version, folder),
            *([_signature(version, folder)] if can_verify() or _signed(version) else []),
        ]
    return version, facts


def _git(*arguments: str) -> str | None:
    """Return git's output; None if the command fails or git is not installed."""
    try:
        return git(Path(), *arguments)
    except (OSError, subprocess.CalledProcessError):
        return None


def _at(commit: str, name: str) -> str | None:
    """Return the text of a file of the current folder at a commit, None if it does not exist."""
    return _git("show", f"{commit}:./{name}")


def _commit(version: Version, commit: str, here: bool) -> Fact:
    if commit == "unknown":
        return Fact("commit", commit, False, "not recorded at registration")
    if not here:
        return Fact("commit", commit, False, "not in this repository: run `git fetch`, or look where it was trained")
    subject = (_git("log", "-1", "--format=%cs %s", commit) or "").strip()
    if version.tags.get("git.dirty") != "false":
        return Fact("commit", commit, False, f"in this repository ({subject}), with uncommitted changes", True)
    return Fact("commit", commit, True, f"in this repository ({subject})")


def _data(version: Version, commit: str | None) -> Fact:
    md5 = version.tags.get("data.md5", "not pinned")
    if md5 == "not pinned":
        return Fact("data", md5, False, f"no {PIN} pinned it at registration")
    held = _in_cache(md5)
    bytes_ = f"its files are in DVC's cache ({held})" if held else "its files are not in DVC's cache: dvc pull"
    if commit:
        there = _pinned(_at(commit, PIN))
        if there == md5:
            return Fact("data", md5, True, f"{PIN} at {commit[:8]} pins it; {bytes_}")
        found = f"{PIN} at {commit[:8]} pins {there or 'nothing'}"
        return Fact("data", md5, False, f"{found}, not this; {_other_pins(md5)}; {bytes_}", True)
    where = _other_pins(md5)
    return Fact("data", md5, where.startswith(PIN), f"{where}; {bytes_}")


def _other_pins(md5: str) -> str:
    """Return where the data's MD5 is pinned, other than at the version's commit."""
    pin = Path(PIN)
    if pin.exists() and _pinned(pin.read_text()) == md5:
        return f"{PIN} pins it now"
    for commit in (_git("log", "--all", "--format=%H", "--", PIN) or "").split():
        if _pinned(_at(commit, PIN)) == md5:
            return f"{PIN} at {commit[:8]} pins it"
    return f"no {PIN} in this repository's history pins it"


def _pinned(text: str | None) -> str | None:
    outs = (_yaml(text) or {}).get("outs") if text else None
    return str(outs[0].get("md5")) if outs else None


def _yaml(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def _in_cache(md5: str) -> Path | None:
    """Return the path of an MD5 in DVC's cache, None if it is missing; of a folder, only its ``.dir`` file counts."""
    try:
        done = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(done.stdout.strip()) / "files/md5" / md5[:2] / md5[2:]
    return path if path.exists() else None


def _parameters(version: Version, commit: str | None, file: Path, folder: Path) -> Fact:
    """Search the parameters' hash at the version's commit, then in the whole history, then in the current file.

    Sections other than ``train`` may change after training, before a new evaluation and registration. Then section
    ``train`` at the commit of training must equal the one in the package, and another commit may have the hash.
    """
    says = version.tags.get("params.hash", "")
    if not says:
        return Fact("parameters", "-", False, "not recorded at registration")
    now = _if_valid(lambda: params_hash(read_params(file)))
    here = f"{file} now has {'this hash' if now == says else now or 'values that do not fit this code'}"
    if commit is None:
        return Fact("parameters", says, now == says, here)
    there = _params_at(commit)
    if there is not None and params_hash(there) == says:
        return Fact("parameters", says, True, f"{PARAMS} at {commit[:8]} has this hash")
    found = f"{PARAMS} at {commit[:8]} " + (f"has {params_hash(there)}" if there else "does not fit this code")
    record = _if_valid(lambda: read_record(folder / PROVENANCE, "train"))
    if record and there is not None and record["params"] == there.train.model_dump(mode="json"):
        for later in (_git("log", "--all", "--format=%H", "--", PARAMS) or "").split():
            if (other := _params_at(later)) is not None and params_hash(other) == says:
                where = f"{PARAMS} at {later[:8]} has this hash"
                found = f"section train at {commit[:8]} is that of its training; {where}"
                return Fact("parameters", says, True, found)
    return Fact("parameters", says, False, f"{found}; {here}", True)


def _if_valid(read: Callable[[], T]) -> T | None:
    """Return what ``read`` returns, None if it raises UserError."""
    with suppress(UserError):
        return read()
    return None


def _params_at(commit: str) -> Params | None:
    """Return the parameters at a commit, None if this code does not accept them."""
    return _if_valid(lambda: check(_yaml(_at(commit, PARAMS) or ""), f"{PARAMS} at {commit[:8]}"))


def _code(version: Version, commit: str | None, folder: Path) -> Fact:
    """Compare the digests of the training and evaluation code with the files at the version's commit."""
    says = [version.tags.get(name, "") for name in ("code.train", "code.evaluate")]
    shown = ", ".join(digest[:12] for digest in says)
    if not all(says):
        return Fact("code", "-", False, "not recorded at registration")
    if commit is None:
        return Fact("code", shown, False, "its commit is not in this repository")
    try:
        records = [read_record(folder / PROVENANCE, "train"), read_record(folder / SCORED, "evaluate")]
    except UserError:
        return Fact("code", shown, False, "its package does not say which files these are")
    there = [_code_at(commit, list(record["code"])) for record in records]
    if there[0] == says[0] and there[1] != says[1]:
        # The evaluation may be later than training, with the current code.
        now = code_digest(code_files([name for name in records[1]["code"] if (ROOT / name).exists()]))
        if now == says[1]:
            found = f"training's files at {commit[:8]} and evaluation's files here have these hashes"
            return Fact("code", shown, True, found)
    if None in there:
        return Fact("code", shown, False, f"{commit[:8]} lacks some of its files", True)
    if there == says:
        return Fact("code", shown, True, f"training's and evaluation's files at {commit[:8]} have these hashes")
    found = ", ".join(str(digest)[:12] for digest in there)
    return Fact("code", shown, False, f"the files at {commit[:8]} have {found}", True)


def _code_at(commit: str, names: Sequence[str]) -> str | None:
    """Return :func:`core.inputs.code_digest` of files at a commit, None if one is missing."""
    with tempfile.TemporaryDirectory(prefix="code-") as scratch:
        archive = Path(scratch) / "code.zip"
        if _git("archive", f"--output={archive}", commit, "--", *names) is None:
            return None
        shutil.unpack_archive(archive, scratch)
        return code_digest(code_files(names, Path(scratch)))


def _training(version: Version, folder: Path) -> Fact:
    """Compare the records of train and evaluate in the version's package with the version's tags."""
    try:
        trained, scored = read_record(folder / PROVENANCE, "train"), read_record(folder / SCORED, "evaluate")
    except UserError:
        return Fact("training", "-", False, "its package has no record of its training and evaluation")
    weights, tags = sha256(folder / WEIGHTS), version.tags
    says = str(trained.get("weights", ""))
    wrong = [
        name
        for name, one, other in (
            ("weights of training", says, weights),
            ("weights of evaluation", scored["files"].get("weights"), weights),
            ("code of training", code_digest(trained["code"]), tags.get("code.train")),
            ("code of evaluation", code_digest(scored["code"]), tags.get("code.evaluate")),
            ("split", trained["files"].get("split"), tags.get("split.sha256")),
            ("images", trained["files"].get("images"), tags.get("images.sha256")),
            ("cohort of training", trained["manifest"], tags.get(MANIFEST_TAG)),
            ("cohort of evaluation", scored["manifest"], tags.get(MANIFEST_TAG)),
        )
        if one != other
    ]
    if wrong:
        found = f"its package's record differs from the version in: {', '.join(wrong)}"
        return Fact("training", says[:12], False, found, True)
    found = "its package's record has the version's weights, code, split and cohort"
    return Fact("training", says[:12], True, found)


def _signed(version: Version) -> bool:
    return version.tags.get(SIGNED_TAG) == "true"


def _signature(version: Version, folder: Path) -> Fact:
    says = "signed" if _signed(version) else "not signed"
    if not can_verify():
        return Fact("signature", says, False, "no key, certificate or identity to verify it with is configured")
    try:
        check_signature(folder)
    except UserError as error:
        return Fact("signature", says, False, str(error).removeprefix(f"{folder}: "), says == "signed")
    return Fact("signature", says, True, "verified, over every file of the package")


def _weights(version: Version, folder: Path) -> Fact:
    says = version.tags.get("weights.sha256", "")
    if not says:
        return Fact("weights", "-", False, "not recorded at registration")
    actual = sha256(folder / WEIGHTS)
    if actual != says:
        return Fact("weights", says, False, f"the registry's file has {actual}", True)
    return Fact("weights", says, True, "the registry's file has this hash")


def show_lineage(version: Version, facts: list[Fact]) -> None:
    """Print a table of the facts with their evidence."""
    from rich.table import Table
    from rich.text import Text

    console = wide_console()
    console.print(" ".join([str(version), *(f"@{alias}" for alias in version.aliases)]))
    table = Table("what", "says", "status", "found")
    for fact in facts:
        table.add_row(
            fact.name,
            fact.says,
            Text(fact.status, "green" if fact.proved else "bold red"),
            fact.found,
        )
    console.print(table)
    others = {name: version.tags.get(name) for name in ("run_id", "image", "kubeflow.run")}
    console.print("also: " + ", ".join(f"{name} {value or 'not recorded'}" for name, value in others.items()))
