"""Speed and Dice of the inference engines: ``python -m benchmarks.inference --model ... --arrays ...``.

All engines predict the same images with a trained cell, alternately within one run: on a shared machine only ratios are
meaningful. 8-bit integers are calibrated on validation images. Dice is on the cell's validation and test images against
original masks; it decides only the shipped default.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks import show
from benchmarks.clock import Speed, Stopwatch, counts_processor_time
from benchmarks.quantise import quantise
from benchmarks.training import compared, rates, spread
from core import cli, terminal
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import write_json
from core.params import EvaluateParams, read_params
from core.provenance import hardware, versions
from model.inference import choice
from model.inference.engine import Engine, Pictures, Probabilities
from model.inference.engines import BATCH, ENGINES, EXACT, FASTEST, ONNX, OnnxEngine, OpenVinoEngine, Plain, TorchEngine
from model.inference.export import export
from model.inference.package import probabilities
from model.inference.predictor import Predictor
from model.inputs import autocast
from model.metrics import confusion, overlap_metrics
from model.weights import CONFIG, WEIGHTS

EAGER = "torch"
TARGET, TOLERANCE = 3.0, 0.001
INT8 = "model.int8.onnx"
CPU = torch.device("cpu")


class ChannelsFirst(Plain):
    """Eager PyTorch in the contiguous memory format."""

    def __init__(self, folder: Path, threads: int | None, name: str) -> None:
        self.name = name
        network = Predictor.load(folder).network
        self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @torch.inference_mode()
    def probabilities(self, images: Pictures) -> Probabilities:
        """See :class:`model.inference.engines.Engine`."""
        result = np.empty(images.shape, np.float32)
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(images[start : start + BATCH].copy())
            # With one channel a tensor is contiguous in both formats; these strides select the contiguous one.
            result[start : start + BATCH] = self.network((batch.float() / 255).unsqueeze(1)).sigmoid()[:, 0].numpy()
        return result


class LowPrecision(TorchEngine):
    """Eager PyTorch with autocast to bfloat16."""

    def probabilities(self, images: Pictures) -> Probabilities:
        """See :class:`model.inference.engines.Engine`."""
        with autocast(self.predictor.device, torch.bfloat16):
            return self.predictor.probabilities(images, BATCH)


@dataclass(frozen=True)
class Question:
    """The images for all engines.

    Attributes:
        timed: images to time, uint8 (N, S, S).
        scored: images, uint8 (M, S, S), and masks, uint8 (M, S, S), 0 or 1, by split.
        calibration: images to calibrate 8-bit integers, uint8 (K, S, S).
    """

    timed: np.ndarray
    scored: dict[str, tuple[np.ndarray, np.ndarray]]
    calibration: np.ndarray


def ask(arrays: Path, split: Path, images: int, calibration: int) -> Question:
    """Read a preprocessed cohort and a scenario's split; raises a UserError if they are missing or do not match."""
    cohort, ids = Arrays(arrays), read_split(split)
    rows = {name: cohort.rows(ids[name]) for name in ("validation", "test")}
    scored = {name: (cohort.images[at], cohort.masks["original"][at]) for name, at in rows.items()}
    return Question(cohort.images[rows["test"][:images]], scored, cohort.images[rows["validation"][:calibration]])


def prepare(model: Path, folder: Path, calibration: np.ndarray) -> None:
    """Write the engines' files to ``folder``: weights, configuration, and ONNX in float32 and 8 bits."""
    try:
        network = Predictor.load(model).network
        for name in (WEIGHTS, CONFIG):
            (folder / name).write_bytes((model / name).read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step first") from error
    export(network, folder / ONNX)
    quantise(folder / ONNX, calibration, folder / INT8)


def makers(compiled: bool) -> dict[str, Callable[[Path, int | None, str], Engine]]:
    """Return makers of all engines: the package's, and others for comparison."""
    shipped = {name: make for name, (_, make) in ENGINES.items() if compiled or name != "compile"}
    return {
        **shipped,
        "torch-nchw": ChannelsFirst,
        "torch-bf16": LowPrecision,
        "onnxruntime-int8": partial(OnnxEngine, file=INT8),
        "openvino-int8": partial(OpenVinoEngine, file=INT8, precision="bf16"),
    }


def measure(engines: dict[str, Engine], images: np.ndarray, rounds: int) -> dict[str, dict[str, list[Speed]]]:
    """Return the speed of every engine in each round, in batches and image by image.

    Each round has one turn per engine. Every other round is in reverse order, so that drift favours no engine.
    """
    found: dict[str, dict[str, list[Speed]]] = {name: {"batches": [], "single": []} for name in engines}
    few = images[: max(1, len(images) // 4)]
    for number in range(rounds + 1):  # the first round warms up
        for name in list(engines) if number % 2 == 0 else list(engines)[::-1]:
            watch = Stopwatch(CPU)
            engines[name].probabilities(images)
            batches = watch.stop(len(images))
            watch = Stopwatch(CPU)
            for image in few:
                engines[name].probabilities(image[None])
            single = watch.stop(len(few))
            if number:
                found[name]["batches"].append(batches)
                found[name]["single"].append(single)
    return found


def dice(engine: Engine, images: np.ndarray, masks: np.ndarray, params: EvaluateParams) -> float:
    """Return an engine's Dice as evaluate computes it, mean over images."""
    found = probabilities(engine, images, flip=params.flip)
    return float(np.nanmean(overlap_metrics(confusion(params.to_masks(found), masks))["dice"]))


def compare(
    engines: dict[str, Engine], seconds: dict[str, float], question: Question, rounds: int, params: EvaluateParams
) -> list[dict[str, Any]]:
    """Return one row per engine: images per second, ratio to eager, Dice by split, and difference to eager's Dice."""
    speeds = measure(engines, question.timed, rounds)
    scores = {
        name: {split: dice(engine, *given, params) for split, given in question.scored.items()}
        for name, engine in engines.items()
    }
    return [
        {
            "name": name,
            "start_seconds": seconds[name],
            "images_per_second": {how: spread(rates(taken)) for how, taken in speeds[name].items()},
            "to_eager": {how: compared(taken, speeds[EAGER][how]) for how, taken in speeds[name].items()},
            "dice": scores[name],
            "lost": {split: scores[EAGER][split] - value for split, value in scores[name].items()},
        }
        for name in engines
    ]


def chosen(milliseconds: dict[str, float]) -> dict[str, Any]:
    """Return the engine that ``auto`` selects from these times, if a package allows all engines or only float32."""
    found: dict[str, Any] = {"milliseconds": milliseconds}
    for name, allowed in (("all", (*EXACT, FASTEST)), ("float32", EXACT)):
        times = {engine: milliseconds[engine] for engine in allowed if engine in milliseconds}
        taken = choice.pick(allowed, times)
        found[name] = {"engine": taken, "reason": choice.describe(taken, allowed, times)}
    return found


def verdict(rows: list[dict[str, Any]], own: bool) -> dict[str, Any]:
    """Return the fastest engine with Dice within the tolerance of eager's, and whether the default meets its target."""

    def ratio(row: dict[str, Any]) -> float:
        of = row["to_eager"]["batches"]
        return float(of["own"]["median"] if own else of["median"])

    within = [row for row in rows if max(row["lost"].values()) <= TOLERANCE]
    (shipped,) = (row for row in rows if row["name"] == FASTEST)
    return {
        "target": TARGET,
        "tolerance": TOLERANCE,
        "fastest": max(within, key=ratio)["name"],
        "shipped": FASTEST,
        "ratio": ratio(shipped),
        "met": ratio(shipped) >= TARGET,
        "within": shipped in within,
    }


def main(
    model: Annotated[Path, typer.Option(help="A trained cell's folder.")],
    arrays: Annotated[Path, typer.Option(help="The preprocessed cohort.")] = Path("artifacts/arrays"),
    split: Annotated[Path, typer.Option(help="The split of the cell's scenario.")] = Path(
        "artifacts/splits/mixed.json"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each engine.")] = 7,
    images: Annotated[int, typer.Option(min=1, help="Test images of a turn.")] = 32,
    calibration: Annotated[int, typer.Option(min=1, help="Validation images for 8-bit integers, at most.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Of every engine.")] = 1,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Measure torch.compile too.")] = True,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/inference.json"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Measure PyTorch, torch.compile, ONNX Runtime and OpenVINO on a trained cell: images a second, and Dice."""
    choices = read_params(params).evaluate
    torch.set_num_threads(threads)
    question = ask(arrays, split, images, calibration)
    console = terminal.console(150)
    engines: dict[str, Engine] = {}
    seconds: dict[str, float] = {}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(model, folder, question.calibration)
        for name, make in makers(compiled).items():
            began = time.process_time()
            engines[name] = make(folder, threads, name)
            engines[name].ready()
            for batch in (BATCH, 1):
                engines[name].probabilities(question.timed[:batch])
            seconds[name] = time.process_time() - began
        side = int(question.timed.shape[1])
        milliseconds = choice.measure((FASTEST, *EXACT), engines.__getitem__, side)
        rows = compare(engines, seconds, question, rounds, choices)
    own = counts_processor_time(CPU)
    figures = {
        "settings": {
            "model": "/".join(model.parts[-3:]),
            "size": side,
            "images": len(question.timed),
            "calibration": len(question.calibration),
            "scored": {name: len(given[0]) for name, given in question.scored.items()},
            "threads": threads,
            "batch": BATCH,
            "flip_for_dice": choices.flip,
        },
        "hardware": hardware(),
        "versions": versions(("torch", "numpy", "onnxruntime", "openvino")),
        "engines": rows,
        "choice": chosen(milliseconds),
        "verdict": verdict(rows, own),
    }
    console.print(*show.inference(figures, own), sep="\n")
    write_json(out, figures)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main)
