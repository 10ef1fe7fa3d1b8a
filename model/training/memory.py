"""Memory of a training step: activation checkpointing (Chen et al. 2016, arXiv 1604.06174) and malloc options."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# Options of glibc's mallopt (malloc.h): use of mmap for large blocks, and return of freed memory to the system.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}


def keep_freed_memory() -> bool:
    """Make malloc reuse freed memory for the next step; return whether this is possible (glibc on Linux).

    A step on the CPU allocates and frees gigabytes in large blocks. By default glibc returns them to the system, which
    must clear the pages for the next step: a seventh of a step's CPU time (``python -m benchmarks.allocation``). With
    this setting the process keeps the memory of its largest step until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in KEPT.items())


def checkpoint_activations(network: nn.Module) -> None:
    """Apply activation checkpointing to every block of a network, in place.

    Blocks are the network's direct children and the items of its module lists, except single layers, which would not
    benefit. Names in the state dict, logits, gradients, running statistics and random draws do not change, also under
    autocast; a step costs one more forward pass. The peak memory is then mostly the largest block during its
    recomputation. Without gradients nothing changes. Forward hooks of layers inside a block are called again in the
    backward pass. ``torch.compile`` does not compile the blocks.
    """
    # The compiler cannot trace the handling of running statistics. Called here because it imports the compiler.
    forward = torch.compiler.disable(_checkpointed_forward)  # type: ignore[no-untyped-call]
    for child in network.children():
        for block in child if isinstance(child, nn.ModuleList) else [child]:
            if list(block.children()):
                # A bound method, unlike a closure, is bound to the copy when the network is deep-copied.
                block.forward = MethodType(forward, block)


def _checkpointed_forward(block: nn.Module, *inputs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs)
    contexts = partial(_contexts, block)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of a block's first forward pass and of its recomputations."""
    return nullcontext(), _RunningValuesKept(block)


class _RunningValuesKept:
    """Context in which norms update copies of their running statistics, so that no batch is counted twice.

    Copies are needed: a BatchNorm without running statistics saves fewer tensors for the backward pass, and
    checkpointing raises if the recomputation differs. The context is reusable, for graphs retained after their backward
    pass.
    """

    def __init__(self, block: nn.Module) -> None:
        self.buffers = [(module, *item) for module in block.modules() for item in module.named_buffers(recurse=False)]

    def __enter__(self) -> None:
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for module, name, buffer in self.buffers:
            setattr(module, name, buffer)
