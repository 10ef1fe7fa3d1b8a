"""Terminal output: progress bars, the epochs of a training run, and tables that fit the width."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

T = TypeVar("T")

# Seconds between reads of the loss; each read waits for the device.
REFRESH_SECONDS = 1.0
ENDLESS = 10_000  # characters, wider than any table
SILENT_SECONDS = 30.0  # after which a progress display without a terminal prints again


def epoch_line(row: dict[str, float], epochs: int) -> str:
    """Return one line of text for a row of the history."""
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  loss {row['train_loss']:.4f}  dice {row['train_dice']:.4f}  "
        f"validation loss {row['validation_loss']:.4f}  dice {row['validation_dice']:.4f}  "
        f"{row['images_per_second']:.1f} images/s"
    )


def seconds(count: float) -> str:
    """Format a duration in seconds, for example ``40 s``, ``4 min 12 s`` or ``1 h 02 min``."""
    left = max(0, round(count))
    if left < 60:
        return f"{left} s"
    minutes, left = divmod(left, 60)
    return f"{minutes} min {left:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, ``1 X-ray`` or ``2 X-rays``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def printable(text: str, *, lines: bool = False) -> str:
    """Return text with control characters as their escapes, so that untrusted text cannot control the terminal.

    Args:
        text: the text.
        lines: keep line breaks as they are.
    """
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """Print text to standard error; flush standard output first, to keep the order in a common file.

    Control characters other than line breaks are printed as their escapes.
    """
    with suppress(OSError, ValueError):  # print the line even if standard output is closed
        sys.stdout.flush()
    print(printable(text, lines=True), file=sys.stderr, flush=True)


def loading(what: str) -> None:
    """Print what is being loaded, before imports and files that take seconds."""
    say(f"loading {what} ...")


def console(width: int, *, markup: bool = True, wide: bool = False) -> Console:
    """Return a console as wide as the terminal; without a terminal, as wide as COLUMNS, else ``width``.

    Args:
        width: characters.
        markup: False prints "[...]" as it is.
        wide: wide enough for every column of any table; a narrower terminal wraps the lines.
    """
    from rich.console import Console

    found = Console(highlight=False, markup=markup)
    known = found.is_terminal or os.environ.get("COLUMNS", "").isdecimal()
    if wide or not known:
        found.width = ENDLESS if wide else width
    return found


def table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table: headers of columns of text, aligned left, then headers of columns of figures."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for header in left:
        made.add_column(header)
    for header in right:
        made.add_column(header, justify="right")
    return made


def fit(table: Table, console: Console, dispensable: Sequence[str]) -> Table:
    """Drop columns of a table until it fits the console, because truncated numbers are useless.

    If it still does not fit, its borders are left out.

    Args:
        table: the table; it is modified.
        console: the console.
        dispensable: headers of columns that may be dropped, in this order.

    Returns:
        The table.
    """
    from rich.measure import Measurement

    endless = console.options.update(width=ENDLESS)
    for header in dispensable:
        if Measurement.get(console, endless, table).maximum <= console.width:
            return table
        kept = [column for column in table.columns if column.header != header]
        # Rich takes the column of the last number for the last one, which has no padding.
        table.columns = [replace(column, _index=number) for number, column in enumerate(kept)]
    if Measurement.get(console, endless, table).maximum > console.width:
        table.box, table.padding, table.pad_edge = None, (0, 2, 0, 0), False
    return table


@contextmanager
def progress(label: str, total: int, in_bytes: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances a progress display on standard error.

    Without a terminal, a line is printed at each tenth of the total, and after :data:`SILENT_SECONDS` without output.
    """
    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        count = bars.DownloadColumn() if in_bytes else bars.MofNCompleteColumn()
        columns: Iterable[bars.ProgressColumn] = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            count,
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda amount: bar.advance(task, amount)
        return
    start = last = time.monotonic()
    done = tenths = 0

    def advance(amount: int) -> None:
        nonlocal done, tenths, last
        done += amount
        now = time.monotonic()
        if total and (done * 10 // total > tenths or now - last >= SILENT_SECONDS):
            tenths, last = done * 10 // total, now
            shown = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if in_bytes else f"{done} of {total}"
            say(f"{label}: {shown}, {now - start:.0f} s")

    yield advance


def tracked(label: str, items: Sequence[T]) -> Iterator[T]:
    """Yield items one by one under a progress display."""
    with progress(label, len(items), in_bytes=False) as advance:
        for item in items:
            yield item
            advance(1)


class Terminal:
    """A monitor of :class:`model.training.loop.Trainer` that prints to standard output.

    Args:
        title: title of the run.
        after_epoch: called in order with each epoch's row of the history, after it is printed.
    """

    def __init__(self, title: str, after_epoch: Sequence[Callable[[dict[str, float]], object]] = ()) -> None:
        self.title, self.after_epoch = title, after_epoch
        from rich.console import Console

        self.console = Console()
        self.bar: Progress | None = None
        self.epochs, self.steps, self.images, self.since, self.shown = 0, 0, 0, 0.0, 0.0

    def start(self, epochs: int, steps: int, first_epoch: int, stage: str) -> None:
        """Print the opening line; on a terminal, open the bar."""
        self.stop()
        resumed = first_epoch and not self.epochs  # a later stage of the same process is not a resumed run
        self.epochs, self.steps, self.since, self.images = epochs, steps, time.monotonic(), 0
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            # The bar takes the width that the figures leave, so 80 columns suffice. The title is above it.
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
            figures = TextColumn("{task.fields[figures]}")
            self.bar = Progress(*columns, figures, console=self.console, expand=True)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=epochs * steps, completed=first_epoch * steps, figures="")
        where = f", resuming after epoch {first_epoch}" if resumed else ""
        what = f"{stage}, to epoch {epochs}" if stage else f"{epochs} epochs"
        self._print(f"{self.title}: {what} of {steps} batches{where}")

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        """Advance the bar; read the loss at most once per :data:`REFRESH_SECONDS`."""
        self.images += images
        now = time.monotonic()
        if self.bar is None:
            return
        self.bar.advance(self.task)
        if now - self.shown >= REFRESH_SECONDS:
            self.shown = now
            rate = self.images / (now - self.since)
            self.bar.update(self.task, figures=f"loss {loss():.4f}  {rate:.1f} images/s")

    def epoch(self, row: dict[str, float]) -> None:
        """Print the epoch's line and pass the row to ``after_epoch``."""
        self._print(epoch_line(row, self.epochs))
        for call in self.after_epoch:
            call(row)

    def stop(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print(self, line: str) -> None:
        if self.bar is not None:
            self.console.print(line, highlight=False)
        else:
            print(line, flush=True)
