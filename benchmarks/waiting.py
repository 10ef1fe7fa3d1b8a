"""Training speed by OpenMP's waiting policy, alone and next to a busy process: ``python -m benchmarks.waiting``.

The shipped policies (:mod:`model.threads`: a short spin if cores are free at the start, else passive) alternate with
OpenMP's default, which spins, and with a single thread. Each side is a separate process, because OpenMP reads its
settings once. In half of the turns a process that computes all the time runs next to it. No data set is needed. A
restarted command resumes with the unfinished round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core import cli, terminal
from core.errors import UserError
from core.params import params_hash, read_params
from core.provenance import hardware
from model.threads import NUMBER, PASSIVE, POLICY, SHORT, SPINS, settle, share, without_ours

FREE, BUSY, SPINNING, SINGLE = "shipped, cores free", "shipped, cores busy", "spinning", "one thread"
# OpenMP's environment variables of each side; 300000 is the default of GNU's library.
SIDES = {FREE: SHORT, BUSY: PASSIVE, SPINNING: {SPINS: "300000"}, SINGLE: {NUMBER: "1"}}
ALONE, BESIDE = "alone", "beside a busy process"
LEAST_ALONE, LEAST_BESIDE = 0.95, 1 / 3
PROGRAM = "while True: pass"


class Side:
    """A process that trains on request; ``before`` is a command prefix, for example to use a control group."""

    def __init__(self, name: str, arguments: list[str], before: Sequence[str] = ()) -> None:
        environment = {
            key: value for key, value in without_ours(dict(os.environ)).items() if key not in (NUMBER, POLICY, SPINS)
        }
        self.name = name
        line = [*before, sys.executable, "-m", "benchmarks.waiting", "--worker", *arguments]
        self.process = subprocess.Popen(
            line, env=environment | SIDES[name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, seconds: float) -> float:
        """Train for about ``seconds``, at least one step; return images per second of wall time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(seconds, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: its process ended with exit code {self.process.wait()}; see above")
        return float(line)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def work(params: Path, network: str, size: int | None) -> None:
    """For each line on standard input, train for that many seconds and print images per second."""
    settle()
    import torch

    from benchmarks import cohort
    from benchmarks.loops import Shipped, Task

    choices = read_params(params)
    recipe = choices.train.model_copy(update={"compile": False})
    subsets = cohort.drawn(choices, size or choices.preprocess.size, recipe.batch_size, 1)
    loop = Shipped(Task(network, recipe, *subsets, torch.device("cpu")))
    loop.run(2)
    for line in sys.stdin:
        done, begun = 0, time.perf_counter()
        while not done or time.perf_counter() - begun < float(line):
            loop.run(1)
            done += recipe.batch_size
        print(done / (time.perf_counter() - begun), flush=True)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run ``count`` processes that compute all the time inside the block."""
    busy = [subprocess.Popen([sys.executable, "-c", PROGRAM], start_new_session=True) for _ in range(count)]
    try:
        time.sleep(0.3 * bool(busy))
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(arguments: list[str], rounds: range, count: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield one row per round: images per second by situation and side. Every other round is in reverse order."""
    with ExitStack() as stack:
        sides = {name: Side(name, arguments) for name in SIDES}
        for side in sides.values():
            stack.callback(side.close)
        for side in sides.values():
            side.turn(0)  # wait until all sides have started
        for number in rounds:
            row: dict[str, Any] = {"round": number}
            for situation, busy in ((ALONE, 0), (BESIDE, count)):
                with neighbours(busy):
                    order = list(sides) if number % 2 == 0 else list(sides)[::-1]
                    row[situation] = {name: sides[name].turn(seconds) for name in order}
            yield row


def ratios(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the ratios that :func:`describe` shows, by name, one per round."""
    alone, beside = [row[ALONE] for row in rows], [row[BESIDE] for row in rows]
    return {
        "alone": [row[FREE] / max(row.values()) for row in alone],
        "came later": [there[FREE] / row[FREE] for row, there in zip(alone, beside, strict=True)],
        "was there": [there[BUSY] / row[FREE] for row, there in zip(alone, beside, strict=True)],
        "to spinning": [there[BUSY] / there[SPINNING] for there in beside],
    }


def describe(rows: list[dict[str, Any]]) -> list[Table | str]:
    """Return the figures as a table, followed by conclusions."""
    shown = terminal.table("Images/s: medians over rounds, least to most", [""], [ALONE, BESIDE])
    for name in SIDES:
        cells = []
        for situation in (ALONE, BESIDE):
            values = [row[situation][name] for row in rows]
            cells.append(f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        shown.add_row(name, *cells)
    lines: list[Table | str] = [shown]
    words = {
        "alone": (f"{FREE}, {ALONE}, to the best there", LEAST_ALONE),
        "came later": (f"{FREE}, {BESIDE} that came later, to {ALONE}", LEAST_BESIDE),
        "was there": (f"{BUSY}, {BESIDE} that was there, to free and {ALONE}", LEAST_BESIDE),
        "to spinning": (f"{BUSY}, {BESIDE}, to {SPINNING} there", None),
    }
    for key, values in ratios(rows).items():
        what, least = words[key]
        middle = statistics.median(values)
        verdict = "" if least is None else f"; target {least:.2f}: {'met' if middle >= least else 'NOT met'}"
        lines.append(f"{what}: {middle:.2f} ({min(values):.2f} to {max(values):.2f}){verdict}")
    return lines


def main(
    network: Annotated[str, typer.Option(help="A network of model.networks.")] = "defu_net",
    size: Annotated[int | None, typer.Option(help="Side of the images, pixels; else that of params.yaml.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side in each situation.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=0, help="Approximate length of a measurement; at least one step.")
    ] = 2.0,
    busy: Annotated[int, typer.Option(min=1, help="Processes beside it that compute all the time.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, one a round, appended to.")] = Path(
        "build/benchmarks/waiting.jsonl"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Compare the shipped threads and waiting with OpenMP's own, alone and beside a busy process."""
    if worker:
        work(params, network, size)
        return
    choices, machine = read_params(params), hardware()
    base = {
        "recipe": params_hash(choices.train),
        "network": network,
        "size": size or choices.preprocess.size,
        "busy": busy,
        "seconds": seconds,
        "cpu": machine["cpu"],
        "threads": share()[0],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # A killed run may have left an incomplete last line.
    lines = out.read_text().splitlines(keepends=True) if out.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    # Ignore rows of other measurements in the same file.
    rows = [row for row in rows if {key: row.get(key) for key in base} == base]
    arguments = ["--params", str(params), "--network", network, "--size", str(base["size"])]
    if len(rows) < rounds:
        for found in measure(arguments, range(len(rows), rounds), busy, seconds):
            rows.append(base | found)
            with out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    threads, reason = share()
    console = terminal.console(130)
    heading = f"{network}, {base['size']} x {base['size']}; {machine['cpu']}, {threads} threads ({reason})"
    console.print(heading, *describe(rows[:rounds]), f"wrote {out}", sep="\n")


if __name__ == "__main__":
    cli.run(main)
