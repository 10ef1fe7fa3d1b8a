"""Ablation of the recipe: the shipped recipe against variants that remove or add one ingredient.

    python -m benchmarks.recipe artifacts/arrays artifacts/splits --scenario shenzhen-to-montgomery

Test images are not used. A variant is scored on the validation images of its training sites, unchanged and with
simulated domain shifts (:func:`shifted`). Rows are appended to ``--out``; a variant that has a row is not run again.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cohort import of_split
from benchmarks.loops import Task
from core import cli, terminal
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import params_hash, read_params
from model.inference.input_config import InputConfig
from model.inference.postprocessing import to_masks
from model.inference.predictor import Predictor
from model.metrics import confusion, overlap_metrics
from model.training.batches import Subset
from model.training.distributed import DistributedContext
from model.training.loop import Silent, Trainer
from model.training.recipe import TrainParams

Bytes = npt.NDArray[np.uint8]

NOISE = 0.05  # standard deviation of the noise shift, as a share of the grey range
JPEG_QUALITY = 20

_NO_TONE = {"gamma": 0.0, "contrast": 0.0, "brightness": 0.0, "histogram": 0.0}
_NO_FRAME = {"border": 0.0, "label": 0.0}
_PAPER = {"rotation": 0.2, "shift": 0.05, "shear": 0.05, "zoom": 0.05, "aspect": 0.0}
# Changes to the shipped recipe by variant, nested as in params.yaml.
VARIANTS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "without tone curves": {"augmentation": _NO_TONE},
    "without frames and letters": {"augmentation": _NO_FRAME},
    "with shade, noise, blur": {"augmentation": {"shade": 0.2, "noise": 0.05, "blur": 0.008}},
    "noise 0": {"augmentation": {"noise": 0.0}},
    "noise 0.03": {"augmentation": {"noise": 0.03}},
    "noise 0.1": {"augmentation": {"noise": 0.1}},
    "without opacities, veil, arm": {"augmentation": {"opacity": 0.0, "veil": 0.0, "arm": 0.0}},
    "with zoom 0.1": {"augmentation": {"zoom": 0.1}},
    "geometry alone": {"augmentation": _NO_TONE | _NO_FRAME},
    "paper's geometry alone": {"augmentation": _NO_TONE | _NO_FRAME | _PAPER},
    "without cross-entropy": {"loss": {"cross_entropy": 0.0}},
    "without the average of weights": {"ema": 0.0},
    "Adam without weight decay": {"optimizer": "adam", "weight_decay": 0.0},
    "BatchNorm recalibrated": {"recalibrate": True},
    "group norm": {"norm": "group"},
    "instance norm": {"norm": "instance"},
    "float32": {"precision": "float32"},
}


def shifted(images: Bytes, masks: Bytes) -> dict[str, tuple[Bytes, Bytes]]:
    """Return images and masks, uint8 (N, H, W) each, with simulated shifts to other X-ray machines, by shift.

    The shifts are fixed. None comes from the training's augmentation, although both imitate the same effects.
    """

    def each(change: Any) -> tuple[Bytes, Bytes]:
        return np.stack([change(image) for image in images]), masks

    def power(exponent: float) -> Any:
        table = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
        return lambda image: cv2.LUT(image, table)

    grain = np.random.default_rng(0).normal(0, NOISE * 255, images.shape[1:])

    def compressed(image: Bytes) -> Bytes:
        _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.uint8)

    equalise = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(4, 4)).apply
    side = images.shape[1]
    small, bottom = round(0.75 * side), round(0.9 * side)

    def collimated(image: Bytes, interpolation: int) -> Bytes:
        canvas = np.zeros_like(image)
        left = (side - small) // 2
        canvas[:small, left : left + small] = cv2.resize(image, (small, small), interpolation=interpolation)
        return canvas

    return {
        "dark": each(power(2.2)),
        "bright": each(power(0.45)),
        "flat": each(lambda image: (80 + image * 0.4).astype(np.uint8)),
        "equalised": each(lambda image: equalise(image).astype(np.uint8)),
        "noisy": each(lambda image: np.rint(image + grain).clip(0, 255).astype(np.uint8)),
        "JPEG": each(compressed),
        "blurred": each(lambda image: cv2.GaussianBlur(image, (0, 0), side / 80)),
        "black below": each(lambda image: np.where(np.arange(side)[:, None] < bottom, image, 0).astype(np.uint8)),
        "collimated": (
            np.stack([collimated(image, cv2.INTER_AREA) for image in images]),
            np.stack([collimated(mask, cv2.INTER_NEAREST) for mask in masks]),
        ),
        "dark, collimated": (
            np.stack([collimated(power(2.2)(image), cv2.INTER_AREA) for image in images]),
            np.stack([collimated(mask, cv2.INTER_NEAREST) for mask in masks]),
        ),
    }


def changed(params: TrainParams, changes: dict[str, Any]) -> TrainParams:
    """Return a recipe with some of its values replaced."""
    values = params.model_dump()
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return TrainParams.model_validate(values)


def score(predictor: Predictor, images: Bytes, masks: Bytes, flip: bool, components: int) -> float:
    """Return the mean Dice over images, 0 to 1."""
    predicted = to_masks(predictor.probabilities(images, flip=flip), 0.5, components)
    return float(overlap_metrics(confusion(predicted, masks))["dice"].mean())


def measure(
    params: TrainParams, network: str, train: Subset, validation: Subset, info: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train once; return the seconds and the validation Dice, with and without flip and components, and by shift."""
    world = DistributedContext.join()
    task = Task(network, params, train, validation, world.device, seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Trainer(task.build(), train, validation, params, seed, world, Path(folder), "", Silent()).run()
    seconds = time.monotonic() - start
    trained = task.build()
    trained.load_state_dict(result.weights)
    low, high = info["intensity_percentiles"]
    predictor = Predictor(trained, InputConfig(info["size"], info["interpolation"], (low, high)), world.device)
    shifts = {
        name: score(predictor, *pair, flip=True, components=2)
        for name, pair in shifted(validation.images, validation.masks).items()
    }
    return {
        "seconds": round(seconds, 1),
        "plain": score(predictor, validation.images, validation.masks, flip=False, components=0),
        "flip": score(predictor, validation.images, validation.masks, flip=True, components=0),
        "dice": score(predictor, validation.images, validation.masks, flip=True, components=2),
        "shifted": float(np.mean(list(shifts.values()))),
        **{f"shift: {name}": value for name, value in shifts.items()},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table, with each variant's difference to the shipped recipe."""
    columns = ["plain", "+ flip", "+ flip, 2 components", "difference", "shifted", "difference", "seconds"]
    title = "Validation Dice, mean over images, of the training sites"
    shown = terminal.table(title, ["scenario", "seed", "variant"], columns)
    base = {(row["scenario"], row["seed"]): row for row in rows if row["variant"] == "shipped"}
    for row in rows:
        against = base.get((row["scenario"], row["seed"]), row)
        differences = [f"{row[key] - against[key]:+.4f}" for key in ("dice", "shifted")]
        figures = [f"{row[key]:.4f}" for key in ("plain", "flip", "dice", "shifted")]
        shown.add_row(
            row["scenario"], str(row["seed"]), row["variant"], *figures[:3], differences[0], figures[3], differences[1],
            f"{row['seconds']:.0f}",
        )  # fmt: skip
    return shown


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    splits: Annotated[Path, typer.Argument(help="The frozen splits.")],
    scenario: Annotated[list[str], typer.Option(help="Repeatable.")],
    variant: Annotated[list[str] | None, typer.Option(help="Repeatable; without it, all.")] = None,
    network: Annotated[str, typer.Option()] = "defu_net",
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; 0 without it.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, appended to.")] = Path("build/recipe.jsonl"),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Train every variant and print what each ingredient brings."""
    shipped, cohort = read_params(params).train, Arrays(arrays)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    unknown = sorted(set(variant or ()) - set(VARIANTS))
    if unknown:
        raise UserError(f"--variant {', '.join(unknown)}: unknown; known are {', '.join(VARIANTS)}")
    # Rows of another network, recipe or size in the file belong to another measurement.
    base = {"network": network, "recipe": params_hash(shipped), "size": cohort.info["size"]}
    rows = [row for row in rows if {key: row.get(key) for key in base} == base]
    done = {(row["scenario"], row["seed"], row["variant"]) for row in rows}
    for where in scenario:
        ids = read_split(splits / f"{where}.json", where)
        for name in variant or VARIANTS:
            recipe = changed(shipped, VARIANTS[name])
            subsets = of_split(cohort, ids, recipe.masks)
            for number in seed or [0]:
                if (where, number, name) in done:
                    continue
                figures = measure(recipe, network, *subsets, cohort.info, number)
                row = {"scenario": where, "seed": number, "variant": name, **base, **figures}
                rows.append(row)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{where} seed {number} {name}: {row['dice']:.4f}, shifted {row['shifted']:.4f}", flush=True)
    Console(width=180).print(table(rows))


if __name__ == "__main__":
    cli.run(main)
