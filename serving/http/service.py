"""Process a request: read the file, run the model in a batch, compute the findings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request

from core.images import ImageError
from core.parallel import cores
from serving.http import answers
from serving.http.batching import Batcher
from serving.http.bodies import MEGA, RETRY, Budget, Pace, Share, read_file
from serving.http.metrics import Metrics
from serving.http.model_loader import Loaded, ModelLoader
from serving.http.record import Record
from serving.http.settings import Settings
from serving.http.shadow import Answered, Shadow
from serving.viewer.about import About, about
from serving.xray.decoding import Decoders
from serving.xray.device import KEYWORDS as DEVICE
from serving.xray.sides import KEYWORDS

if TYPE_CHECKING:
    from model.inference.package import Segmentation
    from serving.xray.reading import Xray

NAME = "the file"  # in messages and logs, instead of the real file name, which may be patient data
MOST_READERS = 4  # maximum number of threads that decode and describe; each may hold an image of the largest size


@dataclass(frozen=True)
class Done:
    """A response, and the model and flags for headers and log."""

    answer: answers.Answer
    model: Loaded
    flags: list[str]


class Service:
    """The model, queues and limits of one service process."""

    def __init__(self, settings: Settings) -> None:
        self.record = Record(settings.record)  # before any thread starts: it may raise
        self.settings, self.metrics = settings, Metrics()
        self.loader = ModelLoader(settings, self.metrics.model)
        self.batcher = Batcher(
            self.loader.current,
            settings.max_batch,
            settings.max_wait,
            settings.workers,
            self.metrics.batch.observe,
        )
        self.metrics.watch_queue(lambda: len(self.batcher))
        count = min(MOST_READERS, cores())
        self.readers = ThreadPoolExecutor(count, thread_name_prefix="read")
        self.shadow = Shadow(settings, self.metrics, self.readers.submit) if settings.shadow else None
        # Other attributes may be patient data. Only a DICOM SEG needs them, and only the X-ray's sender receives it.
        self.decoders = Decoders(count, settings.max_megapixels, (*KEYWORDS, *DEVICE))
        of_one = None if settings.behind_proxy else settings.max_mb_a_client * MEGA
        self.bodies = Budget(settings.max_mb_at_once * MEGA, "files are being sent", of_one)
        self.pace = Pace(settings.body_timeout, settings.stall_timeout, settings.least_kb_a_second * 1000)
        self.pixels = Budget(settings.max_megapixels_at_once * MEGA, "large images are being worked on")
        self.stopping = False
        self._in_flight = 0

    @property
    def about(self) -> About | None:
        """Return the facts of the model's card; None before a model is loaded."""
        model = self.loader.model
        return None if model is None else about(model.package.card, model.name, model.version, model.engine)

    @property
    def ready(self) -> bool:
        """Return whether the service accepts new requests."""
        return self.loader.model is not None and not self.stopping

    def stop(self) -> None:
        """Begin to stop: :attr:`ready` becomes False, and queued images run at once."""
        self.stopping = True
        self.batcher.hurry()
        if self.shadow:
            self.shadow.hurry()

    def close(self) -> None:
        """Stop the threads and processes, after the server has answered all requests."""
        self.loader.stop()
        self.batcher.close()
        if self.shadow:
            self.shadow.close()
        self.readers.shutdown()
        self.decoders.close()
        self.record.close()

    async def predict(self, request: Request, form: answers.Form, include: Collection[answers.Picture]) -> Done:
        """Process one request.

        Raises:
            HTTPException: as :func:`read_file`; 413 or 422 unusable image; 503 no model yet, or busy; 504 timeout.
        """
        self._check_room()  # before the body, so that a refused client need not send it
        client = request.client.host if request.client else ""
        with self.bodies.share(client) as body, self.pixels.share() as pixels:
            data = await read_file(request, self.settings.max_mb, self.pace, body)
            with self._place():
                try:
                    async with asyncio.timeout(self.settings.request_timeout):
                        return await self._work(data, form, include, pixels)
                except TimeoutError:
                    raise HTTPException(
                        504, f"not done within {self.settings.request_timeout:g} s; try again", RETRY
                    ) from None

    async def _work(self, data: bytes, form: answers.Form, include: Collection[answers.Picture], pixels: Share) -> Done:
        from serving.xray.device import device
        from serving.xray.findings import describe

        until = time.monotonic() + min(self.settings.decode_timeout, self.settings.request_timeout)
        try:
            xray = await self._run(self.decoders.read, data, NAME, until, "seg" in include)
        except ImageError as error:
            raise answers.refusal(error) from error
        pixels.take(xray.pixels.size)
        champion = self.batcher.submit(xray.pixels)
        canary = None
        if self.shadow and await self._run(self.shadow.takes, xray.pixels, self.loader.model):
            canary = self.shadow.submit(xray.pixels)
        model, segmentation = await asyncio.wrap_future(champion)
        answered = Answered(model, segmentation, await self._run(describe, segmentation, xray, model.package.contract))
        if self.shadow and canary:
            answered = await self._of_canary(self.shadow, canary, xray, answered)
        elif self.shadow:
            self.shadow.follow(xray, answered)
        found = answered.findings

        def finish() -> Done:
            self.record.add(found, device(xray.dicom), answered.model)
            answer = answers.make(form, include, xray, answered)
            return Done(answer, answered.model, [flag.name for flag in found.flags])

        done: Done = await self._run(finish)
        for flag in done.flags:
            self.metrics.flags.labels(flag).inc()
        if found.expected_dice is not None:
            self.metrics.expected_dice.observe(found.expected_dice)
        return done

    async def _of_canary(
        self, shadow: Shadow, canary: Future[tuple[Loaded, Segmentation]], xray: Xray, champion: Answered
    ) -> Answered:
        """Return the shadow's response, or the champion's if the shadow fails or times out."""
        try:
            async with asyncio.timeout(self.settings.request_timeout / 3):
                model, segmentation = await asyncio.wrap_future(canary)
            found: Answered = await self._run(shadow.compare, xray, champion, model, segmentation)
        except Exception as error:  # a model may raise anything; fall back to the champion's response
            await self._run(shadow.failed, champion, error)
            return champion
        shadow.metrics.answers.inc()
        return replace(found, canary=True)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.readers, function, *arguments)

    def _check_room(self) -> None:
        if self.loader.model is None:
            raise HTTPException(503, "no model is loaded yet; try again", RETRY)
        if self._in_flight >= self.settings.max_queue:
            raise HTTPException(503, f"the service is busy: {self._in_flight} requests wait; try again", RETRY)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a request as in flight; entered after its body is read, so that slow clients do not fill the queue."""
        self._check_room()
        self._in_flight += 1
        self.metrics.in_flight.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.set(self._in_flight)
