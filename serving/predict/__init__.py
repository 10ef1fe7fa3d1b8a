"""Predict on files and folders of X-rays: masks, DICOM SEG, areas and quality flags."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.errors import UserError
from core.files import sha256 as file_sha256
from core.images import ImageError, encode
from core.parallel import cores
from core.terminal import progress, say
from model.inference.engines import ENGINES
from serving.predict.inputs import Input, read_bytes
from serving.predict.outputs import Results, Row, opened, place
from serving.viewer.review import worst_first
from serving.xray.decoding import Decoders
from serving.xray.reading import Xray

if TYPE_CHECKING:
    from pydicom import Dataset

    from model.inference.package import Package, Segmentation

# A batch with at least this many pixels is full. This bounds only the batch: up to ``batch_size`` + cores X-rays are
# decoded ahead of it, and as many may wait to be written.
BATCH_PIXELS = 64_000_000


@dataclass(frozen=True)
class Options:
    """Options of a prediction run, and of the command ``predict``."""

    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw every mask over its X-ray.")] = False
    seg: Annotated[bool, typer.Option("--seg/--no-seg", help="Write a DICOM SEG for every DICOM.")] = True
    review: Annotated[
        bool,
        typer.Option("--review/--no-review", help="Write review.html: all X-rays and outlines, the worst first."),
    ] = True
    resume: Annotated[bool, typer.Option("--resume", help="Skip the X-rays that an earlier run has finished.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False
    engine: Annotated[
        str, typer.Option(help=f"Inference engine: auto (the fastest here, measured), {', '.join(ENGINES)}.")
    ] = "auto"
    batch_size: Annotated[int, typer.Option(min=1, help="X-rays in a batch.")] = 8
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger images are refused before they are decoded.")
    ] = 60.0
    timeout: Annotated[float, typer.Option(min=0.1, help="Timeout for decoding a file, in seconds.")] = 60.0
    signatures: Annotated[
        Literal["auto", "require", "warn", "off"] | None,
        typer.Option(help="Whether the package must be signed. Default: as params.yaml says."),
    ] = None


@dataclass(frozen=True)
class Counted:
    """Number of inputs by result; ``skipped`` were finished by an earlier run.

    Attributes:
        flagged: the rows with flags, the worst first.
    """

    inputs: int
    done: int
    skipped: int
    failed: int
    flagged: list[Row]


@dataclass(frozen=True)
class _Read:
    """An input after reading: has an X-ray, or an error, or neither if an earlier run finished it."""

    source: Input
    sha256: str = ""
    xray: Xray | None = None
    error: str = ""


def predict(inputs: Sequence[Input], model: str, out: Path, options: Options) -> Counted:
    """Predict on all X-rays in ``inputs`` and write the results to ``out``.

    ``masks/`` has one PNG per X-ray, with values 0 and 255, at the X-ray's size. ``overlays/``, ``seg/`` and the review
    sheet depend on the options. ``results.csv`` and ``results.json`` have one row per X-ray, including failed ones.
    Output names are the inputs' paths relative to their common folder. An unusable file is reported in one line on
    standard error and does not stop the run.

    Args:
        inputs: see :func:`serving.predict.inputs.find`; at least one.
        model: a package's folder, or a registry URI: ``models:/lung-segmentation@champion``.
        out: output folder.
        options: see :class:`Options`.

    Raises:
        UserError: the model cannot be loaded; ``out`` cannot be used.
    """
    from model.weights import WEIGHTS
    from registry import signatures as configured
    from registry.fetch import fetch
    from registry.packages import load
    from serving.viewer.about import about as said

    decoders = Decoders(min(cores(), len(inputs)), options.max_megapixels)  # start while the model loads
    with closing(decoders), tempfile.TemporaryDirectory() as scratch:
        folder = fetch(model, Path(scratch), signatures=options.signatures or configured())
        package = load(folder, options.engine)
        print(f"predict: {package.engine.name} ({package.engine.reason})", flush=True)
        weights = file_sha256(folder / WEIGHTS)
        # registry.fetch names the folder of a version <name>/<number>-<id>.
        registered = folder.is_relative_to(scratch)
        name = folder.parent.name if registered else package.card.get("name")
        version = folder.name.partition("-")[0] if registered else package.card.get("version")
        about = {
            "name": str(name or "lung-segmentation"),
            "version": str(version or weights[:12]),
            "weights_sha256": weights,
            "source": model,
            "engine": package.engine.name,
        }
        shown = said(package.card, about["name"], about["version"], about["engine"])
        if shown.drawings:
            print(
                f"predict: {shown.name} version {shown.version} was trained on drawings, not on X-rays of patients; "
                "its masks of real ones mean nothing: use --model pretrained for those",
                flush=True,
            )
        sheet = shown if options.review else None
        with opened(out, about, overwrite=options.overwrite, resume=options.resume, about=sheet) as results:
            return _Run(package, results, options, decoders).all(inputs)


class _Run:
    """Three concurrent stages: processes decode, the engine runs batches, threads write."""

    def __init__(self, package: Package, results: Results, options: Options, decoders: Decoders) -> None:
        self.package, self.results, self.options, self.decoders = package, results, options, decoders
        self.skipped = 0
        chosen = {"overlay": options.overlays, "seg": options.seg, "picture": options.review, "shapes": options.review}
        self.kinds = ["mask", *(kind for kind, wanted in chosen.items() if wanted)]
        self.twins: dict[str, str] = {}

    def all(self, inputs: Sequence[Input]) -> Counted:
        """Predict on all inputs and count the results."""
        names = {each.name for each in inputs}
        masks: dict[Path, str] = {}
        for name in sorted(names):  # a.dcm and a.dcm.png would have the same mask file
            first = masks.setdefault(place("mask", name), name)
            if first != name:
                self.twins[name] = first
        window = self.options.batch_size + cores()
        pool = ThreadPoolExecutor(cores())
        try:
            with progress("predict", len(inputs), in_bytes=False) as advance:
                rows = self._written(pool, self._batches(_ahead(pool, self._read, inputs, window)), window)
                for row in rows:
                    _report(row)
                    advance(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        mine = [row for name, row in self.results.rows.items() if name in names]
        failed = sum(row["status"] != "ok" for row in mine)
        flagged = sorted((row for row in mine if row.get("flags")), key=worst_first)
        return Counted(len(inputs), len(mine) - failed - self.skipped, self.skipped, failed, flagged)

    def _read(self, source: Input) -> _Read:
        read = _Read(source)
        try:
            data = read_bytes(source.path, source.name, self.options.max_megapixels)
            read = replace(read, sha256=sha256(data).hexdigest())
            if self.results.finished(source.name, read.sha256, self.kinds):
                return read
            self.results.forget(source.name)
            if source.name in self.twins:
                raise ImageError(f"{source.name}: its mask would replace that of {self.twins[source.name]}; rename one")
            # Check the output paths before the work.
            for kind in self.kinds:
                self.results.path(kind, source.name)
            until = time.monotonic() + self.options.timeout
            return replace(read, xray=self.decoders.read(data, source.name, until))
        except ImageError as error:
            return replace(read, error=str(error))
        except UserError:
            raise
        except TimeoutError:
            hint = f"not decoded after {self.options.timeout:g} s; export it again, or raise --timeout"
            return replace(read, error=f"{source.name}: {hint}")
        except Exception as error:  # as in _finish
            return replace(read, error=f"{source.name}: cannot be read ({type(error).__name__}); report it")

    def _batches(self, reads: Iterator[_Read]) -> Iterator[list[_Read]]:
        batch: list[_Read] = []
        for read in reads:
            batch.append(read)
            pixels = sum(each.xray.pixels.size for each in batch if each.xray)
            if len(batch) == self.options.batch_size or pixels >= BATCH_PIXELS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _written(self, pool: ThreadPoolExecutor, batches: Iterator[list[_Read]], window: int) -> Iterator[Row]:
        writing: deque[Future[Row]] = deque()
        for batch in batches:
            usable = [read for read in batch if read.xray is not None]
            found = iter(self.package.segment([read.xray.pixels for read in usable if read.xray]))
            self.skipped += sum(not read.xray and not read.error for read in batch)
            for read in batch:
                writing.append(pool.submit(self._finish, read, next(found) if read.xray else None))
            while len(writing) > window:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()

    def _finish(self, read: _Read, found: Segmentation | None) -> Row:
        row: Row = {"file": read.source.name, "status": "failed", "error": read.error, "sha256": read.sha256}
        if read.xray is not None and found is not None:
            try:
                row |= self._results(read.source.name, read.xray, found)
            except UserError:
                raise
            except Exception as error:  # an error on one file becomes its row and does not stop the run
                row["error"] = f"{read.source.name}: its results cannot be made ({type(error).__name__}); report it"
        elif not read.error:
            return self.results.rows[read.source.name]
        self.results.add(row)
        return row

    def _results(self, name: str, xray: Xray, found: Segmentation) -> Row:
        from serving.viewer.review import view_of
        from serving.xray.device import device, taken
        from serving.xray.drawing import overlay
        from serving.xray.findings import describe

        findings = asdict(describe(found, xray, self.package.contract))
        row: Row = {
            "status": "ok",
            "kind": xray.kind,
            **findings,
            "day": taken(xray.dicom),
            "device": device(xray.dicom),
        }
        try:
            row["mask"] = self.results.write("mask", name, encode(found.mask * 255))
            if self.options.overlays:
                row["overlay"] = self.results.write("overlay", name, overlay(xray, found.mask, found.view))
            if self.options.seg and xray.dicom is not None:
                row |= self._seg(found, xray.dicom, name)
            if self.options.review:
                for kind, data in view_of(found, xray, self.package.contract.intensity_percentiles).items():
                    row[kind] = self.results.write(kind, name, data)
        except ImageError as error:
            row |= {"status": "failed", "error": str(error)}
        return row

    def _seg(self, found: Segmentation, dicom: Dataset, name: str) -> dict[str, str]:
        from serving.xray.segments import to_seg

        try:
            data = to_seg(found, dicom, name, self.results.model)
        except ImageError as error:
            return {"note": str(error)}
        return {"seg": self.results.write("seg", name, data)}


def _ahead(
    pool: ThreadPoolExecutor, job: Callable[[Input], _Read], items: Sequence[Input], window: int
) -> Iterator[_Read]:
    """Yield the job's results in order, while threads work on at most ``window`` items ahead."""
    waiting: deque[Future[_Read]] = deque()
    for item in items:
        waiting.append(pool.submit(job, item))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _report(row: dict[str, Any]) -> None:
    if row["error"]:
        say(f"error: {row['error']}")
    if row.get("note"):
        say(f"note: {row['note']}")
