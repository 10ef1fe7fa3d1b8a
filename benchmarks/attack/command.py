"""Read unusual and damaged files as ``predict`` and ``serve`` do; load damaged checkpoints, packages and versions.

A file passes if it is read, or refused in one line that does not quote it, before a decoder's timeout. It fails if
anything else is raised, on a timeout, or if its decoder crashes. Every file that fails is saved.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.attack import odd, others, promotions
from benchmarks.attack.corpus import SECRET, flipped, mutated, seeds
from benchmarks.attack.counts import Counts
from core.errors import UserError
from core.images import ImageError
from core.parallel import cores
from core.terminal import progress, say, tracked
from model.inference.package import Segmentation
from model.inference.view import View
from registry.fetch import fetch
from registry.packages import load
from registry.seal import DIGESTS, seal, verify
from serving.xray.decoding import Decoders
from serving.xray.reading import Xray
from serving.xray.segments import to_seg

SECONDS = 20.0  # timeout of one file, which normally takes milliseconds
AT_ONCE = 64
CRASHED = "crashes its decoder"  # in the message of serving.xray.decoding
MODEL = {"name": "attack", "version": "1", "weights_sha256": "0" * 64}


def attack(
    count: Annotated[int, typer.Option(min=1, help="Number of damaged files.")] = 20_000,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after these seconds. Default: no limit.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the mutations.")] = 0,
    package: Annotated[
        Path | None, typer.Option(help="A model package: load damaged copies, send a service of it damaged requests.")
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(help="Where `make run` was: promote altered copies of its challenger."),
    ] = None,
    dicoms: Annotated[Path | None, typer.Option(help="A folder of DICOMs to read beside pydicom's own.")] = None,
    requests: Annotated[int, typer.Option(min=0, help="Number of damaged requests, with --package.")] = 2000,
    checkpoints: Annotated[int, typer.Option(min=0, help="Number of damaged checkpoints.")] = 400,
    failed: Annotated[Path, typer.Option(help="Folder for the files that failed.")] = Path("build/attack"),
) -> None:
    """Attack what reads from outside, and print how many tries were read, refused and failed.

    Damaged PNG, JPEG, TIFF and DICOM files, pydicom's own test files and damaged checkpoints; with a package also odd
    files, damaged packages and requests; with a project also promotions.
    """
    found = files(count, seconds, seed, failed)
    found["test DICOM"] = others.dicoms(_outcome, *([dicoms] if dicoms else []))
    found["checkpoint"] = others.checkpoints(checkpoints, seed)
    if package is not None:
        package = fetch(str(package), package)
        say("odd files: predict reads all of them")
        found["odd file"] = odd.odd(package)
        found["package"] = packages(package, seed)
        found["request"] = others.requests(requests, seed, package)
    if project is not None:
        found["promotion"] = promotions.promotions(project, seed)
    Console().print(_table(found))
    if lost := sum(sum(counts.failures.values()) for counts in found.values()):
        raise UserError(f"{lost} failed; those of files lie in {failed}")


def files(count: int, seconds: float | None, seed: int, failed: Path) -> dict[str, Counts]:
    """Read ``count`` damaged files in decoder processes, equally many of each kind; return the counts by kind."""
    kinds = seeds()
    found = {kind: Counts() for kind in kinds}
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    names = [list(kinds)[number % len(kinds)] for number in range(count)]
    with (
        closing(Decoders(cores(), 1.0)) as decoders,
        ThreadPoolExecutor(cores()) as pool,
        progress("damaged files", count, in_bytes=False) as advance,
    ):
        for start in range(0, count, AT_ONCE):
            if time.monotonic() > until:
                break
            # A separate seed per file, so that a file that failed can be reproduced.
            made = []
            for number, kind in enumerate(names[start : start + AT_ONCE], start):
                chance = random.Random(f"{seed} {number}")
                made.append((kind, mutated(chance.choice(kinds[kind]), chance)))
            for (kind, data), why in zip(made, pool.map(lambda each: _outcome(decoders, each[1]), made), strict=True):
                counts = found[kind]
                if counts.add(why):
                    failed.mkdir(parents=True, exist_ok=True)
                    (failed / f"{kind.lower()}-{counts.tried}").write_bytes(data)
                advance(1)
    return found


def _outcome(decoders: Decoders, data: bytes) -> str:
    """Return ``read``, ``refused``, or how it failed, in a few words."""
    try:
        xray = decoders.read(data, "x", time.monotonic() + SECONDS)
        return _used(xray)
    except ImageError as error:
        text = str(error)
        if "\n" in text or SECRET in text:
            return "a message of several lines, or with the patient's name"
        return CRASHED if CRASHED in text else "refused"
    except TimeoutError:
        return "hangs"
    except Exception as error:  # any other exception is a failure
        return f"raises {type(error).__name__}"


def _used(xray: Xray) -> str:
    """Check an X-ray as predict uses it: finite values, and for a DICOM a SEG with its header."""
    pixels: Any = xray.pixels
    if not np.isfinite(pixels.astype(float)).all():
        return "read as values that are not finite"
    if xray.dicom is not None:
        mask = np.zeros(pixels.shape, np.uint8)
        mask[: len(mask) // 2] = 1
        try:
            to_seg(Segmentation(mask, mask.astype(np.float32), View()), xray.dicom, "x", MODEL)
        except ImageError as error:
            if SECRET in str(error):
                return "a message with the patient's name"
    return "read"


def packages(package: Path, seed: int) -> Counts:
    """Flip one bit in each file of a package's copy, one file at a time; return the counts of the outcomes."""
    counts, chance = Counts(), random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "package"
        shutil.copytree(package, copy)
        if not (copy / DIGESTS).exists():
            seal(copy)
        every = sorted(each for each in copy.rglob("*") if each.is_file() and each.stat().st_size)
        for path in tracked("damaged packages", every):
            whole = path.read_bytes()
            path.write_bytes(flipped(whole, chance))
            try:
                verify(copy)
                load(copy, "onnxruntime")
                counts.add(f"{path.name}: loads with a flipped bit")
            except UserError:
                counts.add("refused")
            path.write_bytes(whole)
    return counts


def _table(found: dict[str, Counts]) -> Table:
    table = Table(title="attack")
    for head in ("kind", "tried", "read", "refused", "failed", "how"):
        table.add_column(head, justify="left" if head in ("kind", "how") else "right")
    for kind, counts in found.items():
        how = ", ".join(f"{text} ({number})" for text, number in counts.failures.most_common(3))
        failures = sum(counts.failures.values())
        table.add_row(kind, *map(str, (counts.tried, counts.read, counts.refused, failures)), how)
    return table
