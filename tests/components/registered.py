"""A registry of three versions of a tiny model, made by the register step itself."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.predictor import WEIGHTS
from tests.conftest import Project, Trained

NAME = "lung-segmentation"
GATE = {"floor": 0.2, "gain": 0.0, "margin": 0.5, "bootstrap": 100, "claim": 60}
WORSE, BETTER, TWIN = 1, 2, 3  # BETTER and TWIN have the same weights


@pytest.fixture(scope="session")
def three(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A registry of three versions, registered by the step itself: spoilt weights, the trained ones, the same again."""
    project = trained.copy(tmp_path_factory.mktemp("three"))
    weights = project.model / WEIGHTS
    good = weights.read_bytes()
    random = np.random.default_rng(0)
    spoilt = {
        name: values + random.normal(0, 0.05, values.shape).astype(values.dtype) if values.ndim == 4 else values
        for name, values in load_file(weights).items()
    }
    save_file(spoilt, weights)
    project.record_again()
    project.do(project.register_line())
    weights.write_bytes(good)
    project.record_again()
    project.do(project.register_line())
    project.do(project.register_line())
    return project
