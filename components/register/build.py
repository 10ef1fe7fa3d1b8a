"""Build the model package of a trained and evaluated cell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import model as model_code
from components.register.card import describe, write_readme
from components.register.half import share_weights, stored_in_half
from components.register.quality import fit_quality
from components.register.statistics import describe_training
from components.register.view import fit_view
from core.cell import PROVENANCE, ROWS, SCORED, SPLIT
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import read_json, write_folder
from core.params import EvaluateParams, Params
from model.inference import golden
from model.inference.engines import ENGINES, EXACT, FASTEST, ONNX, start
from model.inference.package import CARD, CONTRACT, probabilities
from model.inference.view import VIEW
from model.metrics import confusion, overlap_metrics
from model.weights import CONFIG, WEIGHTS
from registry.origin import origin_tags

CODE = "code"
REQUIREMENTS = "requirements.txt"
# Requirements of the package's code and engines, pinned without torch's local version (+cpu, +cu128).
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "safetensors", "pydantic", "onnxruntime", "openvino")
LOOKED_AT = 100  # maximum number of validation images to predict
TOLERANCE = 0.001  # largest loss of Dice of the fastest engine


def build(
    model: Path,
    evaluation: Path,
    arrays: Path,
    params: Params,
    out: Path,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a cell's self-contained package; equal inputs give equal bytes.

    Weights in float16 (:func:`components.register.half.halve`) are stored once: the ONNX file reads them too.

    Args:
        model: output of train.
        evaluation: output of evaluate; its rows become part of the card, its split determines the training and
            validation images.
        arrays: output of preprocess, the same for both.
        params: all parameters; those of ``evaluate`` become part of the contract.
        out: output folder: weights, configuration, contract, ONNX file, model card, requirements and code.
        about: values of the card that replace the generated ones, such as ``name``.

    Returns:
        ``out``.

    Raises:
        UserError: the model, the evaluation or the arrays are missing, damaged, or do not match.
    """
    from model.inference.export import export
    from model.inference.predictor import Predictor
    from model.inputs import one_thread

    config = read_json(model / CONFIG)
    cohort, splits = Arrays(arrays), read_split(evaluation / SPLIT)
    try:
        predictor = Predictor.load(model)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step again") from error
    origin = origin_tags(model, evaluation, cohort, params)
    rows = {name: cohort.rows(ids) for name, ids in splits.items()}
    chosen = rows["validation"][:LOOKED_AT]
    masks = cohort.masks[config["train"]["masks"]]
    quality, holds = fit_quality(evaluation, config["train"]["masks"], flip=params.evaluate.flip)
    card = describe(config, cohort, splits, read_json(evaluation / ROWS), params, origin) | dict(about or {})
    card["expected_dice"] = holds
    half = stored_in_half(model / WEIGHTS)
    with write_folder(out) as folder:
        for name in (WEIGHTS, CONFIG, PROVENANCE):
            shutil.copyfile(model / name, folder / name)
        shutil.copyfile(evaluation / SCORED, folder / SCORED)
        export(predictor.network, folder / ONNX, config["in_channels"], fold=not half)
        if half:
            share_weights(folder / ONNX)
        torch = start(folder, "torch")
        with one_thread():  # equal bytes wherever it is built
            golden.write(folder, torch, config["input"]["size"])
        exact = probabilities(torch, cohort.images[chosen], flip=params.evaluate.flip)
        training = describe_training(
            cohort.manifest.iloc[rows["train"]], cohort.images[rows["train"]], masks[rows["train"]], exact
        )
        viewer = fit_view(cohort.images[rows["train"]])
        save_file(viewer.weights, folder / VIEW)
        contract: dict[str, Any] = {
            **config["input"],
            "polarity": "lungs dark",
            "minimum_size": int(min(training.height[0], training.width[0], config["input"]["size"])),
            "threshold": params.evaluate.threshold,
            "flip": params.evaluate.flip,
            "largest_components": params.evaluate.largest_components,
            "engines": _engines(folder, cohort.images[chosen], masks[chosen], exact, params.evaluate),
            "training": vars(training),
            "least_component": params.evaluate.least_component,
            "fill_holes": params.evaluate.fill_holes,
            "view": vars(viewer.limits),
            "quality": vars(quality),
        }
        for name, value in ((CONTRACT, contract), (CARD, card)):
            (folder / name).write_text(json.dumps(value, indent=1) + "\n")
        (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements()))
        write_readme(folder / "README.md", card, contract | {"in_channels": config["in_channels"], "half": half})
        ours = Path(str(model_code.__file__)).parent
        shutil.copytree(ours, folder / CODE / ours.name, ignore=shutil.ignore_patterns("__pycache__", "training"))
    return out


def _engines(
    folder: Path, images: np.ndarray, masks: np.ndarray, exact: np.ndarray, params: EvaluateParams
) -> list[str]:
    """Return the engines that ``auto`` may choose: the fastest only if its Dice is that of float32.

    Without bfloat16 instructions OpenVINO computes in float32, with the same Dice.
    """
    if any(find_spec(ENGINES[name][0]) is None for name in (FASTEST, *EXACT)):
        raise UserError(f"a package's engines need {', '.join(LIBRARIES)}; install requirements.lock")
    fast = probabilities(start(folder, FASTEST), images, flip=params.flip)
    dice, best = (np.nanmean(overlap_metrics(confusion(params.to_masks(p), masks))["dice"]) for p in (fast, exact))
    return [FASTEST, *EXACT] if dice >= best - TOLERANCE else list(EXACT)


def requirements() -> list[str]:
    """Return the package's requirements for pip, pinned to the installed versions."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in LIBRARIES]
