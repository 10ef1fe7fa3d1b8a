"""Load the model and follow its registry alias."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.files import sha256
from core.terminal import printable
from model.threads import wanted
from registry import signatures
from registry.fetch import NoVersionError
from serving.http.cache import Cache
from serving.http.logs import say
from serving.http.metrics import ModelMetrics
from serving.viewer.about import about
from tracking.store import REGISTERED, answered, connect, first_line

if TYPE_CHECKING:
    from registry.packages import Package
    from serving.http.settings import Settings

LONGEST_WAIT = 600  # seconds; upper limit of the backoff for a version that fails to load


@dataclass(frozen=True)
class Loaded:
    """A loaded and tested model.

    Attributes:
        name: name of the registered model, or of the folder.
        version: version in the registry; for a folder the first 12 hex digits of the weights' SHA-256.
        package: the model package.
        weights: SHA-256 of the weights.
    """

    name: str
    version: str
    package: Package
    weights: str

    @property
    def engine(self) -> str:
        """Return the name of the inference engine."""
        return str(self.package.engine.name)


@dataclass(frozen=True)
class Look:
    """The result of the last poll of the registry: time, whether the registry answered, and the error."""

    at: str
    ok: bool
    error: str | None = None


class ModelLoader:
    """Loads a model, and in a background thread loads each new version of its alias.

    A new version replaces the model in use only after it has been loaded and tested. If the registry is down or a
    version fails to load, the current model stays in use and :meth:`status` has the error.

    Args:
        settings: see :class:`Settings`.
        metrics: metrics of this model.
        optional: start without a model if no version has the alias or the first version fails to load; a later poll
            may find one.
    """

    def __init__(self, settings: Settings, metrics: ModelMetrics, *, optional: bool = False) -> None:
        self._settings, self._metrics, self._optional = settings, metrics, optional
        self._asked = REGISTERED.fullmatch(settings.model)
        self._cache = Cache(settings.cache, settings.signatures or signatures())
        self._model: Loaded | None = None
        self._look: Look | None = None
        self._failed: dict[str, Any] | None = None
        self._retry_at = 0.0
        self._stop = threading.Event()

    @property
    def model(self) -> Loaded | None:
        """Return the model in use; None before the first one is loaded."""
        return self._model

    def current(self) -> Loaded:
        """Return the model in use.

        Raises:
            RuntimeError: no model is loaded yet.
        """
        if self._model is None:
            raise RuntimeError("no model is loaded yet")
        return self._model

    def status(self) -> dict[str, Any]:
        """Return the state of the model and the registry for ``/ready``."""
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
            UserError: the model cannot be found or loaded, and is not optional.
        """
        if self._optional:
            self._poll()
        else:
            self._use(*self._wanted())

    def start(self) -> None:
        """Start following the alias; does nothing for a fixed version or a folder."""
        if self._asked is not None and self._asked["alias"]:
            threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self._settings.poll):
            self._poll()

    def _poll(self) -> None:
        # A registry error must not affect the model in use.
        try:
            name, version = self._wanted()
        except NoVersionError as error:
            self._record_poll(True)
            self._use_none(error)
        except Exception as error:
            self._record_poll(False, first_line(error))
        else:
            self._switch_to(name, version)

    def _use_none(self, why: NoVersionError) -> None:
        """Stop using an optional model whose alias was removed; a model that is not optional stays in use."""
        if not self._optional:
            self._record_poll(False, first_line(why))
        elif self._model is not None:
            say("model no longer used", model=self._model.name, version=self._model.version, reason=first_line(why))
            self._model = None
            self._metrics.use_none()

    def _switch_to(self, name: str, version: str) -> None:
        """Load a version, unless it is in use or waits for a retry."""
        if self._model is not None and version == self._model.version:
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

    def _wanted(self) -> tuple[str, str]:
        """Return the name and version of the model to use; a folder has an empty version."""
        if self._asked is None:
            return Path(self._settings.model).resolve().name, ""
        name, alias, version = self._asked.group("name", "alias", "version")
        if version:
            return name, version
        from registry.fetch import version_of

        client = connect(existing=True)
        with answered(self._settings.model):
            version = version_of(client, name, alias)
        self._record_poll(True)
        return name, version

    def _use(self, name: str, version: str) -> None:
        from model.weights import WEIGHTS
        from registry.packages import load

        began = time.monotonic()
        uri = f"models:/{name}/{version}" if version else self._settings.model
        folder = self._cache.take(uri)
        package = load(folder, self._settings.engine, self._settings.threads)
        weights = sha256(folder / WEIGHTS)
        version = version or weights[:12]
        try_out(package, uri)
        before, self._model = self._model, Loaded(name, version, package, weights)
        self._failed = None
        card = about(package.card, name, version, self._model.engine)
        self._metrics.use(name, version, self._model.engine)
        say(
            "model loaded",
            model=name,
            version=version,
            before=before and before.version,
            cohort=card.cohort or None,
            synthetic=card.drawings,
            test_dice=None if card.dice is None else round(card.dice, 4),
            gate=_gate(name, version) if self._asked else None,
            engine=self._model.engine,
            engine_reason=package.engine.reason,
            threads=self._settings.threads or wanted(),
            seconds=round(time.monotonic() - began, 2),
        )
        # Keep the previous version in the cache for a rollback.
        self._cache.keep({folder, before.package.folder} if before else {folder})

    def _record_poll(self, ok: bool, error: str | None = None) -> None:
        before, self._look = self._look, Look(now(), ok, error)
        self._metrics.registry_up.set(ok)
        if before is None or before.ok != ok:
            say("registry answers" if ok else "registry does not answer", 20 if ok else 30, error=error)


def try_out(package: Package, name: str) -> None:
    """Run a package once on a test image: warms it up, and rejects a broken package.

    Raises:
        UserError: the mask does not have the size of the input, or the probabilities are not in [0, 1].
    """
    import numpy as np

    side = max(64, package.contract.minimum_size)
    rows, columns = np.mgrid[:side, : side + 16]
    (found,) = package.segment([((rows + columns) % 256).astype(np.uint8)])
    if found.mask.shape != rows.shape or not (found.probabilities >= 0).all() or not (found.probabilities <= 1).all():
        raise UserError(f"{name}: the model's output is not a probability; register a correct model")


def _gate(name: str, version: str) -> str:
    """Return the promotion gate's last verdict on a version, for the log."""
    try:
        tags = connect(existing=True).get_model_version(name, version).tags
    except Exception as error:  # the verdict is only logged: continue without it
        return f"unknown ({first_line(error)})"
    return printable(tags.get("promotion.verdict", "never asked"))


def now() -> str:
    """Return the current time in UTC as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
