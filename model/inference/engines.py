"""Inference engines: PyTorch (eager or compiled), ONNX Runtime, OpenVINO."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from model.inference.choice import choose
from model.inference.engine import Engine, Pictures, Probabilities, batches
from model.measured import cpu
from model.threads import wanted
from model.weights import CONFIG

ONNX = "model.onnx"
BATCH = 8  # images per batch
NAMED = "chosen by name"

logger = logging.getLogger(__name__)


def to_array(images: Pictures) -> npt.NDArray[np.float32]:
    """Convert images, uint8 (N, S, S), to the network's input, float32 (N, 1, S, S), 0 to 1."""
    # NumPy's division by a scalar rounds like PyTorch's.
    return images[:, None].astype(np.float32) / np.float32(255)


def _sigmoid(logits: npt.NDArray[np.float32]) -> Probabilities:
    # tanh does not overflow.
    p: Probabilities = np.tanh(logits * np.float32(0.5)) * np.float32(0.5) + np.float32(0.5)
    return p


def _full_batches(images: Pictures) -> Iterator[slice]:
    """Yield batches of :data:`BATCH` images, then the rest one by one: engines are compiled for these two sizes."""
    whole = len(images) - len(images) % BATCH
    yield from batches(whole, BATCH)
    for at in range(whole, len(images)):
        yield slice(at, at + 1)


class Plain:
    """Base of most engines: chosen by name, and ready after construction."""

    reason = NAMED

    def ready(self) -> None:
        """See :class:`Engine`."""


class TorchEngine(Plain):
    """PyTorch, eager or through ``torch.compile``.

    PyTorch has one number of threads per process, so ``threads`` applies to the whole process.
    """

    def __init__(self, folder: Path, threads: int | None, name: str, *, compiled: bool = False) -> None:
        import torch
        from torch import nn

        from model.inference.predictor import Predictor

        self.name = name
        if threads is not None:
            torch.set_num_threads(threads)
        self.predictor = Predictor.load(folder)
        self.lock = threading.Lock()
        self.compiled = compiled
        if compiled:
            self.predictor.network = cast(nn.Module, torch.compile(self.predictor.network, dynamic=False))

    def probabilities(self, images: Pictures) -> Probabilities:
        """See :class:`Engine`."""
        if not self.compiled:
            return self.predictor.probabilities(images, BATCH)
        # Compiling a shape takes seconds, so only two are used. Tracing is not thread-safe.
        result = np.empty(images.shape, np.float32)
        with self.lock:
            for part in _full_batches(images):
                result[part] = self.predictor.probabilities(images[part], BATCH)
        return result


class OnnxEngine(Plain):
    """ONNX Runtime on the CPU; ``file`` is an ONNX file of the package."""

    def __init__(self, folder: Path, threads: int | None, name: str, file: str = ONNX) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or wanted()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take CPU time from other processes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # With a fixed size, constant folding removes the graph's padding and cropping.
        for side in ("height", "width"):
            options.add_free_dimension_override_by_name(side, _side(folder))
        try:
            self.session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise RuntimeError(f"{file}: {error}") from error
        (given,) = self.session.get_inputs()
        self.given = given.name

    def probabilities(self, images: Pictures) -> Probabilities:
        """See :class:`Engine`."""
        result = np.empty(images.shape, np.float32)
        for part in batches(len(images), BATCH):
            (logits,) = self.session.run(None, {self.given: to_array(images[part])})
            result[part] = _sigmoid(logits[:, 0])
        return result


class OpenVinoEngine(Plain):
    """OpenVINO on the CPU, compiled for one size and batches of 1, and for :data:`BATCH` after :meth:`ready`.

    Dynamic shapes take twice as long, and int8 is not faster than float32.

    Args:
        folder: the package.
        threads: maximum number of threads; None: :func:`model.threads.wanted`.
        name: name of the engine.
        file: an ONNX file of the package.
        precision: ``f32``, or ``bf16``, which falls back to float32 on a CPU without bfloat16.
    """

    def __init__(self, folder: Path, threads: int | None, name: str, file: str = ONNX, precision: str = "f32") -> None:
        # With this package OpenVINO reports every use to Google Analytics; without it there is no telemetry.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino  # type: ignore[import-untyped]

        self.name = name
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or wanted(),
        }
        core, side = openvino.Core(), _side(folder)

        def compiled(batch: int) -> Any:
            model = core.read_model(folder / file)
            model.reshape([batch, 1, side, side])
            return core.compile_model(model, "CPU", settings)

        self.compiled = compiled
        self.models = {1: compiled(1)}
        self.own = threading.local()  # an infer request is not thread-safe

    def ready(self) -> None:
        """See :class:`Engine`."""
        if BATCH not in self.models:
            self.models[BATCH] = self.compiled(BATCH)
            self.own = threading.local()  # existing requests are only for the model of one image

    def probabilities(self, images: Pictures) -> Probabilities:
        """See :class:`Engine`; call :meth:`ready` before :data:`BATCH` images or more."""
        if not hasattr(self.own, "requests"):
            self.own.requests = {batch: model.create_infer_request() for batch, model in self.models.items()}
        result = np.empty(images.shape, np.float32)
        for part in _full_batches(images):
            batch = to_array(images[part])
            result[part] = _sigmoid(self.own.requests[len(batch)].infer([batch])[0][:, 0])
        return result


def _side(folder: Path) -> int:
    """Return the side of a package's input in pixels."""
    side: int = json.loads((folder / CONFIG).read_text())["input"]["size"]
    return side


Maker = Callable[[Path, int | None, str], Engine]
# The engines by name, with the additional library that each needs.
ENGINES: dict[str, tuple[str, Maker]] = {
    "torch": ("torch", TorchEngine),
    "compile": ("torch", partial(TorchEngine, compiled=True)),
    "onnxruntime": ("onnxruntime", OnnxEngine),
    "openvino": ("openvino", OpenVinoEngine),
    "openvino-bf16": ("openvino", partial(OpenVinoEngine, precision="bf16")),
}
# In order of speed, as measured by `python -m benchmarks.inference`.
FASTEST = "openvino-bf16"
EXACT = ("openvino", "onnxruntime", "torch")  # engines that compute in float32


def start(folder: Path, name: str = "auto", threads: int | None = None, order: Sequence[str] = EXACT) -> Engine:
    """Start an engine on a package.

    Args:
        folder: a package (:mod:`model.inference.package`).
        name: a key of :data:`ENGINES`, or ``auto``: the fastest of ``order`` on this machine
            (:mod:`model.inference.choice`), with preference for float32 if it is nearly as fast. A warning is logged if
            a library is missing.
        threads: maximum number of threads; None: :func:`model.threads.wanted`, for PyTorch its own setting.
        order: the engines that ``auto`` may choose.

    Raises:
        ValueError: the name is unknown, or the engine's library is not installed.
        OSError, RuntimeError, KeyError, TypeError: the package's files are missing or damaged.
    """
    if name == "auto":
        return _fastest(folder, threads, order)
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; known are auto, {', '.join(ENGINES)}")
    if not _installed(name):
        raise ValueError(f"engine {name}: {ENGINES[name][0]} is not installed; choose another engine or auto")
    engine = ENGINES[name][1](folder, threads, name)
    engine.ready()
    return engine


def _fastest(folder: Path, threads: int | None, order: Sequence[str]) -> Engine:
    names = [engine for engine in order if _installed(engine)] or ["torch"]
    missing = dict.fromkeys(ENGINES[engine][0] for engine in order if not _installed(engine))
    # Importing PyTorch takes longer than all measurements, and the other engines are known to be faster.
    timed = [engine for engine in names if ENGINES[engine][0] != "torch" or "torch" in sys.modules] or names
    if len(timed) == 1:
        engine, reason = start(folder, timed[0], threads), "nothing else to choose from"
    else:
        key = f"{cpu()}, {threads or wanted()} threads; {_versions(timed)}; {_network(folder)}"
        before = _torch_threads()
        engine, reason = choose(timed, EXACT, lambda each: ENGINES[each][1](folder, threads, each), key, _side(folder))
        if before and ENGINES[engine.name][0] != "torch":
            sys.modules["torch"].set_num_threads(before)  # the timing has changed it
        engine.ready()
    engine.reason = reason
    if missing:
        libraries = " and ".join(missing)
        logger.warning("%s not installed: computing with %s, which may be slower", libraries, engine.name)
    return engine


def _torch_threads() -> int | None:
    """Return PyTorch's number of threads, None if it is not imported."""
    return int(sys.modules["torch"].get_num_threads()) if "torch" in sys.modules else None


def _installed(engine: str) -> bool:
    return find_spec(ENGINES[engine][0]) is not None


def _versions(names: Sequence[str]) -> str:
    """Return the libraries of the engines with their versions."""
    found = {}
    for library in sorted({ENGINES[name][0] for name in names}):
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # built from source, or installed under another name
            found[library] = "?"
    return ", ".join(f"{library} {number}" for library, number in found.items())


def _network(folder: Path) -> str:
    """Return the architecture of a package's network and the size of its input."""
    config = json.loads((folder / CONFIG).read_text())
    built = {key: config.get(key) for key in ("network", "width", "in_channels", "norm", "options")}
    return f"{json.dumps(built, sort_keys=True)} at {_side(folder)}"
