"""The weights that a training starts from: a pretrained package's, a registered version's, or a trained model's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from core.cell import PROVENANCE, SCORED
from core.errors import UserError
from core.files import read_json, sha256
from model.weights import CONFIG, WEIGHTS
from registry.fetch import fetch
from registry.pretrained import named

if TYPE_CHECKING:
    from torch import nn

RANDOM = "random"  # of train.start_from: no model
ARCHITECTURE = ("network", "width", "in_channels", "norm", "options")


def start_from(model: str, network: nn.Module, config: dict[str, Any]) -> str:
    """Load the weights of a trained model into a network, and return the SHA-256 of their file.

    Args:
        model: ``pretrained``, ``pretrained/NAME``, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or the folder of a
            package or of an output of train.
        network: gets the weights; stored float16 becomes float32.
        config: the network's configuration, of which :data:`ARCHITECTURE` must be the model's.

    Raises:
        UserError: there is no such model, its files are damaged, or it is of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with TemporaryDirectory() as scratch:
        folder = _folder(named(model), Path(scratch))
        theirs = read_json(folder / CONFIG)
        differing = [name for name in ARCHITECTURE if theirs.get(name) != config[name]]
        if differing:
            listed = "; ".join(f"{name} {theirs.get(name)}, not {config[name]}" for name in differing)
            raise UserError(f"train.start_from, {model}: it has {listed}; set the parameters to what it has")
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"train.start_from, {model}: {WEIGHTS} cannot be used ({reason})") from error
        return sha256(folder / WEIGHTS)


def _folder(model: str, scratch: Path) -> Path:
    """Return the folder of the weights; packages are compared with their digests."""
    if (Path(model) / PROVENANCE).is_file() and not (Path(model) / SCORED).exists():
        return Path(model)  # of train, which writes no package
    return fetch(model, scratch)
