"""HTTP requests to Kubeflow: timeouts, retries where they are safe, and errors that name the fix."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp_server_api  # type: ignore[import-untyped]
from urllib3 import exceptions as http

from core.errors import UserError

CONNECT, READ = 10.0, 60.0  # timeouts of the connection and of the response, in seconds
FIRST_CONTACT = 5.0  # seconds of retries for a host that has never answered: its name is probably wrong
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
BUSY = (429, 500, 502, 503, 504)
# An internal server error (500) usually persists; a gateway error usually passes.
TRIES_AT_500 = 4

Tell = Callable[[str], None]
Found = TypeVar("Found")


class RequestError(UserError):
    """A failed request.

    Args:
        message: the text for the user.
        status: HTTP status; 0 if there was no response.
        sent: whether the server may have processed the request.
        passing: whether the error is transient, so that a retry may succeed.
        from_api: whether the error comes from Kubeflow's API and not from a proxy or gateway.
        pause: seconds from the Retry-After header.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        sent: bool = True,
        passing: bool = False,
        from_api: bool = False,
        pause: float = 0,
    ) -> None:
        super().__init__(message)
        self.status, self.sent, self.passing, self.from_api, self.pause = status, sent, passing, from_api, pause


class Backoff:
    """Exponential backoff: each pause is twice the last, up to ``patience`` seconds in all."""

    def __init__(self, patience: float, tell: Tell) -> None:
        self._end = time.monotonic() + patience
        self._tell = tell
        self._pause, self._tries = FIRST_PAUSE, 0

    def wait(self, trouble: RequestError, patience: float = float("inf")) -> None:
        """Sleep before the next attempt, or raise ``trouble`` if no attempt is left.

        Args:
            trouble: the error of the last attempt.
            patience: upper limit, in seconds, on the remaining time for retries; applied at the first error.
        """
        self._tries += 1
        pause = max(self._pause, trouble.pause)
        self._end = min(self._end, time.monotonic() + patience) if self._tries == 1 else self._end
        spent = time.monotonic() + pause > self._end or (trouble.status == 500 and self._tries >= TRIES_AT_500)
        if not trouble.passing or spent:
            raise trouble
        self._tell(f"{trouble}; next try in {pause:.1f} s")
        time.sleep(pause * random.uniform(0.8, 1.0))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class PatientClient(kfp_server_api.ApiClient):  # type: ignore[misc]
    """kfp's REST client with safe retries; every error is a :class:`RequestError`."""

    def __init__(self, configuration: Any, patience: float, tell: Tell) -> None:
        configuration.retries = False  # urllib3's retries have no time limit and do not parse Kubeflow's errors
        super().__init__(configuration)
        self.patience, self.tell = patience, tell
        self.reached = False

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request; retry a GET, and any request that the server cannot have processed."""
        return self._request(method, url, True, **options)

    def text(self, path: str) -> str:
        """GET a path and return a body that is not JSON, such as a log."""
        return str(self._get(path, "*/*", False).data.decode(errors="replace"))

    def json(self, path: str) -> Any:
        """GET a path that kfp's generated client does not cover, and return the parsed JSON."""
        return json.loads(self._get(path, "application/json", True).data)

    def _get(self, path: str, accept: str, expects_json: bool) -> Any:
        headers: dict[str, Any] = {"Accept": accept}
        self.update_params_for_auth(headers, [], ["Bearer"])
        return self._request("GET", self.configuration.host + path, expects_json, headers=headers)

    def once(self, send: Callable[[], Found], look: Callable[[], Found | None]) -> Found:
        """Send a request that is not idempotent, with retries.

        Args:
            send: sends the request.
            look: returns the result if a request without a response was processed, else None; called before each retry.
        """
        backoff = Backoff(self.patience, self.tell)
        while True:
            try:
                return send()
            except RequestError as trouble:
                backoff.wait(trouble)
                if trouble.sent and (found := look()) is not None:
                    return found

    def _request(self, method: str, url: str, expects_json: bool, **options: Any) -> Any:
        options["_request_timeout"] = (CONNECT, READ)
        backoff = Backoff(self.patience, self.tell)
        while True:
            try:
                answer = super().request(method, url, **options)
                if expects_json and not _is_json(answer.data):
                    raise RequestError(
                        f"{self._host}: answers with a web page, not with Kubeflow's API; {_WRONG_PLACE}"
                    )
                self.reached = True
                return answer
            except (kfp_server_api.ApiException, http.HTTPError) as error:
                trouble = self._trouble(error)
                self.reached = self.reached or trouble.from_api
            if trouble.status == 401 and self._renewed(options):
                continue
            if method != "GET" and trouble.sent:
                raise trouble
            if not expects_json and trouble.from_api:
                raise trouble  # for a missing log the API responds with a server error, which is permanent
            backoff.wait(trouble, self.patience if self.reached else FIRST_CONTACT)

    @property
    def _host(self) -> str:
        return str(self.configuration.host)

    def _renewed(self, options: dict[str, Any]) -> bool:
        """Put a renewed token into the request; return False if the token has not changed."""
        headers = options.get("headers") or {}
        token = self.configuration.get_api_key_with_prefix("authorization")
        if not token or token == headers.get("authorization"):
            return False
        headers["authorization"] = token
        return True

    def _trouble(self, error: Exception) -> RequestError:
        if isinstance(error, kfp_server_api.ApiException) and error.status:
            return _error_response(error, self._host)
        return _no_response(error, self._host, self.reached)


_WRONG_PLACE = "the host is wrong (it often ends in /pipeline), or it wants a login first (see the docs on tokens)"


def wrong_place(host: str) -> RequestError:
    """Return the error for a host that answers but has no Kubeflow Pipelines API."""
    return RequestError(f"{host}: has no Kubeflow Pipelines API (404); {_WRONG_PLACE}", status=404)


def _no_response(error: Exception, host: str, reached: bool) -> RequestError:
    """Return the error of a request without a response.

    A failed name lookup is transient only if the host was reached before.
    """
    name = urlsplit(host).hostname or host
    match error:
        case http.NameResolutionError():
            return RequestError(f"{name}: no such host; correct --host", sent=False, passing=reached)
        case http.NewConnectionError():
            return RequestError(
                f"{host}: nothing listens there; correct --host, or start the port-forward", sent=False, passing=True
            )
        case http.ConnectTimeoutError():
            return RequestError(f"{host}: no connection within {CONNECT:g} s", sent=False, passing=True)
        case http.ReadTimeoutError():
            return RequestError(f"{host}: no answer within {READ:g} s", passing=True)
        case http.LocationValueError():
            return RequestError(f"{host}: is no http:// or https:// address; correct --host", sent=False)
        case kfp_server_api.ApiException():  # the REST client's wrapping of TLS errors
            reason = str(error.reason).splitlines()[-1]
            return RequestError(f"{host}: no safe connection ({reason}); name its authority with --ca-file", sent=False)
        case _:
            return RequestError(f"{host}: the connection broke", passing=True)


def _error_response(error: Any, host: str) -> RequestError:
    """Return the error of a response with an error status."""
    status, (message, from_api) = error.status, _message(error.body)
    headers = error.headers or {}
    # Some versions of Kubeflow respond with 500 if the login is missing.
    if status == 401 or (status == 500 and ("Unauthenticated" in message or "no user identity" in message)):
        return RequestError(
            f"{host}: the token is missing, wrong or expired; get a new one", status=401, from_api=from_api
        )
    if 300 <= status < 400:
        return RequestError(
            f"{host}: sends to {headers.get('location', 'another page')}; {_WRONG_PLACE}", status=status
        )
    if status in BUSY:
        pause = headers.get("retry-after", "")
        return RequestError(
            f"{host}: server error {status}" + (f" ({message})" if message else ""),
            status=status,
            passing=True,
            sent=status != 429,
            from_api=from_api,
            pause=float(pause) if pause.isdecimal() else 0,
        )
    if status == 404 and not from_api:
        return wrong_place(host)
    if status == 403:
        detail = message or "no reason given"
        return RequestError(f"{host}: not allowed: {detail}; ask for the role kubeflow-edit there", status=403)
    return RequestError(f"{host}: refused ({status}): {message or 'no reason given'}", status=status, from_api=from_api)


def _message(body: bytes | str | None) -> tuple[str, bool]:
    """Return the first line of the server's message, and whether the body has the format of Kubeflow's API."""
    try:
        content = json.loads(body or "")
    except ValueError:
        return "", False
    if not isinstance(content, dict):
        return "", False
    # ``details`` has the message for users; the outer message has Go's stack trace.
    details = [detail.get("error_message") or detail.get("message") for detail in content.get("details") or ()]
    words = [*details, content.get("error_message"), content.get("message"), content.get("error")]
    text = next((str(word) for word in words if word), "")
    return text.strip().split("\n")[0], bool(text) or "code" in content


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
