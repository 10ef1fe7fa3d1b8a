"""The precision in which a network trains: measured where a CPU could be slower in bfloat16 than in float32."""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from model.distributed import World
from model.inputs import autocast, channels_last

ROUNDS = 3
BUDGET = 20.0  # seconds after which no further round begins
# Below this gain float32 stays: a near tie must not be decided by what else the machine does at that moment.
GAIN = 1.1
CACHE = "precision.json"


@dataclass(frozen=True)
class Precision:
    """The dtype of autocast and, in words, why it was taken."""

    dtype: torch.dtype
    reason: str


def choose_precision(name: str, network: nn.Module, shape: tuple[int, ...], world: World) -> Precision:
    """Return the precision that the parameters ask for.

    ``auto`` is bfloat16 on a GPU that computes in it. On a CPU with instructions for it a few steps are timed in both
    precisions, because without matrix units bfloat16 is often the slower one; bfloat16 must be at least
    :data:`GAIN` times as fast. The choice is kept in the user's cache folder, so that equal runs on one machine train
    in one precision. Of several processes process 0 measures and all follow it.

    Args:
        name: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        network: as it is trained; it is copied, not changed.
        shape: of a batch of one process, (N, 1, H, W).
        world: where it is trained.
    """
    if name != "auto":
        return Precision(getattr(torch, name), "train.precision")
    if world.device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(torch.bfloat16 if able else torch.float32, "what the GPU computes in")
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return Precision(torch.float32, "the CPU has no bfloat16 instructions")
    gain = torch.zeros((), dtype=torch.float64)
    if world.first:
        gain += _gain(network, shape)
    ratio = float(world.agree(gain))
    taken = torch.bfloat16 if ratio >= GAIN else torch.float32
    return Precision(taken, f"a step in bfloat16 is {ratio:.2f} times as fast as in float32, {GAIN} is asked for")


def cache_folder() -> Path:
    """Return the folder of what is measured once on a machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "defunet"


def _gain(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return how much faster a step is in bfloat16, from the cache or measured."""
    parameters = sum(p.numel() for p in network.parameters())
    key = (
        " ".join((_cpu(), f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", type(network).__name__))
        + f" {parameters} {'x'.join(map(str, shape))}"
    )
    path = cache_folder() / CACHE
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):
        held = json.loads(path.read_text())
        known = held if isinstance(held, dict) else {}
    if isinstance(known.get(key), float):
        return known[key]
    gain = measure_gain(network, shape)
    # Where nothing can be kept, each run measures for itself.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{CACHE}.{os.getpid()}")
        partial.write_text(json.dumps({**known, key: gain}, indent=1))
        partial.replace(path)
    return gain


def measure_gain(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return the median seconds of a training step on the CPU in float32 over those in bfloat16.

    Both take turns, after one step each that is not timed.

    Args:
        network: it is copied, so that its weights and running values stay as they are.
        shape: of a batch, (N, 1, H, W).
    """
    tested = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tested.train()
    images = channels_last(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    begun = time.perf_counter()
    # Dropout draws from the global generator, whose state is part of what makes a run repeatable.
    with torch.random.fork_rng(devices=[]):
        for round_ in range(ROUNDS + 1):
            for precision, found in seconds.items():
                start = time.perf_counter()
                tested.zero_grad(set_to_none=True)
                with autocast(torch.device("cpu"), precision):
                    logits = tested(images)
                logits.float().square().mean().backward()
                if round_:
                    found.append(time.perf_counter() - start)
            if round_ and time.perf_counter() - begun > BUDGET:
                break
    single, half = (statistics.median(found) for found in seconds.values())
    return single / half


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
