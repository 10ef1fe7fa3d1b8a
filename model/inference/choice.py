"""Which of several engines is the fastest on a package's own network: timed for a moment, and kept once a machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from model.inference.engine import Engine, Pictures
from model.measured import once

SECONDS = 2.0  # of processor time that all of it may take, about
ROUNDS = 5
# An engine that is preferred stays within this factor of the fastest: a near tie must not be decided by what else the
# machine does at that moment, nor exactness be given up for it.
GAIN = 1.1
CACHE = "engines.json"


def choose(
    names: Sequence[str], exact: Collection[str], make: Callable[[str], Engine], key: str, side: int
) -> tuple[Engine, str]:
    """Return the engine to compute with, started, and why it is that one.

    Args:
        names: of two engines or more, in the order in which they are timed.
        exact: those of them that are preferred.
        make: starts one.
        key: all that their speed depends on: machine, threads, libraries, network, size.
        side: of the network's pictures, pixels.
    """
    made: dict[str, Engine] = {}
    times = once(CACHE, f"{key}; {', '.join(names)}", lambda: measure(names, make, side, made), _sound)
    taken = pick(sorted(names, key=lambda name: name not in exact), times)
    return made.get(taken) or make(taken), describe(taken, names, times)


def pick(names: Sequence[str], times: dict[str, float]) -> str:
    """Return the first name, the preferred ones first, whose time is within :data:`GAIN` of the least."""
    most = GAIN * min(times.values())
    return next(name for name in names if times.get(name, np.inf) <= most)


def describe(taken: str, names: Sequence[str], times: dict[str, float]) -> str:
    """Say in words what was measured, milliseconds, and why this engine was taken."""
    others = [f"{name} {times[name]:.1f}" if name in times else f"{name} not timed" for name in names if name != taken]
    near = f"; preferred, since none is {GAIN} times as fast" if times[taken] > min(times.values()) else ""
    return f"a picture takes {times[taken]:.1f} ms of processor time; {', '.join(others)}{near}"


def measure(
    names: Sequence[str], make: Callable[[str], Engine], side: int, made: dict[str, Engine] | None = None
) -> dict[str, float]:
    """Return the milliseconds of processor time that each engine takes for one picture, at the least of some rounds.

    Engines take turns, every other round backwards. Other processes hardly add to the processor's time, nor to the
    least of it. When :data:`SECONDS` are over, nothing more is begun: a large network is timed once, and the last of
    the names perhaps not at all.

    Args:
        names: of the engines.
        make: starts one.
        side: of the pictures, pixels.
        made: gets the engines that were started.
    """
    made = {} if made is None else made
    picture = np.random.default_rng(0).integers(0, 256, (1, side, side), np.uint8)
    found: dict[str, float] = {}
    until = 0.0
    for name in names:
        if found and time.process_time() > until:
            return found
        made[name] = make(name)
        until = until or time.process_time() + SECONDS  # one of them has to be started anyway
        found[name] = _milliseconds(made[name], picture)
    for number in range(ROUNDS):
        for name in list(names) if number % 2 == 0 else list(names)[::-1]:
            if time.process_time() > until:
                return found
            found[name] = min(found[name], _milliseconds(made[name], picture))
    return found


def _milliseconds(engine: Engine, picture: Pictures) -> float:
    began = time.process_time()
    engine.probabilities(picture)
    return 1e3 * (time.process_time() - began)


def _sound(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(time_, float) for time_ in value.values())
