"""The registered model as MLflow loads it: from code and safetensors, so that loading unpickles nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from model.postprocessing import to_masks
from model.predictor import Predictor


class LungSegmentation(PythonModel):  # type: ignore[misc]
    """A grey chest X-ray of any size and range in, the lungs out at the same size."""

    def load_context(self, context: PythonModelContext) -> None:
        """Rebuild the network from its own folder; MLflow's model configuration says how its output becomes a mask."""
        self.flip = bool(context.model_config["flip"])
        self.largest_components = int(context.model_config["largest_components"])
        self.predictor = Predictor.load(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return the mask, uint8 (H, W), 0 or 1, of one X-ray, float32 (H, W), lungs dark.

        Args:
            context: unused; MLflow passes it.
            model_input: any range: the grey values are stretched as in training.
            params: ``threshold``, the probability from which a pixel is lung.
        """
        threshold = float((params or {})["threshold"])
        probabilities = self.predictor.predict(np.asarray(model_input), flip=self.flip)
        mask: np.ndarray = to_masks(probabilities[None], threshold, self.largest_components)[0]
        return mask


mlflow.models.set_model(LungSegmentation())
