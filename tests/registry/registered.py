"""A registry of three versions of a tiny model, made by the register step itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model.weights import WEIGHTS
from tests.conftest import Project, Trained
from tests.workers import Once

NAME = "lung-segmentation"
GATE = {"floor": 0.2, "gain": 0.0, "margin": 0.5, "bootstrap": 100, "lock": 60}
WORSE, BETTER, TWIN = 1, 2, 3  # BETTER and TWIN draw the same masks


@pytest.fixture(scope="session")
def three(trained: Trained, once: Once) -> Project:
    """A registry of three versions, registered by the step itself: spoilt, trained, nearly the same."""

    def make(folder: Path) -> None:
        project = trained.copy(folder)
        project.write_params(register={"challenger": "always"})
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
        # Other bytes, and no other mask: two versions with the same weights and figures would be one.
        twin = load_file(weights)
        last = sorted(twin)[-1]
        twin[last] = np.nextafter(twin[last], np.float32(np.inf))
        save_file(twin, weights)
        project.record_again()
        project.do(project.register_line())
        weights.write_bytes(good)
        project.record_again()

    return Project(once("three", make), trained.project.launcher)
