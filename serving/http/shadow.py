"""A shadow model: runs on the champion's requests and counts their agreement; a canary sends some of its responses."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from model.metrics import confusion, overlap_metrics
from registry.shadow import PREFIX, Agreement, read, write
from serving.http.batching import Batcher
from serving.http.canary import Canary, Seen
from serving.http.logs import say
from serving.http.model_loader import Loaded, ModelLoader
from tracking.store import REGISTERED, connect, first_line

if TYPE_CHECKING:
    from model.inference.package import Segmentation
    from serving.http.metrics import Metrics
    from serving.http.settings import Settings
    from serving.xray.findings import Findings
    from serving.xray.reading import Xray

MOST_WAITING = 4  # images that may wait for the shadow after the response; each may have the largest size


@dataclass(frozen=True)
class Answered:
    """A model's result for an image; ``canary``: it is the shadow's, and is sent instead of the champion's."""

    model: Loaded
    segmentation: Segmentation
    findings: Findings
    canary: bool = False


class Shadow:
    """The shadow model, its queue and its counts.

    Counts restart when either model changes. If both are versions of one registered model, the counts are written to a
    tag of the shadow's version (:mod:`registry.shadow`) at every poll of the registry and at the end.

    Args:
        settings: see :class:`Settings`; ``shadow`` must be set.
        metrics: the shadow's metrics are added to it.
        run: runs a function in one of the service's describing threads.
    """

    def __init__(self, settings: Settings, metrics: Metrics, run: Callable[..., Future[Any]]) -> None:
        if settings.shadow is None:
            raise ValueError("no model in shadow")
        self._settings, self._run = settings, run
        self.metrics = metrics.shadow()
        asked = REGISTERED.fullmatch(settings.shadow)
        optional = asked is not None and bool(asked["alias"])
        own = replace(settings, model=settings.shadow)
        self.loader = ModelLoader(own, self.metrics.model, optional=optional)
        self._batcher = Batcher(
            self.loader.current, settings.max_batch, settings.max_wait, settings.workers, lambda size: None
        )
        self._tag = ""  # unique per pair and process, so that no counts are overwritten
        self._lock = threading.Lock()
        self._pair: tuple[str, str] = ("", "")  # the counted versions of champion and shadow
        self._canary = Canary(0, 0, 0)
        self._counted: Agreement | None = None
        self._written: Agreement | None = None
        self._waiting = 0
        self._stop = threading.Event()

    def start(self) -> None:
        """Load the model, follow its alias, and write the counts at every poll.

        Raises:
            UserError: a fixed version or a folder cannot be loaded.
        """
        self.loader.first()
        self.loader.start()
        threading.Thread(target=self._write_often, name="shadow", daemon=True).start()

    def hurry(self) -> None:
        """Run queued images at once."""
        self._batcher.hurry()

    def close(self) -> None:
        """Stop following, process the queued images, and write the counts."""
        self.loader.stop()
        self._stop.set()
        self._batcher.close()
        self._write()

    def status(self) -> dict[str, Any]:
        """Return the state of the shadow for ``/ready``."""
        with self._lock:
            counted, withdrawn = self._counted, self._canary.withdrawn
        seen = {"pictures": counted.pictures, "agreement": counted.mean, "errors": counted.errors} if counted else None
        return {**self.loader.status(), "compared": seen, "canary": self._settings.canary, "withdrawn": withdrawn}

    def takes(self, picture: np.ndarray, champion: Loaded | None) -> bool:
        """Return whether the shadow answers for an image (H, W)."""
        pair = self._compared(champion)
        if pair is None:
            return False
        self._turn_to(*pair)
        return self._canary.takes(picture)

    def submit(self, picture: np.ndarray) -> Future[tuple[Loaded, Segmentation]]:
        """Queue an image (H, W); the future's result is the model and its segmentation."""
        return self._batcher.submit(picture)

    def follow(self, xray: Xray, champion: Answered) -> None:
        """Compare the champion's result with the shadow's after the response; skipped if too many images wait."""
        if self._compared(champion.model) is None:
            return
        with self._lock:
            if self._waiting >= MOST_WAITING:
                self.metrics.skipped.inc()
                return
            self._waiting += 1

        def ended(done: Future[Any]) -> None:
            # In another thread, so that the batch's thread can start the next batch.
            try:
                self._run(compare, done)
            except RuntimeError:  # the service is stopping
                self._left()

        def compare(done: Future[tuple[Loaded, Segmentation]]) -> None:
            try:
                if error := done.exception():
                    self.failed(champion, error)
                else:
                    self.compare(xray, champion, *done.result())
            finally:
                self._left()

        try:
            self._batcher.submit(xray.pixels).add_done_callback(ended)
        except RuntimeError:  # closed
            self._left()

    def compare(self, xray: Xray, champion: Answered, model: Loaded, segmentation: Segmentation) -> Answered:
        """Describe the shadow's result, count its agreement with the champion's, and return it."""
        from serving.xray.findings import describe

        answered = Answered(model, segmentation, describe(segmentation, xray, model.package.contract))
        both = confusion(segmentation.mask[None], champion.segmentation.mask[None])
        dice = float(overlap_metrics(both)["dice"][0])
        self.metrics.agreement.observe(dice)
        flagged = [bool(each.findings.flags) for each in (answered, champion)]
        for name, found in zip(("shadow", "champion"), flagged, strict=True):
            self.metrics.flagged.labels(name).inc(found)
        self._count(champion.model, model, Seen(False, *flagged), dice)
        return answered

    def failed(self, champion: Answered, error: BaseException) -> None:
        """Count an image on which the shadow failed."""
        self.metrics.errors.inc()
        say("the shadow failed", logging.WARNING, reason=type(error).__name__)
        if (pair := self._compared(champion.model)) is not None:
            self._count(*pair, Seen(True, False, bool(champion.findings.flags)), None)

    def _compared(self, champion: Loaded | None) -> tuple[Loaded, Loaded] | None:
        """Return both models, or None if one is missing or both are the same version."""
        model = self.loader.model
        if champion is None or model is None or (champion.name, champion.version) == (model.name, model.version):
            return None
        return champion, model

    def _left(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _turn_to(self, champion: Loaded, model: Loaded) -> None:
        """Restart the counts if the pair of versions has changed."""
        with self._lock:
            if self._pair == (pair := (f"{champion.name}/{champion.version}", f"{model.name}/{model.version}")):
                return
        self._write()
        before = self._withdrawn_before(champion, model)
        with self._lock:
            if self._pair == pair:
                return
            self._pair, self._tag = pair, uuid.uuid4().hex[:12]
            given = self._settings
            self._canary = Canary(given.canary, given.canary_flags, given.canary_errors)
            self._canary.withdrawn = before
            self.metrics.withdrawn.set(bool(before))
            tagged = champion.name == model.name and champion.version.isdecimal() and model.version.isdecimal()
            self._counted = Agreement(against=int(champion.version) if tagged else 0, withdrawn=before)
            self._written = None

    def _withdrawn_before(self, champion: Loaded, model: Loaded) -> str:
        """Return the reason, from the version's tags, why a service withdrew this canary; empty if none did."""
        if not (self._settings.canary and model.version.isdecimal() and champion.version.isdecimal()):
            return ""
        try:
            tags = connect(existing=True).get_model_version(model.name, model.version).tags
        except Exception as error:  # an unreachable registry must not stop answers
            say("the shadow's counts were not read", logging.WARNING, reason=first_line(error))
            return ""
        return read(tags, int(champion.version)).withdrawn

    def _count(self, champion: Loaded, model: Loaded, seen: Seen, dice: float | None) -> None:
        self._turn_to(champion, model)
        with self._lock:
            if self._counted is None:
                return
            why = self._canary.add(seen) if self._settings.canary else ""
            self._counted += Agreement(
                against=self._counted.against,
                pictures=int(dice is not None),
                dice=dice or 0.0,
                errors=int(dice is None),
                withdrawn=why,
            )
        if why:
            self.metrics.withdrawn.set(1)
            say("canary taken back", logging.WARNING, model=model.name, version=model.version, reason=why)

    def _write_often(self) -> None:
        while not self._stop.wait(self._settings.poll):
            self._write()

    def _write(self) -> None:
        with self._lock:
            counted, (_, shadow), tag = self._counted, self._pair, self._tag
            if counted is None or not counted.against or counted == self._written:
                return
        name, _, version = shadow.rpartition("/")
        try:
            write(connect(existing=True), name, version, tag, counted)
        except Exception as error:  # keep the counts; the next poll writes them
            say("the shadow's counts were not written", logging.WARNING, tag=f"{PREFIX}{tag}", reason=first_line(error))
            return
        with self._lock:
            if self._tag == tag:
                self._written = counted
