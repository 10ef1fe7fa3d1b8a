"""The register step: register the best cell as a model version in MLflow, which may become challenger."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from components.register.build import CODE, REQUIREMENTS, build
from components.register.challenger import offer, registered_already
from components.register.description import describe_version
from core.cell import ROWS, SPLIT, SUMMARY, Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import read_json, sha256, write_json
from core.params import Params
from core.provenance import data_md5
from model.inference.package import CARD
from model.weights import CONFIG, WEIGHTS
from registry import CHALLENGER
from registry.fetch import PACKAGE
from registry.seal import PACKAGE_TAG, SIGNATURE, SIGNED_TAG, seal
from registry.versions import MANIFEST_TAG, SPLITS_TAG, splits_digest
from tracking.find import find_run
from tracking.store import answered, connect, explained
from tracking.unsent import send_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry.

    Attributes:
        name: the registered model.
        version: its number.
        alias: ``challenger``, or empty if another version stays challenger.
        uri: the URI for ``mlflow.pyfunc.load_model``.
        run_id: its MLflow run.
        network, scenario, seed: its cell.
        validation_dice, test_dice: means over images, original masks, 0 to 1.
    """

    name: str
    version: int
    alias: str
    uri: str
    run_id: str
    network: str
    scenario: str
    seed: int
    validation_dice: float
    test_dice: float


def register(models: Path, evaluations: Path, arrays: Path, params: Params, out: Path) -> RegisteredVersion:
    """Register the cell of ``register.scenario`` with the best validation Dice (mean over images, original masks).

    The cell's package is registered (:func:`components.register.build.build`), unless a version with the same weights
    and evaluation exists. ``register.challenger`` decides whether the version becomes challenger
    (:func:`components.register.challenger.offer`).

    Args:
        models: outputs of train, one folder per cell.
        evaluations: outputs of evaluate, one folder per cell.
        arrays: output of preprocess; statistics of the training images become part of the package.
        params: all parameters; the matrix has the cells, and the hash of all parameters becomes a tag.
        out: output file: the version as JSON.

    Raises:
        UserError: a cell or its evaluation is missing, they come from other parameters, data or weights than
            the current ones (:func:`registry.origin.origin_tags`), or the registry cannot be reached.
    """
    cell, figures = _best(evaluations, params)
    folder, evaluation = models / cell.folder, evaluations / cell.folder
    config, cohort = read_json(folder / CONFIG), Arrays(arrays)
    made_of, pinned = cohort.info.get("data_md5"), data_md5()
    if pinned and made_of and pinned != made_of:
        raise UserError(
            f"data.dvc pins {pinned}, {arrays} was made from {made_of}; run `dvc repro`, or `dvc checkout` after "
            "restoring data.dvc or dvc.lock"
        )
    client = connect(params.register_.experiment)
    send_unsent(folder)
    run_id = find_run(client, folder)
    name = params.register_.model
    with TemporaryDirectory() as scratch:
        package = build(folder, evaluation, arrays, params, Path(scratch) / PACKAGE)
        sealed = seal(package)
        tags = {
            **read_json(package / CARD)["lineage"],
            "network": cell.network,
            "scenario": cell.scenario,
            "seed": str(cell.seed),
            "cohort": config["cohort"]["name"],
            "synthetic": str(config["cohort"]["synthetic"]).lower(),
            "weights.sha256": sha256(folder / WEIGHTS),
            "evaluation.rows_sha256": sha256(evaluation / ROWS),
            SPLITS_TAG: splits_digest(read_split(evaluation / SPLIT)),
            PACKAGE_TAG: sealed,
            **({SIGNED_TAG: "true"} if (package / SIGNATURE).exists() else {}),
            MANIFEST_TAG: str(cohort.info["manifest_sha256"]),
            **_evaluation_tags(figures),
        }
        if known := registered_already(client, name, tags):
            number, run_id, verb = known.number, known.run_id, "is registered already as"
        else:
            example = cohort.images[0].astype(np.float32)
            number, run_id = _register(client, name, package, example, params, tags, run_id)
            verb = "is registered as"
        card = (package / "README.md").read_text()
    describe_version(client, name, number, card, params.register_.experiment)
    moved, why = offer(client, name, number, params.register_.challenger)
    version = RegisteredVersion(
        name=name,
        version=number,
        alias=CHALLENGER if moved else "",
        uri=f"models:/{name}@{CHALLENGER}" if moved else f"models:/{name}/{number}",
        run_id=run_id,
        **asdict(cell),
        validation_dice=figures["validation"]["original"]["dice"],
        test_dice=figures["test"]["original"]["dice"],
    )
    write_json(out, asdict(version))
    print(f"{cell.folder} {verb} {name} version {number}")
    print(f"{name} version {number} is {'' if moved else 'not '}{CHALLENGER}: {why}; {version.uri}")
    return version


def _register(
    client: MlflowClient,
    name: str,
    package: Path,
    example: np.ndarray,
    params: Params,
    tags: dict[str, str],
    run_id: str | None,
) -> tuple[int, str]:
    """Log a package as an MLflow model and register it; return the version's number and its run's id."""
    import mlflow

    with explained(f"run {run_id}"):
        trained = client.get_run(run_id).info if run_id else None
    with (
        answered(f"model {name}"),
        mlflow.start_run(run_id=run_id, run_name=None if run_id else f"register {name}") as run,
    ):
        info = _log_model(package, example, params)
        registered = mlflow.register_model(info.model_uri, name, tags={**tags, "run_id": run.info.run_id})
    if trained is not None and trained.end_time is not None:  # restore the end time of training
        with explained(f"model {name}"):
            client.set_terminated(trained.run_id, trained.status, trained.end_time)
    return int(registered.version), str(run.info.run_id)


def _best(evaluations: Path, params: Params) -> tuple[Cell, dict[str, Any]]:
    scenario = params.register_.scenario
    cells = [Cell(network, scenario, seed) for network in params.matrix.networks for seed in params.matrix.seeds]
    figures = {cell: read_json(evaluations / cell.folder / SUMMARY) for cell in cells}
    if lacking := [str(evaluations / cell.folder) for cell, found in figures.items() if "validation" not in found]:
        raise UserError(
            f"{lacking[0]}: it has no validation figures, which determine the best cell; "
            "add validation to evaluate.splits and run the evaluate step again"
        )
    # max returns the first of equals, in the matrix's order, so the choice is reproducible.
    best = max(cells, key=lambda cell: float(figures[cell]["validation"]["original"]["dice"]))
    return best, figures[best]


def _evaluation_tags(figures: dict[str, Any]) -> dict[str, str]:
    return {
        f"evaluation.{split}.{kind}.dice": f"{values['dice']:.6f}"
        for split, kinds in figures.items()
        for kind, values in kinds.items()
    }


def _log_model(package: Path, example: np.ndarray, params: Params) -> Any:
    import mlflow

    return mlflow.pyfunc.log_model(name="model", input_example=example, **pyfunc_arguments(package, params))


def pyfunc_arguments(package: Path, params: Params) -> dict[str, Any]:
    """Return the arguments of ``mlflow.pyfunc.log_model`` and ``save_model`` for a package."""
    return {
        "python_model": str(Path(__file__).with_name("pyfunc_model.py")),
        "artifacts": {PACKAGE: str(package)},
        "model_config": {"engine": "auto"},
        "code_paths": [str(package / CODE / "model")],
        "signature": _signature(params.evaluate.threshold),
        "pip_requirements": str(package / REQUIREMENTS),
        "metadata": {"input": "one grey chest X-ray, float32 (H, W), any size and range, lungs dark"},
    }


def _signature(threshold: float) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1))]),
        params=ParamSchema([ParamSpec("threshold", "double", threshold)]),
    )
