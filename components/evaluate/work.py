"""The inputs of an evaluation: the cell, its data, and the digests of everything that determines the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cell import PROVENANCE, Cell
from core.cohort import SPLITS, Arrays, read_split
from core.errors import UserError
from core.files import read_json
from core.inputs import Inputs, read_record
from core.params import EvaluateParams
from model.inference.input_config import InputConfig
from model.weights import CONFIG, WEIGHTS

# The code that determines the results, as in dvc.yaml.
CODE = (
    "components/evaluate",
    "model/inference/engine.py",
    "model/inference/input_config.py",
    "model/inference/postprocessing.py",
    "model/inference/predictor.py",
    "model/networks",
    "model/curves.py",
    "model/inputs.py",
    "model/metrics.py",
    "model/preprocessing.py",
    "model/surface.py",
    "model/weights.py",
    "core/cell.py",
    "core/cohort.py",
    "core/images.py",
    "core/png.py",
    "core/results.py",
    "core/shard.py",
)


@dataclass(frozen=True)
class Work:
    """The inputs of an evaluation, of one of its shards, or of the merge.

    Attributes:
        cell: network, scenario and seed.
        arrays: output of preprocess.
        model: output of train.
        params: section ``evaluate`` of ``params.yaml``.
        cohort: the arrays.
        ids: image ids of train, validation and test.
        inputs: the digests.
    """

    cell: Cell
    arrays: Path
    model: Path
    params: EvaluateParams
    cohort: Arrays
    ids: dict[str, list[str]]
    inputs: Inputs

    @classmethod
    def of(
        cls,
        cell: Cell,
        arrays: Path,
        split: Path,
        model: Path,
        params: EvaluateParams,
        reread: Callable[[], EvaluateParams] | None,
        opened: tuple[Arrays, dict[str, list[str]]] | None = None,
        trained: InputConfig | None = None,
    ) -> Work:
        """Check the inputs of an evaluation and take their digests.

        Args:
            cell: this and the arguments up to ``reread`` are as for :func:`components.evaluate.evaluate`.
            arrays: output of preprocess.
            split: the scenario's split.
            model: output of train.
            params: section ``evaluate`` of ``params.yaml``.
            reread: reads ``params`` again from its file.
            opened: the arrays and the split, if they have already been read.
            trained: the preprocessing of the network's input; None: it is not compared with the arrays'.

        Raises:
            UserError: model or data are missing or do not match, or the weights, arrays or split differ from the record
                of training.
        """
        cohort, ids = opened or (Arrays(arrays), read_split(split, cell.scenario))
        config = read_json(model / CONFIG)
        if (held := Cell(config["network"], config["scenario"], config["seed"])) != cell:
            raise UserError(f"{model}: has the model of {held.folder}, not of {cell.folder}; run the train step again")
        if trained and (difference := trained.difference(cohort.info)):
            raise UserError(f"{model}, {arrays}: {difference}; run the train step again")
        return cls(cell, arrays, model, params, cohort, ids, _inputs(model, arrays, split, params, reread))

    @property
    def splits(self) -> list[str]:
        """The splits to score, in the order of the results; the last one is test."""
        return [name for name in SPLITS if name in self.params.splits]

    @property
    def title(self) -> str:
        """The evaluation's name in messages."""
        return f"evaluate {self.cell.folder}"

    def record(self) -> dict[str, Any]:
        """Return the record of the inputs, as ``scored.json`` has it."""
        return self.inputs.record(str(self.cohort.info["manifest_sha256"]))


def _inputs(
    model: Path, arrays: Path, split: Path, params: EvaluateParams, reread: Callable[[], EvaluateParams] | None
) -> Inputs:
    """Return the inputs of the evaluation, after a check against the record of training.

    Raises:
        UserError: the weights, arrays or split differ from ``provenance.json``.
    """
    trained = read_record(model / PROVENANCE, "train")
    files = {"weights": model / WEIGHTS, "config": model / CONFIG, "split": split}
    files |= {name: arrays / f"{name}.npy" for name in ("images", "masks-original", "masks-dilated")}
    inputs = Inputs(files, CODE, params, reread)
    recorded = {"weights": trained["weights"], "split": trained["files"]["split"], "images": trained["files"]["images"]}
    for name, digest in recorded.items():
        if inputs.files[name] != digest:
            raise UserError(
                f"{files[name]}: not what the training in {model} recorded (sha256 {inputs.files[name][:12]}, recorded "
                f"{digest[:12]}); run `dvc checkout`, or the train step again"
            )
    return inputs
