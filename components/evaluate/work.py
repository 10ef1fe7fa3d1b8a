"""The inputs of an evaluation: the cell, its data, and the digests of everything that determines the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core.cell import PROVENANCE, Cell
from core.cohort import SPLITS, Arrays, read_split
from core.errors import UserError
from core.files import read_json
from core.inputs import Inputs, read_record
from core.params import EvaluateParams
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
    """The inputs of an evaluation, of one of its shards, or of the merge; they are read when they are first used.

    Attributes:
        cell: network, scenario and seed.
        arrays: output of preprocess.
        split: the scenario's split, ``<scenario>.json``.
        model: output of train.
        params: section ``evaluate`` of ``params.yaml``.
        reread: reads ``params`` again from its file, to detect an edit during the evaluation.
    """

    cell: Cell
    arrays: Path
    split: Path
    model: Path
    params: EvaluateParams
    reread: Callable[[], EvaluateParams] | None = None

    @cached_property
    def cohort(self) -> Arrays:
        """The arrays; raises UserError if they are missing or damaged."""
        return Arrays(self.arrays)

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        """The image ids of train, validation and test; raises UserError if the split is of another scenario."""
        return read_split(self.split, self.cell.scenario)

    @cached_property
    def inputs(self) -> Inputs:
        """The digests of all inputs.

        Raises:
            UserError: the model is of another cell, or the weights, arrays or split differ from ``provenance.json``.
        """
        model = self.model
        config = read_json(model / CONFIG)
        if (held := Cell(config["network"], config["scenario"], config["seed"])) != self.cell:
            raise UserError(
                f"{model}: has the model of {held.folder}, not of {self.cell.folder}; run the train step again"
            )
        trained = read_record(model / PROVENANCE, "train")
        files = {"weights": model / WEIGHTS, "config": model / CONFIG, "split": self.split}
        files |= {name: self.arrays / f"{name}.npy" for name in ("images", "masks-original", "masks-dilated")}
        inputs = Inputs(files, CODE, self.params, self.reread)
        recorded = trained["files"] | {"weights": trained["weights"]}
        for name in ("weights", "split", "images"):
            if inputs.files[name] != recorded[name]:
                raise UserError(
                    f"{files[name]}: not what the training in {model} recorded (sha256 {inputs.files[name][:12]}, "
                    f"recorded {recorded[name][:12]}); run `dvc checkout`, or the train step again"
                )
        return inputs

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
