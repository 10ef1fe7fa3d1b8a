"""Refuse requests before reading the body: wrong host, no key, ambiguous length, too many headers."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from serving.http.server import MAX_HEADERS

if TYPE_CHECKING:
    from serving.http.settings import Settings

OPEN = ("/health", "/ready")  # a cluster's probes send no key
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LEAST_KEY = 16  # characters
CHALLENGE = {"www-authenticate": 'Basic realm="lung segmentation", charset="UTF-8"'}  # makes a browser ask for the key


@dataclass(frozen=True)
class Refusal:
    """An error response; ``close`` also closes the connection."""

    status: int
    detail: str
    headers: dict[str, str]
    close: bool = False


class Guard:
    """Checks the headers of every request.

    Args:
        hosts: names that the header Host may have; ``*`` allows all.
        keys: a request must have one of them; empty: no key is required.
    """

    def __init__(self, hosts: tuple[str, ...], keys: tuple[str, ...]) -> None:
        self._hosts, self._keys = {host.lower() for host in hosts}, [key.encode() for key in keys]

    def refusal(self, scope: MutableMapping[str, Any]) -> Refusal | None:
        """Return the refusal of a request, or None if it is accepted."""
        names = [name for name, _ in scope["headers"]]
        headers = dict(scope["headers"])
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADERS:
            return Refusal(431, f"the request's headers are longer than {MAX_HEADERS} bytes", {}, True)
        if b"content-length" in names and b"transfer-encoding" in names:
            # Both headers together allow request smuggling past a proxy (RFC 9112, 6.1).
            return Refusal(400, "Content-Length and Transfer-Encoding together are not taken", {}, True)
        if names.count(b"host") > 1 or not self._is_known(headers.get(b"host", b"").decode("latin-1")):
            return Refusal(400, "the host is not one of this service's; it is started with --allowed-hosts", {})
        if self._keys and scope["path"] not in OPEN and not self._has_key(headers):
            return Refusal(401, "a key is missing or wrong; send it as a bearer token", CHALLENGE)
        return None

    def _is_known(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        return "*" in self._hosts or name.lower() in self._hosts

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"basic":  # from a browser's dialogue: any user name, the key as the password
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return any(hmac.compare_digest(given.strip(), key) for key in self._keys)


def make_guard(settings: Settings) -> Guard:
    """Return the guard for the settings.

    Raises:
        UserError: the service would be reachable from other machines without key and TLS; the key file cannot be read
            or has a key that is too short; only one of certificate and private key is given.
    """
    local = _is_loopback(settings.host)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UserError("--tls-cert and --tls-key: name both or neither")
    if not local and not settings.behind_proxy and not (settings.api_key_file and settings.tls_cert):
        raise UserError(
            f"--host {settings.host}: listens beyond this machine; name --api-key-file, --tls-cert and --tls-key, or "
            "pass --behind-proxy where a proxy authenticates and encrypts"
        )
    hosts = settings.allowed_hosts or (LOOPBACK if local else ("*",) if _is_any(settings.host) else (settings.host,))
    return Guard(tuple(hosts), _keys(settings.api_key_file) if settings.api_key_file else ())


def _keys(path: Path) -> tuple[str, ...]:
    try:
        keys = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the keys cannot be read ({error}); one key a line") from None
    if not keys or any(len(key) < LEAST_KEY for key in keys):
        raise UserError(f"{path}: one key a line, of at least {LEAST_KEY} characters: openssl rand -hex 32")
    return tuple(keys)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def _is_any(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
