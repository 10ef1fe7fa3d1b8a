"""The model in use, and the registry's alias that it follows."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.files import sha256
from model.threads import wanted
from serving.http.cache import Cache
from serving.http.logs import say
from serving.http.metrics import Metrics
from tracking.store import REGISTERED, answered, connect, first_line

if TYPE_CHECKING:
    from registry.packages import Package
    from serving.http.settings import Settings

LONGEST_WAIT = 600  # seconds until a version that could not be loaded is tried again, after some failures


@dataclass(frozen=True)
class Loaded:
    """A model that is in memory and has computed something.

    Attributes:
        name: of the registered model, or of the folder.
        version: in the registry; for a package that comes from none the beginning of its weights' SHA-256.
        package: what computes.
    """

    name: str
    version: str
    package: Package

    @property
    def engine(self) -> str:
        """Return the name of the engine that computes."""
        return str(self.package.engine.name)


@dataclass(frozen=True)
class Look:
    """The last look at the registry: when, whether it answered, and what was wrong."""

    at: str
    ok: bool
    error: str | None = None


class Follower:
    """Loads a model, and again whenever its alias names another version, in a thread of its own.

    The model in use is replaced only by one that has been loaded and tried. A registry that is away or a version that
    does not load leaves it as it is; :meth:`status` says so.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._asked = REGISTERED.fullmatch(settings.model)
        self._cache = Cache(settings.cache)
        self._model: Loaded | None = None
        self._look: Look | None = None
        self._failed: dict[str, Any] | None = None
        self._retry_at = 0.0
        self._stop = threading.Event()

    @property
    def model(self) -> Loaded | None:
        """Return the model in use; None before the first is loaded."""
        return self._model

    def current(self) -> Loaded:
        """Return the model in use.

        Raises:
            RuntimeError: none has been loaded yet.
        """
        if self._model is None:
            raise RuntimeError("no model is loaded yet")
        return self._model

    def status(self) -> dict[str, Any]:
        """Return what ``/ready`` says of the model and of the registry."""
        model = self._model
        return {
            "source": self._settings.model,
            "model": None if model is None else {"name": model.name, "version": model.version, "engine": model.engine},
            "registry": None if self._look is None else asdict(self._look),
            "failed": self._failed,
        }

    def first(self) -> None:
        """Load the first model.

        Raises:
            UserError: it cannot be found or loaded.
        """
        self._use(*self._named())

    def start(self) -> None:
        """Follow the alias from now on; a fixed version and a folder have nothing to follow."""
        if self._asked is not None and self._asked["alias"]:
            threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self._settings.poll):
            # Whatever a registry does, the model in use goes on.
            try:
                name, version = self._named()
            except Exception as error:
                self._seen(False, first_line(error))
                continue
            self._take(name, version)

    def _take(self, name: str, version: str) -> None:
        """Take a version into use if it is another than the one in use and has not just failed."""
        if version == self.current().version:
            self._failed = None
            return
        failures = self._failed["attempts"] if self._failed and self._failed["version"] == version else 0
        if failures and time.monotonic() < self._retry_at:
            return
        try:
            self._use(name, version)
        except Exception as error:
            self._metrics.load_failures.inc()
            self._failed = {"version": version, "attempts": failures + 1, "error": first_line(error), "at": now()}
            self._retry_at = time.monotonic() + min(LONGEST_WAIT, self._settings.poll * 2**failures)
            say("model not loaded", 40, exc_info=None if isinstance(error, UserError) else error, **self._failed)

    def _named(self) -> tuple[str, str]:
        """Return the name and the version that are to be in use; for a folder its name and no version."""
        if self._asked is None:
            return Path(self._settings.model).resolve().name, ""
        name, alias, version = self._asked.group("name", "alias", "version")
        if version:
            return name, version
        from registry.fetch import version_of

        client = connect(existing=True)
        with answered(self._settings.model):
            version = version_of(client, name, alias)
        self._seen(True)
        return name, version

    def _use(self, name: str, version: str) -> None:
        from model.weights import WEIGHTS
        from registry.packages import load

        began = time.monotonic()
        uri = f"models:/{name}/{version}" if version else self._settings.model
        folder = self._cache.take(uri)
        package = load(folder, self._settings.engine, self._settings.threads)
        version = version or sha256(folder / WEIGHTS)[:12]
        try_out(package, uri)
        before, self._model = self._model, Loaded(name, version, package)
        self._failed = None
        self._metrics.use(name, version, self._model.engine)
        say(
            "model loaded",
            model=name,
            version=version,
            before=before and before.version,
            engine=self._model.engine,
            engine_reason=package.engine.reason,
            threads=self._settings.threads or wanted(),
            seconds=round(time.monotonic() - began, 2),
        )
        # The one before it stays too, for a rollback.
        self._cache.keep({folder, before.package.folder} if before else {folder})

    def _seen(self, ok: bool, error: str | None = None) -> None:
        before, self._look = self._look, Look(now(), ok, error)
        self._metrics.registry_up.set(ok)
        if before is None or before.ok != ok:
            say("registry answers" if ok else "registry does not answer", 20 if ok else 30, error=error)


def try_out(package: Package, name: str) -> None:
    """Let a package compute once, so that no request waits for its warming up or meets a broken one.

    Raises:
        UserError: it does not give a mask of its input's size, or probabilities that are none.
    """
    import numpy as np

    side = max(64, package.contract.minimum_size)
    rows, columns = np.mgrid[:side, : side + 16]
    (found,) = package.segment([((rows + columns) % 256).astype(np.uint8)])
    if found.mask.shape != rows.shape or not (found.probabilities >= 0).all() or not (found.probabilities <= 1).all():
        raise UserError(f"{name}: the model computes something other than probabilities; register a sound one")


def now() -> str:
    """Return the time, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
