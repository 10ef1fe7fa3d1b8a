"""Choose the fastest engine for a package's network by a short timing, cached per machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from model.inference.engine import Engine, Pictures
from model.measured import once

SECONDS = 2.0  # approximate limit of the CPU time of all measurements
ROUNDS = 5
# A preferred engine is chosen if its time is within this factor of the fastest: the machine's current load must not
# decide a near tie, and exactness is worth a small loss of speed.
GAIN = 1.1
CACHE = "engines.json"


def choose(
    names: Sequence[str], exact: Collection[str], make: Callable[[str], Engine], key: str, side: int
) -> tuple[Engine, str]:
    """Choose an engine, start it, and return it with the reason.

    Args:
        names: names of at least two engines, in the order of timing.
        exact: names of the preferred engines.
        make: starts an engine.
        key: everything that their speed depends on: machine, threads, libraries, network, size.
        side: side of the network's input in pixels.
    """
    made: dict[str, Engine] = {}
    times = once(CACHE, f"{key}; {', '.join(names)}", lambda: measure(names, make, side, made), _sound)
    taken = pick(sorted(names, key=lambda name: name not in exact), times)
    return made.get(taken) or make(taken), describe(taken, names, times)


def pick(names: Sequence[str], times: dict[str, float]) -> str:
    """Return the first name whose time is within a factor :data:`GAIN` of the minimum; pass preferred names first."""
    most = GAIN * min(times.values())
    return next(name for name in names if times.get(name, np.inf) <= most)


def describe(taken: str, names: Sequence[str], times: dict[str, float]) -> str:
    """Return the measured times, in milliseconds, and the reason for the choice as text."""
    others = [f"{name} {times[name]:.1f}" if name in times else f"{name} not timed" for name in names if name != taken]
    near = f"; preferred, since none is {GAIN} times as fast" if times[taken] > min(times.values()) else ""
    return f"{times[taken]:.1f} ms of processor time per image; {', '.join(others)}{near}"


def measure(
    names: Sequence[str], make: Callable[[str], Engine], side: int, made: dict[str, Engine] | None = None
) -> dict[str, float]:
    """Return each engine's CPU time for one image in ms, the minimum over several rounds.

    Engines alternate, every other round in reverse order. Other processes hardly affect the minimum CPU time. No
    measurement starts after :data:`SECONDS`: a large network is timed once, and the last engines may not be timed.

    Args:
        names: names of the engines.
        make: starts an engine.
        side: side of the images in pixels.
        made: filled with the started engines.
    """
    made = {} if made is None else made
    picture = np.random.default_rng(0).integers(0, 256, (1, side, side), np.uint8)
    found: dict[str, float] = {}
    until = 0.0
    for name in names:
        if found and time.process_time() > until:
            return found
        made[name] = make(name)
        until = until or time.process_time() + SECONDS  # without the start of the first engine, which is needed anyway
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
