"""Offer the best trained cell for production: a model version in the MLflow registry, alias ``challenger``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import model as model_package
from components.cohort import Arrays
from components.files import read_json, sha256, write_json
from components.params import Params, params_hash
from components.provenance import data_md5, git_state
from components.results import CONFIG, ROWS, SUMMARY, Cell
from components.tracking import connect, explained, find_run

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CHALLENGER = "challenger"
# What the model's own code imports: the registered version is loaded with these and nothing of the pipeline.
REQUIREMENTS = ("torch", "numpy", "opencv-python-headless", "safetensors", "pydantic")


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry: ``uri`` is what ``mlflow.pyfunc.load_model`` takes."""

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

    Args:
        models: the folder of all cells' models.
        evaluations: the folder of all cells' evaluations.
        arrays: the preprocessed cohort, for the input example.
        params: all parameters: the matrix says which cells count, and the whole's hash becomes a tag.
        out: the file to write: the version as JSON.

    Raises:
        UserError: a cell or its evaluation is missing, or the registry cannot be reached.
    """
    import mlflow

    cell, figures = _best(evaluations, params)
    folder = models / cell.folder
    config = read_json(folder / CONFIG)
    client = connect(params.register_.experiment)
    commit, dirty = git_state()
    run_id = find_run(client, folder)
    name = params.register_.model
    with (
        explained(f"model {name}"),
        mlflow.start_run(run_id=run_id, run_name=None if run_id else f"register {name}") as run,
    ):
        example = Arrays(arrays).images[0].astype(np.float32)
        info = _log_model(folder, example, params)
        tags = {
            "git.commit": commit or "unknown",
            "git.dirty": str(dirty).lower(),
            "data.md5": data_md5() or "not pinned",
            "params.hash": params_hash(params),
            "run_id": run.info.run_id,
            "network": cell.network,
            "scenario": cell.scenario,
            "seed": str(cell.seed),
            "cohort": config["cohort"]["name"],
            "synthetic": str(config["cohort"]["synthetic"]).lower(),
            "weights.sha256": sha256(folder / "weights.safetensors"),
            "evaluation.rows_sha256": sha256(evaluations / cell.folder / ROWS),
            **_evaluation_tags(figures),
        }
        registered = mlflow.register_model(info.model_uri, name, tags=tags)
        client.set_registered_model_alias(name, CHALLENGER, registered.version)
    version = RegisteredVersion(
        name=name,
        version=int(registered.version),
        alias=CHALLENGER,
        uri=f"models:/{name}@{CHALLENGER}",
        run_id=run.info.run_id,
        **asdict(cell),
        validation_dice=figures["validation"]["original"]["dice"],
        test_dice=figures["test"]["original"]["dice"],
    )
    write_json(out, asdict(version))
    print(f"registered {name} version {version.version} ({cell.folder}) as {version.uri}")
    return version


def _best(evaluations: Path, params: Params) -> tuple[Cell, dict[str, Any]]:
    scenario = params.register_.scenario
    cells = [Cell(network, scenario, seed) for network in params.matrix.networks for seed in params.matrix.seeds]
    figures = {cell: read_json(evaluations / cell.folder / SUMMARY) for cell in cells}
    # The first of equals in the matrix's order, so that the choice repeats.
    best = max(cells, key=lambda cell: float(figures[cell]["validation"]["original"]["dice"]))
    return best, figures[best]


def _evaluation_tags(figures: dict[str, Any]) -> dict[str, str]:
    return {
        f"evaluation.{split}.{kind}.dice": f"{values['dice']:.6f}"
        for split, kinds in figures.items()
        for kind, values in kinds.items()
    }


def _log_model(folder: Path, example: np.ndarray, params: Params) -> Any:
    import mlflow

    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"model": str(folder)},
        model_config={"flip": params.evaluate.flip, "largest_components": params.evaluate.largest_components},
        code_paths=[str(Path(str(model_package.__file__)).parent)],
        signature=_signature(params.evaluate.threshold),
        input_example=example,
        pip_requirements=[f"{package}=={installed(package).partition('+')[0]}" for package in REQUIREMENTS],
        metadata={"input": "one grey chest X-ray, float32 (H, W), any size and range, lungs dark"},
    )


def _signature(threshold: float) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1))]),
        params=ParamSchema([ParamSpec("threshold", "double", threshold)]),
    )
