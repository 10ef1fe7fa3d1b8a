"""Training that takes less memory and more time: activation checkpointing (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


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
