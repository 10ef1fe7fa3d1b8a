"""Memory of a training step: activation checkpointing (Chen et al. 2016, arXiv 1604.06174), and freed memory kept."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# Options of glibc's mallopt (malloc.h): pieces that are mapped one by one, and what is returned when freed.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}


def keep_freed_memory() -> bool:
    """Have the C library keep memory that is freed for the next step; return whether it can (glibc on Linux).

    A step on the CPU takes and frees gigabytes in large pieces. By default glibc returns each to the system, which
    clears it anew for the next step: a seventh of a step's processor time (``python -m benchmarks.allocation``). The
    process then holds the memory of its largest step until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in KEPT.items())


def checkpoint_activations(network: nn.Module) -> None:
    """Make every block of a network, in place, keep only its inputs for the backward pass, which computes it again.

    Blocks are the network's direct children and the items of its module lists, but for single layers, which have
    nothing to gain. Names in the state dict, logits, gradients, running values and random draws stay what they were,
    under autocast too; a step costs one more forward pass. What remains of the peak is mostly the largest block, which
    is there in full while it is computed again. Without gradients nothing is different. Forward hooks of layers inside
    a block are called again in the backward pass. ``torch.compile`` leaves the blocks as they are.
    """
    # It cannot trace the care taken of running values. To disable it loads the compiler, hence not at the import.
    forward = torch.compiler.disable(_checkpointed_forward)  # type: ignore[no-untyped-call]
    for child in network.children():
        for block in child if isinstance(child, nn.ModuleList) else [child]:
            if list(block.children()):
                # A bound method, unlike a closure, follows its block when the network is deep-copied.
                block.forward = MethodType(forward, block)


def _checkpointed_forward(block: nn.Module, *inputs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return what the first computation of a block runs under, and what every later one runs under."""
    return nullcontext(), _RunningValuesKept(block)


class _RunningValuesKept:
    """While it is open, norms write their running values to copies, so that no batch is counted twice.

    They must have some to write to: a BatchNorm without running values saves fewer tensors for the backward pass, and
    checkpointing refuses a block that is not computed as it was. It can be opened again, as a graph that is kept after
    its backward pass asks for.
    """

    def __init__(self, block: nn.Module) -> None:
        self.buffers = [(module, *item) for module in block.modules() for item in module.named_buffers(recurse=False)]

    def __enter__(self) -> None:
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer)
