"""The precision in which a network trains: measured where a CPU could be slower in bfloat16 than in float32."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from model.inputs import autocast, channels_last
from model.measured import cpu, once
from model.networks import build
from model.training.distributed import DistributedContext

ROUNDS = 3
# Below this gain float32 stays: a near tie must not be decided by what else the machine does at that moment.
GAIN = 1.1
CACHE = "precision.json"


@dataclass(frozen=True)
class Precision:
    """The dtype of autocast and, in words, why it was taken."""

    dtype: torch.dtype
    reason: str


def choose_precision(name: str, world: DistributedContext) -> Precision:
    """Return the precision that the parameters ask for.

    ``auto`` is bfloat16 on a GPU that computes in it. On a CPU with instructions for it steps of a reference network
    are timed in both precisions, because without matrix units bfloat16 is often the slower one; bfloat16 must be at
    least :data:`GAIN` times as fast. The choice belongs to the machine and not to the network that is trained: a
    network of a few milliseconds a step would be decided by chance, and equal runs would differ. The measurement is
    kept in the user's cache folder. Of several processes process 0 measures and all follow it.

    Args:
        name: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        world: where the network is trained.
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
        key = f"{cpu()} torch {torch.__version__}"
        gain += once(CACHE, key, measure_gain, lambda value: isinstance(value, float))
    ratio = float(world.agree(gain))
    taken = torch.bfloat16 if ratio >= GAIN else torch.float32
    return Precision(taken, f"a step in bfloat16 is {ratio:.2f} times as fast as in float32, {GAIN} is asked for")


def measure_gain() -> float:
    """Return the seconds of a training step on the CPU in float32 over those in bfloat16.

    The step is one of DEFU-Net at a quarter of its width on two pictures of 128 pixels, on one thread. Both precisions
    take turns, after one step each that is not timed. The least processor time of each counts: other processes on the
    machine add to the time, and to that of several threads most of all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fastest = _fastest_steps()
    finally:
        torch.set_num_threads(threads)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def _fastest_steps() -> dict[torch.dtype, float]:
    """Return the processor seconds of the fastest step in float32 and in bfloat16."""
    # The draws of weights and dropout leave the global generator as it was, whose state makes a run repeatable.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build("defu_net", 1 / 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = channels_last(torch.rand(2, 1, 128, 128))
        fastest = {torch.float32: math.inf, torch.bfloat16: math.inf}
        for round_ in range(ROUNDS + 1):
            for precision in fastest:
                start = time.process_time()
                network.zero_grad(set_to_none=True)
                with autocast(torch.device("cpu"), precision):
                    logits = network(images)
                logits.float().square().mean().backward()
                if round_:
                    fastest[precision] = min(fastest[precision], time.process_time() - start)
    return fastest
