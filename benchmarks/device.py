"""What a machine can compute and move, and what a training step asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import own_seconds, synchronise

MEASURED_SECONDS = 0.5  # about how long each rate is measured


@dataclass(frozen=True)
class Machine:
    """Measured rates.

    Attributes:
        matrix: FLOP/s of a large matrix product, by the name of the dtype; on a GPU also "tf32", in which cuDNN may
            compute convolutions of float32.
        bandwidth: bytes a second of a large copy, those read and those written.
    """

    matrix: dict[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What one step asks for: forward pass, backward pass, and the optimiser's memory traffic.

    Attributes:
        flops: of convolutions and matrix products, 2 for a multiplication with its addition.
        bytes: ESTIMATED memory traffic: each operation reads its inputs and writes its outputs once. Caches and fused
            operations make it less.
    """

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes


def _fastest(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return the seconds of the fastest of many runs: what disturbs one only ever makes it slower."""
    work()
    synchronise(device)
    best, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or runs < 3:
        start = own_seconds(device)
        work()
        synchronise(device)
        best, runs = min(best, own_seconds(device) - start), runs + 1
    return best


def measure_machine(device: torch.device, quick: bool = False) -> Machine:
    """Measure a device's rates for matrix products and copies."""
    cuda = device.type == "cuda"
    seconds = 0.05 if quick else MEASURED_SECONDS
    # Large enough that starting the work takes no noticeable time and, for the copy, that no cache holds it.
    side = 8192 if cuda else 256 if quick else 1536
    count = (2**30 if cuda else 2**22 if quick else 2**27) // 4
    matrix = {}
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16} | ({"tf32": torch.float32} if cuda else {})
    for name, dtype in dtypes.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        try:
            matrix[name] = 2 * side**3 / _fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, seconds)  # type: ignore[misc]
        finally:
            torch.set_float32_matmul_precision(before)
    source = torch.ones(count, device=device)
    target = torch.zeros_like(source)
    copied = _fastest(lambda: target.copy_(source), device, seconds)
    return Machine(matrix, 2 * source.nbytes / copied)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.bytes += sum(t.numel() * t.element_size() for t in _tensors((args, kwargs, result)))
        return result


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []


def measure_work(network: nn.Module, batch_size: int, size: int, precision: torch.dtype, average: bool) -> Work:
    """Count what a training step asks for, on the "meta" device, where shapes are computed and nothing else.

    Args:
        network: it is moved to the "meta" device and loses its weights.
        batch_size: images.
        size: their side, pixels.
        precision: of autocast; as that does, the counted network computes in it from end to end.
        average: whether a moving average of the weights is kept.
    """
    weights = sum(parameter.numel() for parameter in network.parameters())
    network = network.to("meta", precision).train()
    images = torch.zeros(batch_size, 1, size, size, device="meta", dtype=precision)
    traffic = _Traffic()
    with traffic, FlopCounterMode(display=False) as counter:
        network(images).float().sum().backward()
    # Adam reads a weight, its gradient and two moments and writes three of these; the average reads two, writes one.
    return Work(counter.get_total_flops(), traffic.bytes + 4 * weights * (7 + 3 * average))


def bound(machine: Machine, work: Work, precision: str, seconds: float) -> dict[str, Any]:
    """Compare a step's measured seconds with the least that the machine's rates allow.

    Returns:
        ``balance``: FLOPs a byte at which the machine computes and moves for equally long; ``least_seconds`` of the
        step; ``achieved``: FLOP/s; ``share``: of the matrix rate; ``by``: "compute", "memory", or, where the step takes
        over three times as long as either explains, "overhead"; ``text``: all of it in words.
    """
    # In float32 cuDNN's convolutions compute in TF32 unless told otherwise; float16 is as fast as bfloat16.
    ceiling = {"float32": "tf32", "float16": "bfloat16"}.get(precision, precision)
    rate = machine.matrix.get(ceiling, machine.matrix["float32"])
    balance, least = rate / machine.bandwidth, max(work.flops / rate, work.bytes / machine.bandwidth)
    rates = "compute" if work.intensity >= balance else "memory"
    by = "overhead" if seconds > 3 * least else rates
    text = (
        f"A step is {work.flops / 1e9:.1f} GFLOP and, by an estimate, {work.bytes / 1e9:.2f} GB: "
        f"{work.intensity:.1f} FLOP a byte. In {precision} this machine is balanced at {balance:.1f} FLOP a byte, so "
        f"by its rates the step is {rates}-bound and takes at least {1e3 * least:.1f} ms; measured "
        f"{1e3 * seconds:.1f} ms. "
    )
    text += (
        "That is more than three times as long: neither rate explains it, but many small operations, and kernels that "
        "reach less than the machine can."
        if by == "overhead"
        else f"What bounds it: {by}."
    )
    return {
        "precision": precision,
        **asdict(work),
        "intensity": work.intensity,
        "balance": balance,
        "least_seconds": least,
        "seconds": seconds,
        "achieved": work.flops / seconds,
        "share": work.flops / seconds / rate,
        "by": by,
        "text": text,
    }
