"""The precision of training: measured on CPUs, where bfloat16 may be slower than float32."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from model.inputs import autocast, channels_last, one_thread
from model.measured import cpu, once
from model.networks import build
from model.training.distributed import DistributedContext

ROUNDS = 3
# Least speedup for bfloat16: the machine's current load must not decide a near tie.
GAIN = 1.1
CACHE = "precision.json"


@dataclass(frozen=True)
class Precision:
    """The dtype of autocast and the reason for it."""

    dtype: torch.dtype
    reason: str


def choose_precision(name: str, world: DistributedContext) -> Precision:
    """Return the precision for the parameter ``precision``.

    ``auto`` is bfloat16 on a GPU that supports it. On a CPU with bfloat16 instructions, steps of a reference network
    are timed in both precisions, because without matrix units bfloat16 is often slower; it must be at least
    :data:`GAIN` times as fast. The choice does not depend on the trained network: timings of a small network are noisy,
    and equal runs would differ. The measurement is cached in the user's cache folder. With several processes rank 0
    decides.

    Args:
        name: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        world: the device and the process group.
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
    return Precision(taken, f"a step in bfloat16 is {ratio:.2f} times as fast as in float32; {GAIN} is required")


def measure_gain() -> float:
    """Return the speedup of a training step on the CPU in bfloat16 over float32.

    The step trains DEFU-Net at a quarter of its width on two images of 128 pixels, with one thread. The precisions
    alternate, after one warm-up step each. The minimum CPU time of each counts, because other processes increase the
    time, most of all with several threads.
    """
    with one_thread():
        fastest = _fastest_steps()
    return fastest[torch.float32] / fastest[torch.bfloat16]


def _fastest_steps() -> dict[torch.dtype, float]:
    """Return the CPU seconds of the fastest step in float32 and in bfloat16."""
    # Fork the global generator, so that the draws of weights and dropout do not change the training run.
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
