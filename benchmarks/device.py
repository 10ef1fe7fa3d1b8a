"""Roofline: a machine's compute rate and memory bandwidth, and the work of a training step."""

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

MEASURED_SECONDS = 0.5  # approximate time to measure each rate


@dataclass(frozen=True)
class Machine:
    """Measured rates.

    Attributes:
        matrix: FLOP/s of a large matrix product, by the name of the dtype; on a GPU also "tf32", which cuDNN may use
            for float32 convolutions.
        bandwidth: bytes per second of a large copy, read and written.
    """

    matrix: dict[str, float]
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """The work of one step: forward pass, backward pass, and the optimiser's memory traffic.

    Attributes:
        flops: FLOPs of convolutions and matrix products; a multiply-accumulate counts as 2.
        bytes: ESTIMATED memory traffic: each operation reads its inputs and writes its outputs once. Caches and fused
            operations reduce it.
    """

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes


def _fastest(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return the seconds of the fastest of many runs, because disturbances only make a run slower."""
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
    # Large enough that the launch overhead is negligible, and that the copy fits into no cache.
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
    """Adds up the bytes of the tensors that operations read and write; views count as 0."""

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
    """Count the work of a training step on the "meta" device, which computes only shapes.

    Args:
        network: the network; it is moved to the "meta" device and loses its weights.
        batch_size: number of images.
        size: side of the images in pixels.
        precision: dtype of autocast; the counted network uses it for all operations.
        average: whether the step updates a moving average of the weights.
    """
    weights = sum(parameter.numel() for parameter in network.parameters())
    network = network.to("meta", precision).train()
    images = torch.zeros(batch_size, 1, size, size, device="meta", dtype=precision)
    traffic = _Traffic()
    with traffic, FlopCounterMode(display=False) as counter:
        network(images).float().sum().backward()
    # Adam reads a weight, its gradient and two moments, and writes three values; the average reads two and writes one.
    return Work(counter.get_total_flops(), traffic.bytes + 4 * weights * (7 + 3 * average))


def bound(machine: Machine, work: Work, precision: str, seconds: float) -> dict[str, Any]:
    """Compare a step's measured seconds with the lower bound from the machine's rates (roofline model).

    Returns:
        ``balance``: the machine's matrix rate over its bandwidth, in FLOPs per byte; ``least_seconds``: lower bound of
        the step; ``achieved``: FLOP/s; ``share``: share of the matrix rate; ``by``: "compute" or "memory", or
        "overhead" if the step takes over three times the lower bound; ``text``: a description.
    """
    # By default cuDNN computes float32 convolutions in TF32; float16 is as fast as bfloat16.
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
