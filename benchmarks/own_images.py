"""Dice on a site against the number of its training images, from random weights and from another site's model.

    make profile PROFILE=comparison && dvc repro preprocess
    python -m components.train ... shenzhen-to-montgomery       # the model to start from
    python -m benchmarks.own_images artifacts/arrays montgomery models/defu_net/shenzhen-to-montgomery/seed-0

A repeat draws ``--tested`` images of the site for the test. Own images come from the rest, in one order, so that 32
images include the 16. An eighth of them is the validation split, which selects the epoch. The model to start from must
not be trained on the site. Each training run uses the train step and resumes from its checkpoints. Rows are appended
to ``--out``; runs that have a row are not run again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from components.train import train
from components.train.start import RANDOM
from core import cli
from core.cell import Cell
from core.cohort import Arrays
from core.errors import UserError
from core.files import read_json, sha256, write_json
from core.params import EvaluateParams, params_hash, read_params
from model.inference.predictor import Predictor
from model.metrics import confusion, overlap_metrics
from model.training.recipe import TrainParams
from model.weights import CONFIG, WEIGHTS

TESTED = 15
VALIDATION_SHARE = 1 / 8
SIZES = (16, 32, 64, 123)
UNCHANGED, FINE_TUNED, SCRATCH = "unchanged", "fine-tuned", "from random weights"
# A pretrained model needs smaller steps, and fewer of them.
FINE_TUNING: dict[str, Any] = {"learning_rate": 0.0005}
SHARE_OF_EPOCH = 0.5


def draw(ids: list[str], size: int, repeat: int, tested: int = TESTED) -> dict[str, list[str]]:
    """Return the splits of one training run, by name.

    Args:
        ids: the site's images.
        size: number of own images, training and validation together.
        repeat: seed of the draw.
        tested: number of test images.

    Raises:
        UserError: the site has fewer than ``size`` + ``tested`` images.
    """
    if size + tested > len(ids):
        raise UserError(f"{size} own images and {tested} test images are more than the site's {len(ids)}: say fewer")
    order = [ids[at] for at in np.random.default_rng(repeat).permutation(len(ids))]
    own = order[tested : tested + size]
    held = max(2, round(VALIDATION_SHARE * size))
    return {"train": own[held:], "validation": own[:held], "test": order[:tested]}


def score(model: Path, cohort: Arrays, ids: list[str], params: EvaluateParams) -> list[float]:
    """Return the Dice of each image, at the network's size, against the original masks."""
    predictor, at = Predictor.load(model, torch.device("cpu")), cohort.rows(ids)
    if predictor.input_config.size != cohort.info["size"]:
        raise UserError(f"{model}: is for {predictor.input_config.size} pixels, the arrays have {cohort.info['size']}")
    found = predictor.probabilities(cohort.images[at], params.batch_size, flip=params.flip)
    dice = overlap_metrics(confusion(params.to_masks(found), cohort.masks["original"][at]))["dice"]
    return [round(float(each), 5) for each in dice]


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the mean Dice over the images of all repeats, and the lowest, by number of own images."""
    frame = pd.DataFrame(rows)
    shown = Table(title=f"Test Dice, {frame['repeat'].nunique()} x {len(frame['dice'].iloc[0])} images")
    for name in ("own images", "start", "mean", "by repeat", "least", "seconds"):
        shown.add_column(name, justify="left" if name == "start" else "right")
    for (size, start), group in frame.sort_values("repeat").groupby(["own_images", "start"], sort=True):
        every = np.concatenate(group["dice"].tolist())
        means = " ".join(f"{np.mean(each):.4f}" for each in group["dice"])
        seconds = f"{group['seconds'].mean():.0f}"
        shown.add_row(str(size), str(start), f"{every.mean():.4f}", means, f"{every.min():.3f}", seconds)
    return shown


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    site: Annotated[str, typer.Argument(help="The site whose images are the own ones.")],
    model: Annotated[Path, typer.Argument(help="A trained model (output of train) that has not seen the site.")],
    sizes: Annotated[list[int] | None, typer.Option("--size", help="Numbers of own images; repeatable.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of images.")] = 3,
    tested: Annotated[int, typer.Option(min=1, help="Test images in each draw.")] = TESTED,
    seed: Annotated[int, typer.Option(help="Seed of the training runs.")] = 0,
    work: Annotated[Path, typer.Option(help="Models and checkpoints.")] = Path("build/own-images"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, appended to.")] = Path(
        "results/own-images.jsonl"
    ),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Train on few own images, from random weights and from a model, and print Dice against their number."""
    chosen, cohort = read_params(params), Arrays(arrays)
    ids = cohort.manifest.loc[cohort.manifest["site"] == site, "id"].tolist()
    if not ids:
        raise UserError(f"{arrays}: no site {site!r}; there are {', '.join(sorted(set(cohort.manifest['site'])))}")
    config, seen = read_json(model / CONFIG), site in _trained_on(model, chosen.scenarios)
    if seen:
        raise UserError(f"{model}: was trained on {site}; start from a model that has not seen the site")
    epoch = chosen.train.images_per_epoch or len(ids)
    tuned = {"start_from": str(model.resolve()), "images_per_epoch": round(SHARE_OF_EPOCH * epoch), **FINE_TUNING}
    recipes = {FINE_TUNED: tuned, SCRATCH: {"start_from": RANDOM}}
    base = {
        "network": config["network"], "site": site, "seed": seed, "recipe": params_hash(chosen.train),
        "size": cohort.info["size"], "tested": tested, "model": sha256(model / WEIGHTS),
    }  # fmt: skip
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    rows = [row for row in rows if {key: row.get(key) for key in base} == base]
    done = {(row["repeat"], row["own_images"], row["start"]) for row in rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(work / 'mlflow.db').resolve()}")

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        with out.open("a") as file:
            file.write(json.dumps(base | row) + "\n")
        print(f"repeat {row['repeat']}, {row['own_images']} own images, {row['start']}: {np.mean(row['dice']):.4f}")

    for repeat in range(repeats):
        if (repeat, 0, UNCHANGED) not in done:
            test = draw(ids, 0, repeat, tested)["test"]
            dice = score(model, cohort, test, chosen.evaluate)
            keep({"repeat": repeat, "own_images": 0, "start": UNCHANGED, "seconds": 0.0, "dice": dice})
        for start, changes in recipes.items():
            for size in sizes or SIZES:
                if (repeat, size, start) in done:
                    continue
                recipe = TrainParams.model_validate(chosen.train.model_dump() | changes)
                folder = work / f"repeat-{repeat}" / start.replace(" ", "-") / str(size)
                split = draw(ids, size, repeat, tested)
                write_json(folder / "split.json", split)
                cell = Cell(config["network"], f"{site}-{size}", seed)
                trained = folder / "model" / cell.folder
                train(cell, arrays, folder / "split.json", recipe, "own-images", trained, folder / "checkpoints")
                dice = score(trained, cohort, split["test"], chosen.evaluate)
                seconds = read_json(trained / "run.json")["seconds"]
                keep({"repeat": repeat, "own_images": size, "start": start, "seconds": seconds, "dice": dice})
    Console(width=100).print(table(rows))


def _trained_on(model: Path, scenarios: dict[str, Any]) -> list[str]:
    """Return the training sites of a trained cell; raises UserError if its scenario is unknown."""
    name = read_json(model / CONFIG)["scenario"]
    if name not in scenarios:
        raise UserError(f"{model}: scenario {name} is not in the parameters: say with --params those of its training")
    return list(scenarios[name].train)


if __name__ == "__main__":
    cli.run(main)
