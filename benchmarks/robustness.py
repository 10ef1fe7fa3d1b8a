"""Dice on corrupted X-rays: five severities of noise, blur, gamma, contrast and JPEG.

    python -m benchmarks.robustness artifacts/arrays models/defu_net/mixed/seed-0 artifacts/splits/mixed.json

Test images are corrupted at the network's size, predicted, and scored against their original masks by section
``evaluate`` of ``params.yaml``. ``robustness.csv`` is written to the cell's evaluation. ``python -m
tools.publish.archive`` stores it with the rows, and the page of results draws the curves. After Hendrycks and
Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019, with other
severities.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import track

from core import cli
from core.cell import Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import write_file
from core.params import EvaluateParams, read_params
from core.terminal import table
from model.inference.predictor import Predictor
from model.metrics import confusion, overlap_metrics, paired_difference

Bytes = npt.NDArray[np.uint8]
FILE = "robustness.csv"
RESAMPLES = 2000

# The parameter of each severity, 1 to 5.
SEVERITIES: dict[str, tuple[float, ...]] = {
    "noise": (0.02, 0.04, 0.07, 0.1, 0.15),  # standard deviation, share of the grey range
    "blur": (0.003, 0.006, 0.01, 0.015, 0.02),  # standard deviation of the Gaussian, share of the side
    "gamma": (1.3, 1.7, 2.2, 2.8, 3.5),  # exponent of the grey values: above 1 is darker
    "contrast": (0.8, 0.6, 0.45, 0.3, 0.2),  # factors on the contrast around mid grey
    "jpeg": (50, 30, 20, 10, 5),  # quality
}


def corrupt(images: Bytes, corruption: str, severity: int) -> Bytes:
    """Return corrupted images.

    Args:
        images: uint8 (N, H, W), 0 to 255.
        corruption: a key of :data:`SEVERITIES`.
        severity: 1 to 5; 0 returns the images unchanged. All images get the same noise.
    """
    if severity == 0:
        return images
    amount, side = SEVERITIES[corruption][severity - 1], min(images.shape[1:])
    grain = np.random.default_rng(0).normal(0, 255, images.shape[1:]) if corruption == "noise" else 0

    def jpeg(image: Bytes) -> Any:
        _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(amount)])
        return cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)

    changes: dict[str, Callable[[Bytes], Any]] = {
        "noise": lambda image: image + amount * grain,
        "blur": lambda image: cv2.GaussianBlur(image, (0, 0), amount * side),
        "gamma": lambda image: 255 * (image / 255.0) ** amount,
        "contrast": lambda image: 127.5 + amount * (image - 127.5),
        "jpeg": jpeg,
    }
    return np.stack([np.rint(changes[corruption](image)).clip(0, 255).astype(np.uint8) for image in images])


def curves(
    predictor: Predictor, images: Bytes, masks: Bytes, sites: npt.NDArray[Any], params: EvaluateParams
) -> pd.DataFrame:
    """Return mean Dice over images by corruption, severity and site, with its 95 % bootstrap interval.

    Args:
        predictor: the trained network.
        images: uint8 (N, S, S), the network's inputs.
        masks: uint8 (N, S, S), 0 or 1.
        sites: (N,), names of the images' sites.
        params: section ``evaluate``, which defines how probabilities become masks.

    Returns:
        Columns ``corruption``, ``severity`` (0: clean), ``site`` (``all`` and each), ``dice``, ``low`` and ``high``.
    """
    rows = []
    clean: npt.NDArray[np.float64] | None = None
    steps = [(corruption, severity) for corruption in SEVERITIES for severity in range(6)]
    for corruption, severity in track(steps, "robustness", console=Console(stderr=True)):
        if severity or clean is None:
            changed = corrupt(images, corruption, severity)
            found = predictor.probabilities(changed, params.batch_size, flip=params.flip)
            dice = overlap_metrics(confusion(params.to_masks(found), masks))["dice"]
            clean = dice if clean is None else clean
        else:
            dice = clean
        for site in ["all", *sorted(set(sites))]:
            of = dice if site == "all" else dice[sites == site]
            mean, interval = paired_difference(of, np.zeros_like(of), resamples=RESAMPLES, seed=params.seed)
            low, high = interval or (float("nan"), float("nan"))
            rows.append((corruption, severity, site, mean, low, high))
    return pd.DataFrame(rows, columns=["corruption", "severity", "site", "dice", "low", "high"])


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    model: Annotated[Path, typer.Argument(help="The cell's trained model: .../<network>/<scenario>/seed-<seed>.")],
    split: Annotated[Path, typer.Argument(help="The scenario's frozen split.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The evaluations' folder; the file lies in the cell's own.")
    ] = Path("evaluations"),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Score a trained network on ever worse test images and write robustness.csv."""
    cell, cohort = Cell.of(model), Arrays(arrays)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        predictor = Predictor.load(model, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step again") from error
    if predictor.input_config.size != cohort.info["size"]:
        size = f"{predictor.input_config.size} pixels, the arrays have {cohort.info['size']}"
        raise UserError(f"{model}: trained at {size}; say the arrays that it was trained on")
    rows = cohort.rows(read_split(split, cell.scenario)["test"])
    sites = cohort.manifest["site"].to_numpy(str)[rows]
    found = curves(predictor, cohort.images[rows], cohort.masks["original"][rows], sites, read_params(params).evaluate)
    path = out / cell.folder / FILE
    with write_file(path) as partial:
        found.round(5).to_csv(partial, index=False)
    severities = ["clean", *map(str, range(1, 6))]
    shown = table(f"{cell.folder}: mean test Dice by severity, original masks", ["corruption"], severities)
    for corruption in SEVERITIES:
        line = found[(found["corruption"] == corruption) & (found["site"] == "all")].sort_values("severity")
        shown.add_row(corruption, *(f"{dice:.4f}" for dice in line["dice"]))
    Console(width=100).print(shown)
    print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
