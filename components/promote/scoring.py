"""Score registered versions on the same test images, each with the post-processing of its own contract."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components.evaluate.rows import summarise
from components.evaluate.scores import Scores
from core.cell import Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import read_json
from core.params import PromotionParams
from core.results import Row
from model.inference.engine import batches
from model.inference.package import Contract, probabilities
from model.inference.postprocessing import to_masks
from model.weights import CONFIG
from registry.fetch import fetch
from registry.packages import load
from registry.versions import Version

MASKS = "original"


@dataclass(frozen=True)
class TestSet:
    """The test split of one scenario.

    Attributes:
        scenario: the scenario's name.
        cohort: the arrays.
        split: ids of train, validation and test.
        order: row numbers of the test images in the arrays, int64 (N,).
    """

    scenario: str
    cohort: Arrays
    split: dict[str, list[str]]
    order: np.ndarray

    __test__ = False  # pytest collects classes with such names

    @classmethod
    def read(cls, arrays: Path, splits: Path, scenario: str) -> TestSet:
        """Read arrays and split; raises UserError if they are missing or do not match."""
        cohort, split = Arrays(arrays), read_split(splits / f"{scenario}.json", scenario)
        return cls(scenario, cohort, split, cohort.rows(split["test"]))


@dataclass(frozen=True)
class Scored:
    """A version's scores: its contract, one case per image, and rows as in the evaluate step."""

    version: Version
    contract: Contract
    cases: pd.DataFrame
    rows: list[Row]

    @property
    def dice(self) -> float:
        """Mean Dice over all images."""
        return float(self.cases["dice"].mean())

    @property
    def how(self) -> str:
        """The contract's post-processing as text."""
        count = self.contract.largest_components
        mirrored = "mean with the mirrored prediction" if self.contract.flip else "one prediction"
        share = (
            f" of at least {self.contract.least_component:g} of the largest" if self.contract.least_component else ""
        )
        holes = ", holes filled" if self.contract.fill_holes else ""
        return f"threshold {self.contract.threshold:g}, {mirrored}, {count or 'all'} components{share}{holes}"


def score(
    version: Version, test: TestSet, batch_size: int, promotion: PromotionParams, signatures: str = "auto"
) -> Scored:
    """Download a version and score it on the test images against original masks, as ``predict`` and ``serve`` would.

    The engine and the file that it reads are those of production. Threshold, flip and components are from the
    version's contract and not from the parameters.

    Args:
        version: the version; its files are downloaded from the registry.
        test: the test images.
        batch_size: number of images per batch.
        promotion: resamples and seed of the confidence intervals.
        signatures: ``registry.signatures`` of the parameters.

    Raises:
        UserError: the version cannot be downloaded or loaded, or needs other input than the arrays.
    """
    with tempfile.TemporaryDirectory(prefix="promote-") as scratch:
        folder = fetch(version.uri, Path(scratch), signatures=signatures)
        try:
            package = load(folder)
            config = read_json(folder / CONFIG)
            cell = Cell(config["network"], config["scenario"], config["seed"])
        except (UserError, KeyError, TypeError) as error:
            raise UserError(f"{version}: does not load with this code ({error})") from error
    contract = package.contract
    if difference := contract.input_config.difference(test.cohort.info):
        raise UserError(f"{version}: {difference}")
    scores = Scores("test", MASKS)
    rule = (contract.threshold, contract.largest_components, contract.least_component, contract.fill_holes)
    for part in batches(len(test.order), batch_size):
        order = test.order[part]
        found = probabilities(package.engine, test.cohort.images[order], flip=contract.flip)
        masks = test.cohort.masks[MASKS][order]
        scores.add(test.cohort.manifest.iloc[order], found, to_masks(found, *rule), masks)
    return Scored(version, contract, scores.cases, summarise(scores, cell, promotion.bootstrap, promotion.seed))
