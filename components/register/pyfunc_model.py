"""The MLflow pyfunc model: a package of code, safetensors and ONNX, loaded without unpickling."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from model.inference.package import load


class LungSegmentation(PythonModel):  # type: ignore[misc]
    """Segments a grey chest X-ray of any size and range, at its original size."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the package; its contract defines pre- and post-processing."""
        self.package = load(context.artifacts["package"], str(context.model_config["engine"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return the mask, uint8 (H, W), 0 or 1, of one X-ray, float32 (H, W), lungs dark.

        Args:
            context: unused; MLflow passes it.
            model_input: the X-ray; any range, because the grey values are stretched as in training.
            params: ``threshold``, the least probability of a lung pixel.
        """
        (found,) = self.package.segment([np.asarray(model_input)], float((params or {})["threshold"]))
        return found.mask


mlflow.models.set_model(LungSegmentation())
