"""Messages of a training run besides its epochs: it waits for another run; its parameters have changed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.inputs import Inputs

if TYPE_CHECKING:
    from model.training.distributed import DistributedContext

WAITING, TRAINING = "waiting", "training"  # what process 0 tells the others at the start


@dataclass
class Waiting:
    """Prints once which process runs the same training, and lets the other ranks wait without a time limit."""

    title: str
    world: DistributedContext
    told: bool = False

    def __call__(self, holder: str) -> None:
        """Tell who trains, the first time, and the other processes that it is not their turn yet."""
        if not self.told:
            self.told = True
            what = "waiting for its result, or to resume if it dies"
            print(f"{self.title}: another run of this very training is under way ({holder}): {what}", flush=True)
        self.world.agree_on(WAITING)


@dataclass
class ChangeWarning:
    """Warns once, after the epoch in which it is seen, that the parameters' file was edited."""

    title: str
    inputs: Inputs
    told: bool = False

    def __call__(self, _row: dict[str, float]) -> None:
        """Look at the parameters' file after an epoch."""
        if not self.told and (changes := self.inputs.changed_params()):
            self.told = True
            text = f"{'; '.join(changes)}; put it back before it ends, or its result is refused"
            print(f"warning: {self.title}: the parameters changed while it trains: {text}", file=sys.stderr)
