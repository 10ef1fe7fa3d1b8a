"""Digests and signatures of a package, which ensure that the loaded files are the registered ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.errors import UserError
from core.files import sha256, write_json
from core.terminal import say

DIGESTS = "digests.json"  # the SHA-256 of every other file, by its path in the package
SIGNATURE = "package.sig"  # of the whole package, in the format of the `model_signing` command
PACKAGE_TAG = "package.sha256"  # a version's tag with the SHA-256 of DIGESTS
SIGNED_TAG = "package.signed"  # a version's tag: true if the package was signed
# Environment variables: PEM files of elliptic-curve keys; KEYLESS signs with the platform's OpenID Connect identity.
SIGNING_KEY, VERIFYING_KEY = "DEFUNET_SIGNING_KEY", "DEFUNET_VERIFYING_KEY"
KEYLESS = "keyless"
# PEM files of certificates, separated as in PATH. Signing: the signer's, then intermediate ones. Verifying: the roots.
SIGNING_CERTIFICATES, VERIFYING_CERTIFICATES = "DEFUNET_SIGNING_CERTIFICATES", "DEFUNET_VERIFYING_CERTIFICATES"
VERIFYING_IDENTITY = "DEFUNET_VERIFYING_IDENTITY"  # "IDENTITY ISSUER" of a keyless signer
VERIFIED_BY = (VERIFYING_KEY, VERIFYING_CERTIFICATES, VERIFYING_IDENTITY)  # the first that is set is used
SIGNATURES = "DEFUNET_SIGNATURES"
AUTO, REQUIRE, WARN, OFF = "auto", "require", "warn", "off"


def seal(package: Path) -> str:
    """Write the digests of a package's files, sign the package if a key is configured, and return its SHA-256.

    Raises:
        UserError: the key cannot be used.
    """
    files = {path.relative_to(package).as_posix(): sha256(path) for path in _files(package)}
    write_json(package / DIGESTS, dict(sorted(files.items())))
    if key := os.environ.get(SIGNING_KEY):
        _sign(package, key)
    return sha256(package / DIGESTS)


def verify(package: Path, expected: str = "", signatures: str = AUTO, called: str = "") -> None:
    """Check a package's digests and, depending on ``signatures``, its signature.

    Args:
        package: the folder.
        expected: SHA-256 of the package in the registry; empty: unknown.
        signatures: ``require``, ``warn``, ``off`` or ``auto``. ``auto`` is the value of ``DEFUNET_SIGNATURES``, else
            ``require`` if a key, certificates or an identity to verify with are configured, else ``off``.
        called: name of the package in messages; empty: its folder.

    Raises:
        UserError: a file is missing, altered or not in the digests; the signature is missing or wrong.
    """
    _check_digests(package, expected, called or str(package))
    mode = (os.environ.get(SIGNATURES) or AUTO) if signatures == AUTO else signatures
    if mode not in (AUTO, REQUIRE, WARN, OFF):
        raise UserError(f"{SIGNATURES}={mode}: takes {REQUIRE}, {WARN}, {OFF} or {AUTO}")
    if mode == AUTO:
        mode = REQUIRE if can_verify() else OFF
    if mode == OFF:
        return
    try:
        check_signature(package, called)
    except UserError as error:
        if mode == REQUIRE:
            raise
        say(f"warning: {error}")


def _files(package: Path) -> list[Path]:
    """Return the files that digests cover. Hidden files are local marks and are never loaded."""
    found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in found if path.name not in (DIGESTS, SIGNATURE) and not path.name.startswith(".")]


def _check_digests(package: Path, expected: str, called: str) -> None:
    path = package / DIGESTS
    if not path.exists():
        if expected:
            raise UserError(f"{called}: has no {DIGESTS}, which was registered with it; fetch it again")
        return  # a package of an earlier release
    if expected and sha256(path) != expected:
        raise UserError(f"{called}: {DIGESTS} is not the one that was registered; do not use it, and register again")
    try:
        digests = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged; fetch the package again") from error
    there = {each.relative_to(package).as_posix(): each for each in _files(package)}
    for name in sorted({*digests, *there}):
        if name not in there:
            raise UserError(f"{called}: {name} is missing; fetch the package again")
        if digests.get(name) != sha256(there[name]):
            raise UserError(f"{called}: {name} is not the file that was registered; do not use it, fetch it again")


def can_verify() -> bool:
    """Return whether a key, certificates or an identity to verify signatures with are configured."""
    return any(map(os.environ.get, VERIFIED_BY))


def _files_in(variable: str) -> list[Path]:
    return [Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part]


def _sign(package: Path, key: str) -> None:
    from model_signing import hashing, signing

    config = signing.Config()
    try:
        if key == KEYLESS:
            config.use_sigstore_signer(use_ambient_credentials=True)
        elif certificates := _files_in(SIGNING_CERTIFICATES):
            first, *chain = certificates
            # model_signing rejects an empty chain; a certificate may be in its own chain.
            config.use_certificate_signer(
                private_key=key, signing_certificate=first, certificate_chain=chain or [first]
            )
        else:
            config.use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
        config.sign(package, package / SIGNATURE)
    except Exception as error:  # sigstore's errors have no common base class
        reason = " ".join(str(error).split())
        raise UserError(f"{SIGNING_KEY}={key}: the package cannot be signed ({reason})") from error


def check_signature(package: Path, called: str = "") -> None:
    """Verify a package's signature; raises UserError if it is missing or wrong, or nothing verifies it."""
    signature, called = package / SIGNATURE, called or str(package)
    if not can_verify():
        ways = f"{VERIFYING_KEY}, {VERIFYING_CERTIFICATES} or {VERIFYING_IDENTITY}"
        raise UserError(f"{called}: its signature cannot be verified; set {ways}")
    if not signature.exists():
        raise UserError(
            f"{called}: is not signed; set {SIGNING_KEY} and register it again (`dvc repro --force --single-item "
            f"register`), or set {SIGNATURES}={WARN}"
        )
    from model_signing import hashing, verifying

    variable, config = next(each for each in VERIFIED_BY if os.environ.get(each)), verifying.Config()
    try:
        if variable == VERIFYING_KEY:
            config.use_elliptic_key_verifier(public_key=os.environ[variable])
        elif variable == VERIFYING_CERTIFICATES:
            config.use_certificate_verifier(certificate_chain=_files_in(variable))
        else:
            identity, issuer = os.environ[variable].split()
            config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
    except Exception as error:  # sigstore's errors have no common base class
        reason = " ".join(str(error).split())
        raise UserError(f"{variable}={os.environ[variable]}: cannot be used to verify signatures ({reason})") from error
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
    config.set_ignore_unsigned_files(True)  # the digests cover them
    try:
        config.verify(package, signature)
    except Exception as error:  # model_signing's errors have no common base class
        raise UserError(f"{called}: its signature is not by what {variable} names; do not use it") from error
