"""Initial weights from a pretrained package, a registered version, or a trained model."""

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

RANDOM = "random"  # value of train.start_from for random weights
ARCHITECTURE = ("network", "width", "in_channels", "norm", "options")


def start_from(model: str, network: nn.Module, config: dict[str, Any], signatures: str) -> str:
    """Load the weights of a trained model into a network, and return the SHA-256 of their file.

    Args:
        model: ``pretrained``, ``pretrained/NAME``, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or the folder of a
            package or of an output of train.
        network: the network to load the weights into; float16 weights become float32.
        config: the network's configuration; its :data:`ARCHITECTURE` must equal the model's.
        signatures: as for :func:`registry.seal.verify`.

    Raises:
        UserError: the model does not exist, its files are damaged, or its architecture differs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with TemporaryDirectory() as scratch:
        folder = _folder(named(model), Path(scratch), signatures)
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


def _folder(model: str, scratch: Path, signatures: str) -> Path:
    """Return the folder of the weights; packages are checked against their digests."""
    if (Path(model) / PROVENANCE).is_file() and not (Path(model) / SCORED).exists():
        return Path(model)  # output of train, which is not a package
    return fetch(model, scratch, signatures=signatures)
