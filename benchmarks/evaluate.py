"""CPU time of scoring, before and now: ``python -m benchmarks.evaluate``.

Both score the same predictions alternately within one run: on a shared machine only ratios are meaningful. For a cell,
each image is scored against two kinds of masks, and the ROC AUC is pooled over every site and label. Both exclude the
bootstrap, which has not changed, and the network, which is measured separately. Only the new scoring includes soft
Dice, expected Dice and the agreement of two predictions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import torch
import typer
from rich.table import Table

from benchmarks import cohort, scoring_before
from benchmarks.training import spread
from components.evaluate.scores import Scores
from core import cli, terminal
from core.cohort import Arrays
from core.errors import UserError
from core.files import write_json
from core.params import Params, read_params
from core.provenance import hardware, versions
from model import networks
from model.curves import auc_of, class_histogram
from model.inference.input_config import InputConfig
from model.inference.predictor import Predictor
from model.metrics import agreement, confusion, overlap_metrics
from model.preprocessing import dilate
from model.surface import surface_distances

TARGET = 6.0
BATCH = 16
Turn = Callable[[], Any]


@dataclass(frozen=True)
class Cell:
    """The predictions of a cell: N images with their metadata and their masks of both kinds.

    Attributes:
        manifest: id, site, label, sex and age of the N images.
        images: uint8 (N, S, S).
        probabilities: float32 (N, S, S), 0 to 1.
        mirrored: float32 (N, S, S), the probabilities of the mirrored images.
        predicted: uint8 (N, S, S), 0 or 1.
        masks: {kind: uint8 (N, S, S), 0 or 1}.
    """

    manifest: pd.DataFrame
    images: np.ndarray
    probabilities: np.ndarray
    mirrored: np.ndarray
    predicted: np.ndarray
    masks: dict[str, np.ndarray]

    @property
    def groups(self) -> list[np.ndarray]:
        """Images of each site and label, including all sites and all labels, bool (N,) each; no empty groups."""
        sites, labels = self.manifest["site"], self.manifest["label"]
        found = []
        for site in ("all", *sorted(sites.unique())):
            for label in ("all", *sorted(labels.unique())):
                chosen = np.ones(len(sites), bool) if site == "all" else (sites == site).to_numpy(bool)
                found.append(chosen if label == "all" else chosen & (labels == label).to_numpy(bool))
        return [chosen for chosen in found if chosen.any()]


def read_cell(arrays: Path | None, images: int, size: int, params: Params, seed: int = 0) -> Cell:
    """Return images with simulated predictions: wrong only at the outline and confident elsewhere.

    Args:
        arrays: a preprocessed cohort; None: synthetic X-rays.
        images: number of images.
        size: side of synthetic X-rays in pixels.
        params: parameters of the masks and their dilation.
        seed: seed of the predictions' errors.

    Raises:
        UserError: the cohort has too few images.
    """
    if arrays is None:
        subset, _ = cohort.drawn(params, size, images, 1)
        grey, original = subset.images, subset.masks
        dilated = np.stack([dilate(mask, params.preprocess.dilation) for mask in original])
    else:
        held = Arrays(arrays)
        if len(held.images) < images:
            raise UserError(f"{arrays}: holds {len(held.images)} images; lower --images")
        rows = np.random.default_rng(seed).permutation(len(held.images))[:images]
        grey, original, dilated = (part[rows] for part in (held.images, *held.masks.values()))
    random = np.random.default_rng(seed)
    one, other = (np.stack([_prediction(mask, random) for mask in original]) for _ in range(2))
    people = {"site": np.resize(["one", "two"], images), "label": np.resize(["a", "a", "b", "b"], images)}
    manifest = pd.DataFrame({"id": [f"{n:04d}" for n in range(images)], **people, "sex": "F", "age": 40.0})
    masks = {"original": np.asarray(original), "dilated": np.asarray(dilated)}
    return Cell(manifest, np.asarray(grey), one, other, params.evaluate.to_masks(one), masks)


def _prediction(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return probabilities whose outline is off by a few hundredths of the side."""
    side = len(mask)
    offset = cv2.GaussianBlur(random.normal(0, 1, mask.shape).astype(np.float32), (0, 0), side / 16)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), side / 64) + 0.15 * offset / offset.std() - 0.5
    rated: np.ndarray = 1 / (1 + np.exp(-24 * soft + random.normal(0, 0.5, mask.shape)))
    return rated.astype(np.float32)


def parts(cell: Cell) -> dict[str, tuple[Turn, Turn]]:
    """Return the old and the new function of each part of scoring, on the same predictions."""
    p, m, said = cell.predicted, cell.masks["original"], cell.probabilities

    def areas_before() -> np.ndarray:
        return np.array([scoring_before.roc_auc(*pair) for pair in zip(said, m, strict=True)])

    def areas() -> np.ndarray:
        return np.array([auc_of(class_histogram(*pair)) for pair in zip(said, m, strict=True)])

    return {
        "confusion": (lambda: scoring_before.confusion(p, m), lambda: confusion(p, m)),
        "distances": (lambda: scoring_before.surface_distances(p, m), lambda: surface_distances(p, m)),
        "ROC area": (lambda: {"auc": areas_before()}, lambda: {"auc": areas()}),
        "whole cell": (lambda: whole_before(cell), lambda: whole(cell)),
    }


def whole_before(cell: Cell) -> list[float]:
    """Score a cell as evaluate did before; return the pooled ROC AUC of each group and kind of masks."""
    pooled = []
    for masks in cell.masks.values():
        overlap_metrics(scoring_before.confusion(cell.predicted, masks))
        for pair in zip(cell.probabilities, masks, strict=True):
            scoring_before.roc_auc(*pair)
        scoring_before.surface_distances(cell.predicted, masks)
        pooled += [scoring_before.roc_auc(cell.probabilities[chosen], masks[chosen]) for chosen in cell.groups]
    return pooled


def whole(cell: Cell) -> list[float]:
    """Score a cell as evaluate does, batch by batch; return the pooled ROC AUC of each group and kind of masks."""
    every = {kind: Scores("test", kind) for kind in cell.masks}
    for start in range(0, len(cell.images), BATCH):
        at = slice(start, start + BATCH)
        agreed = agreement(cell.probabilities[at] >= 0.5, cell.mirrored[at] >= 0.5)
        for kind, scores in every.items():
            batch = (cell.probabilities[at], cell.predicted[at], cell.masks[kind][at])
            scores.add(cell.manifest[at], *batch, {"mirror_agreement": agreed})
    pooled = []
    for scores in every.values():
        cases = scores.cases
        pooled += [auc_of(scores.histogram(cases[chosen])) for chosen in cell.groups]
    return pooled


def measure(cell: Cell, rounds: int) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of CPU time per image and round, old and new, and the speed-up.

    Every other round is in reverse order, so that drift favours neither.
    """
    turns = parts(cell)
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in turns}
    for number in range(rounds + 1):  # the first round warms up
        for name, pair in turns.items():
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                began = time.process_time()
                pair[which]()
                if number:
                    taken[name][which].append(1e3 * (time.process_time() - began) / len(cell.images))
    return {
        name: {
            "before": spread(before),
            "now": spread(now),
            "ratio": spread([old / new for old, new in zip(before, now, strict=True)]),
        }
        for name, (before, now) in taken.items()
    }


def differences(cell: Cell) -> dict[str, float]:
    """Return the largest difference between old and new figures, for every part."""
    found = {}
    for name, (before, now) in parts(cell).items():
        old, new = before(), now()
        pairs = [(old, new)] if isinstance(old, list) else [(old[key], new[key]) for key in old]
        found[name] = max(float(np.nanmax(np.abs(np.subtract(*pair)))) for pair in pairs)
    return found


def network_time(cell: Cell, model: Path | None, params: Params) -> tuple[str, float]:
    """Return the network's name and its milliseconds of CPU time per image, predicted as is and mirrored.

    Args:
        cell: its images are predicted.
        model: folder of a trained model; None: an untrained DEFU-Net.
        params: parameters of the network.

    Raises:
        UserError: the model cannot be loaded.
    """
    size, name = cell.images.shape[1], "/".join(model.parts[-3:]) if model else "defu_net, not trained"
    try:
        predictor = (
            Predictor.load(model)
            if model
            else Predictor(networks.build("defu_net", params.train.width), InputConfig(size, "area", (0.5, 99.5)))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step first") from error
    batch = cell.images[:BATCH]
    predictor.both_ways(batch)
    began = time.process_time()
    predictor.both_ways(batch)
    return name, 1e3 * (time.process_time() - began) / len(batch)


def table(figures: dict[str, Any]) -> Table:
    """Return the figures of :func:`measure` as a table."""
    columns = ["before", "now", "times faster", "least to most", "largest difference"]
    title = "Scoring, ms of processor time a picture: medians over rounds"
    shown = terminal.table(title, ["part"], columns)
    for name, row in figures["parts"].items():
        ratio = row["ratio"]
        cells = [f"{row[way]['median']:.3f}" for way in ("before", "now")]
        cells += [f"{ratio['median']:.1f}", f"{ratio['least']:.1f} to {ratio['most']:.1f}"]
        shown.add_row(name, *cells, f"{figures['differences'][name]:.1e}")
    return shown


def main(
    arrays: Annotated[Path | None, typer.Option(help="A preprocessed cohort; else computed X-rays are drawn.")] = None,
    model: Annotated[Path | None, typer.Option(help="A trained cell's folder, for the network's time.")] = None,
    images: Annotated[int, typer.Option(min=4, help="Pictures of the cell.")] = 100,
    size: Annotated[int, typer.Option(min=32, help="Side of computed X-rays, pixels.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 7,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/evaluate.json"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Measure scoring as it was and as it is, on the same predictions: counts, distances, ROC areas, a whole cell."""
    torch.set_num_threads(1)
    choices = read_params(params)
    cell = read_cell(arrays, images, size, choices)
    name, network = network_time(cell, model, choices)
    measured = measure(cell, rounds)
    ratio = measured["whole cell"]["ratio"]["median"]
    side = cell.images.shape[1]
    figures: dict[str, Any] = {
        "settings": {"images": images, "size": side, "rounds": rounds, "network": name},
        "hardware": hardware(),
        "versions": versions(("torch", "numpy", "scipy", "monai", "torchmetrics")),
        "parts": measured,
        "differences": differences(cell),
        "network_ms": network,
        "verdict": {"target": TARGET, "ratio": ratio, "met": ratio >= TARGET},
    }
    console = terminal.console(150)
    machine, verdict = figures["hardware"], figures["verdict"]
    lines = [
        f"{images} pictures of {side} x {side}; {machine['cpu']}, one thread",
        table(figures),
        f"whole cell: {ratio:.1f} times faster, target {TARGET:g}: {'met' if verdict['met'] else 'NOT met'}",
        f"the network beside it ({name}, both ways round): {network:.1f} ms a picture, the same before and now",
    ]
    console.print(*lines, sep="\n")
    write_json(out, figures)
    console.print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main)
