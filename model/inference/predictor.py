"""Predict with a trained network in PyTorch, loaded from its folder without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model import networks
from model.inference.engine import batches
from model.inference.input_config import InputConfig
from model.inputs import to_input
from model.weights import CONFIG, WEIGHTS


class Predictor:
    """A network in evaluation mode with the preprocessing of its training.

    Args:
        network: a network of :func:`model.networks.build` with trained weights.
        input_config: its preprocessing.
        device: device of the prediction.
    """

    def __init__(self, network: nn.Module, input_config: InputConfig, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        channels_last = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: nn.Module = channels_last.eval()
        self.input_config = input_config

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> Predictor:
        """Load a predictor from ``config.json`` and ``weights.safetensors`` in ``folder``.

        Raises:
            OSError, ValueError, KeyError, TypeError: a file is missing or damaged, or the two do not match.
        """
        config = json.loads((folder / CONFIG).read_text())
        name, width, in_channels = config["network"], config["width"], config["in_channels"]
        network = networks.build(name, width, in_channels, config["norm"], **config["options"])
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except SafetensorError as error:
            raise ValueError(f"{WEIGHTS} is damaged: {error}") from error
        except RuntimeError as error:
            raise ValueError(f"{WEIGHTS} does not fit {CONFIG}: {_first_difference(error)}") from error
        given = config["input"]
        low, high = given["intensity_percentiles"]
        return cls(network, InputConfig(given["size"], given["interpolation"], (low, high)), device)

    def probabilities(
        self,
        images: npt.NDArray[np.uint8],
        batch_size: int = 16,
        *,
        flip: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Map preprocessed images, uint8 (N, size, size), to probabilities of lung, float32 (N, size, size), 0 to 1.

        Args:
            images: as :func:`model.preprocessing.standardise` returns them.
            batch_size: number of images per forward pass.
            flip: average with the mirrored prediction of the mirrored image, for twice the time.
        """
        result = np.empty(images.shape, np.float32)
        for part in batches(len(images), batch_size):
            if flip:
                plain, mirrored = self.both_ways(images[part])
                result[part] = (plain + mirrored) / np.float32(2)
            else:
                result[part] = self._batch(images[part])
        return result

    def both_ways(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the probabilities of one batch and those of its mirror images, mirrored back.

        Their mean is the result of :meth:`probabilities` with ``flip``.

        Args:
            images: uint8 (N, size, size), processed in one forward pass.

        Returns:
            float32 (N, size, size) each, 0 to 1.
        """
        return self._batch(images), self._batch(images[..., ::-1])[..., ::-1]

    @torch.inference_mode()
    def _batch(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        probabilities: Tensor = self.network(to_input(batch)).float().sigmoid()[:, 0]
        found: npt.NDArray[np.float32] = probabilities.cpu().numpy()
        return found


def _first_difference(error: RuntimeError) -> str:
    """Return the first line of PyTorch's list of mismatched layers."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]
