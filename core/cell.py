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
        """Where the cell lies below ``models/`` and ``evaluations/``."""
        return Path(self.network) / self.scenario / f"seed-{self.seed}"

    @classmethod
    def every(cls, networks: Iterable[str], scenarios: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
        """Return the cells of a matrix, in the order of its networks, then scenarios, then seeds."""
        return [cls(*values) for values in product(networks, scenarios, seeds)]

    @classmethod
    def of(cls, folder: Path) -> Cell:
        """Return the cell that a folder ending in ``<network>/<scenario>/seed-<seed>`` belongs to.

        Raises:
            UserError: the folder does not end so.
        """
        match folder.parts[-3:]:
            case network, scenario, seed if seed.startswith("seed-") and seed[5:].isdecimal():
                return cls(network, scenario, int(seed[5:]))
        raise UserError(f"{folder}: not a cell's folder; it must end in <network>/<scenario>/seed-<number>")


# models/<cell>/: those of :mod:`model.weights`, and
HISTORY = "history.csv"  # epoch, learning_rate, train_loss, train_dice, validation_loss, validation_dice, size
# {params, manifest, files, code, weights}: the parameters, and SHA-256 of the cohort's manifest, of what was read, of
# the code and of the weights. Two equal runs leave the same bytes.
PROVENANCE = "provenance.json"
# {params, manifest, files, code}, the same of an evaluation; ``files`` has the weights that were scored.
SCORED = "scored.json"
# mlflow_run_id, commit, dirty, seconds, per_epoch, hardware, versions, and the SHA-256 of the weights that it tells of:
# what differs between two equal runs. DVC does not track it; :func:`core.runs.read_run` reads it.
RUN = "run.json"

# evaluations/<cell>/:
ROWS = "rows.json"  # list of Row
# One row an image and kind of masks: id, site, label, sex, age, split, masks, METRICS, tp, fp, fn, tn, and the sums of
# which soft Dice is made: soft_overlap (probability times mask), soft_square (squared probability).
CASES = "cases.csv"
SUMMARY = "metrics.json"  # {validation or test: {kind of masks: {metric: figure}}}: what `dvc metrics` shows
SPLIT = "split.json"  # the frozen split that the cell was trained on: ids of train, validation and test
# by (mirror_agreement or expected_dice), images, coverage, stored_dice: the mean of the test images that are kept,
# those first of which the network is most sure, against original masks
RISK = "risk_coverage.csv"
ROC = "roc.csv"  # fpr, tpr, threshold of the test split's pixels against original masks
# low, high, predicted, observed, pixels: how often a pixel of the test split is lung where the network says so with a
# probability from low to high (components.evaluate.calibration)
RELIABILITY = "reliability.csv"
# List of {file, xray, kind: worst | best | figure, id, site, label, dice, hd95}. Files lie in overlays/: ``xray`` is a
# grey PNG, once an X-ray, ``file`` a PNG of its size with regions in the colours below, transparent elsewhere.
OVERLAYS = "overlays.json"
