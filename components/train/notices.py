"""Messages of a training run other than epochs: it waits for another process, or its parameters changed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.inputs import Inputs

if TYPE_CHECKING:
    from model.training.distributed import DistributedContext

WAITING, TRAINING = "waiting", "training"  # messages from rank 0 to the others at the start


@dataclass
class Waiting:
    """Prints once which process executes the same training run, and keeps the other ranks waiting without a timeout."""

    title: str
    world: DistributedContext
    told: bool = False

    def __call__(self, holder: str) -> None:
        """Print the holder on the first call, and tell the other ranks to wait."""
        if not self.told:
            self.told = True
            what = "waiting for its result, or to resume if it dies"
            print(f"{self.title}: another process is running this same training ({holder}): {what}", flush=True)
        self.world.agree_on(WAITING)


@dataclass
class ChangeWarning:
    """Warns once, after an epoch, that the parameter file was edited."""

    title: str
    inputs: Inputs
    told: bool = False

    def __call__(self, _row: dict[str, float]) -> None:
        """Check the parameter file after an epoch."""
        if not self.told and (changes := self.inputs.changed_params()):
            self.told = True
            text = f"{'; '.join(changes)}; put it back before it ends, or its result is refused"
            print(f"warning: {self.title}: the parameters changed while it trains: {text}", file=sys.stderr)
