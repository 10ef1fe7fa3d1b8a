"""A cell of the matrix (network, scenario, seed) and the files that the steps write for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from core.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One network trained in one scenario with one seed; its folder is ``<network>/<scenario>/seed-<seed>``."""

    network: str
    scenario: str
    seed: int

    @property
    def folder(self) -> Path:
        """The cell's folder, relative to ``models/`` and ``evaluations/``."""
        return Path(self.network) / self.scenario / f"seed-{self.seed}"

    @classmethod
    def every(cls, networks: Iterable[str], scenarios: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
        """Return the cells of a matrix, in the order of its networks, then scenarios, then seeds."""
        return [cls(*values) for values in product(networks, scenarios, seeds)]

    @classmethod
    def of(cls, folder: Path) -> Cell:
        """Return the cell of a folder that ends in ``<network>/<scenario>/seed-<seed>``.

        Raises:
            UserError: the folder has another form.
        """
        match folder.parts[-3:]:
            case network, scenario, seed if seed.startswith("seed-") and seed[5:].isdecimal():
                return cls(network, scenario, int(seed[5:]))
        raise UserError(f"{folder}: not a cell's folder; it must end in <network>/<scenario>/seed-<number>")


# Files in models/<cell>/, in addition to those of :mod:`model.weights`:
HISTORY = "history.csv"  # epoch, learning_rate, train_loss, train_dice, validation_loss, validation_dice, size
# {params, manifest, files, code, weights}: the parameters, and the SHA-256 of the cohort's manifest, the input files,
# the code and the weights. Two equal runs write the same bytes.
PROVENANCE = "provenance.json"
# {params, manifest, files, code}: the same for an evaluation; ``files`` includes the scored weights.
SCORED = "scored.json"
# mlflow_run_id, commit, dirty, seconds, per_epoch, hardware, versions, and the SHA-256 of its weights.
# It differs between two equal runs, so DVC does not track it; :func:`core.runs.read_run` reads it.
RUN = "run.json"

# Files in evaluations/<cell>/:
ROWS = "rows.json"  # list of Row
# One row per image and kind of masks: id, site, label, sex, age, split, masks, METRICS, tp, fp, fn, tn, and the sums
# for soft Dice: soft_overlap (probability times mask), soft_square (squared probability).
CASES = "cases.csv"
SUMMARY = "metrics.json"  # {validation or test: {kind of masks: {metric: value}}}, for `dvc metrics`
SPLIT = "split.json"  # the split of the training run: ids of train, validation and test
# by (mirror_agreement or expected_dice), images, coverage, stored_dice: mean Dice of the most confident test images
# against original masks
RISK = "risk_coverage.csv"
ROC = "roc.csv"  # fpr, tpr, threshold of the test split's pixels against original masks
# low, high, predicted, observed, pixels: mean predicted probability and observed lung frequency of the test split's
# pixels with a probability from low to high (components.evaluate.calibration)
RELIABILITY = "reliability.csv"
# List of {file, xray, kind: worst | best | figure, id, site, label, dice, hd95}. The files are in overlays/: ``xray``
# is a grey PNG, one per X-ray; ``file`` is a PNG of the same size with coloured regions, transparent elsewhere.
OVERLAYS = "overlays.json"
