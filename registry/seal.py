"""Digests and signatures of a package: what is registered is what is loaded, byte for byte."""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.errors import UserError
from core.files import sha256, write_json
from core.terminal import say

DIGESTS = "digests.json"  # the SHA-256 of every other file, by its path in the package
SIGNATURE = "package.sig"  # of the whole package, as the `model_signing` command makes and verifies it
PACKAGE_TAG = "package.sha256"  # a version's tag with the SHA-256 of DIGESTS
SIGNED_TAG = "package.signed"  # a version's tag: true if the package was signed
SIGNING_KEY, VERIFYING_KEY = "DEFUNET_SIGNING_KEY", "DEFUNET_VERIFYING_KEY"  # files: elliptic-curve keys in PEM
SIGNATURES = "DEFUNET_SIGNATURES"
REQUIRE, WARN, OFF = "require", "warn", "off"


def seal(package: Path) -> str:
    """Write the digests of a package's files, sign the package if a key is configured, and return its SHA-256.

    Raises:
        UserError: the key cannot be used.
    """
    files = {path.relative_to(package).as_posix(): sha256(path) for path in _files(package)}
    write_json(package / DIGESTS, dict(sorted(files.items())))
    if key := os.environ.get(SIGNING_KEY):
        _sign(package, Path(key))
    return sha256(package / DIGESTS)


def verify(package: Path, expected: str = "") -> None:
    """Compare a package with its digests, and with its signature if one is asked for.

    ``DEFUNET_SIGNATURES`` is ``require``, ``warn`` or ``off``; the default is ``require`` where
    ``DEFUNET_VERIFYING_KEY`` names a public key, else ``off``.

    Args:
        package: the folder.
        expected: the SHA-256 that the registry has for it; empty: unknown.

    Raises:
        UserError: a file is missing, altered or not in the digests; the signature is missing or wrong.
    """
    _check_digests(package, expected)
    mode = os.environ.get(SIGNATURES) or (REQUIRE if os.environ.get(VERIFYING_KEY) else OFF)
    if mode not in (REQUIRE, WARN, OFF):
        raise UserError(f"{SIGNATURES}={mode}: takes {REQUIRE}, {WARN} or {OFF}")
    if mode == OFF:
        return
    try:
        _check_signature(package)
    except UserError as error:
        if mode == REQUIRE:
            raise
        say(f"warning: {error}")


def _files(package: Path) -> list[Path]:
    """Return the files that digests cover; hidden files are marks of this machine, and no code is taken from them."""
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in found if path.name not in (DIGESTS, SIGNATURE) and not path.name.startswith(".")]


def _check_digests(package: Path, expected: str) -> None:
    path = package / DIGESTS
    if not path.exists():
        if expected:
            raise UserError(f"{package}: has no {DIGESTS}, which was registered with it; fetch it again")
        return  # a package of an earlier release
    if expected and sha256(path) != expected:
        raise UserError(f"{package}: {DIGESTS} is not the one that was registered; do not use it, and register again")
    try:
        digests = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged; fetch the package again") from error
    there = {each.relative_to(package).as_posix(): each for each in _files(package)}
    for name in sorted({*digests, *there}):
        if name not in there:
            raise UserError(f"{package}: {name} is missing; fetch the package again")
        if digests.get(name) != sha256(there[name]):
            raise UserError(f"{package}: {name} is not the file that was registered; do not use it, fetch it again")


def _sign(package: Path, key: Path) -> None:
    from model_signing import hashing, signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
        config.sign(package, package / SIGNATURE)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{SIGNING_KEY}={key}: the package cannot be signed ({error})") from error


def _check_signature(package: Path) -> None:
    key, signature = os.environ.get(VERIFYING_KEY), package / SIGNATURE
    if not key:
        raise UserError(f"{package}: its signature cannot be verified; name the public key in {VERIFYING_KEY}")
    if not signature.exists():
        raise UserError(f"{package}: is not signed; register it with {SIGNING_KEY}, or say {SIGNATURES}={WARN}")
    from model_signing import hashing, verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=Path(key))
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
        config.set_ignore_unsigned_files(True)  # the digests cover them
        config.verify(package, signature)
    except Exception as error:  # its errors have no common base class
        raise UserError(f"{package}: its signature is not by the key in {VERIFYING_KEY}; do not use it") from error
