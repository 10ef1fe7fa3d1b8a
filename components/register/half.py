"""Halve the size of a package: weights in float16, stored once for PyTorch and the ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.weights import WEIGHTS

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

PREFIX = "network."  # prefix of the weights' names in an exported file, see model.inference.export.AnySize
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian


def stored_in_half(weights: Path) -> bool:
    """Return whether a safetensors file has float16 weights."""
    return any(entry["dtype"] == "F16" for _, entry in _header(weights)[1].items())


def halve(weights: Path, out: Path) -> None:
    """Write a safetensors file with every float rounded to float16; integers do not change.

    Raises:
        OverflowError: a weight is too large for float16.
    """
    import torch
    from safetensors.torch import load_file

    from model.weights import save_weights

    rounded = {name: each.half() if each.is_floating_point() else each for name, each in load_file(weights).items()}
    for name, each in rounded.items():
        if not torch.isfinite(each).all():
            raise OverflowError(f"{weights}: {name} is too large for float16")
    save_weights(out, rounded)


def share_weights(onnx_file: Path) -> None:
    """Make an ONNX file read its weights from the safetensors file next to it, and cast them to float32.

    ONNX calls this external data: a file's name, an offset and a length for each weight
    (https://onnx.ai/onnx/repo-docs/ExternalData.html). They come from the header of the safetensors file
    (https://huggingface.co/docs/safetensors, "Format").

    Args:
        onnx_file: output of :func:`model.inference.export.export` without folding; it is replaced.

    Raises:
        ValueError: a weight of the ONNX file is not in the safetensors file, or has another shape there.
    """
    import onnx
    from onnx import TensorProto, helper

    made: ModelProto = onnx.load(onnx_file)
    start, entries = _header(onnx_file.parent / WEIGHTS)
    graph, casts, shared = made.graph, [], []
    for own in graph.initializer:
        entry = entries.get(own.name.removeprefix(PREFIX))
        if entry is None or entry["shape"] != list(own.dims):
            raise ValueError(f"{onnx_file}: {own.name} is not in {WEIGHTS} as it is here")
        half = entry["dtype"] == "F16"
        name = f"{own.name}.float16" if half else own.name
        first, last = entry["data_offsets"]
        shared.append(_external(name, own, start + first, last - first, TensorProto.FLOAT16 if half else own.data_type))
        if half:
            casts.append(helper.make_node("Cast", [name], [own.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    for field, content in ((graph.node, nodes), (graph.initializer, shared)):
        del field[:]
        field.extend(content)
    onnx_file.write_bytes(made.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(onnx_file))


def _external(name: str, own: TensorProto, offset: int, length: int, kind: int) -> TensorProto:
    from onnx import TensorProto

    tensor = TensorProto(name=name, dims=own.dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _header(weights: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the byte offset of a safetensors file's data, and ``dtype``, ``shape`` and ``data_offsets`` by name."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return LENGTH_BYTES + length, entries
