"""What a training run is told: typed, bounded, and free of torch so that it can be checked at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section of parameters: unknown keys, wrong types and infinite numbers are refused; values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Plateau(Section):
    """Lower the learning rate when the validation loss stands still (the paper, section III-B)."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=1)] = Field(description="epochs without a validation loss better by 1e-4")


class Augmentation(Section):
    """Random geometry drawn anew for every image of every batch; 0 switches a part off (the paper, section III-A)."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees either way")
    shift: Fraction = Field(description="share of the side, either way, in both directions")
    shear: Annotated[float, Field(ge=0, lt=90)] = Field(description="degrees either way")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(description="scale is drawn from 1 - zoom to 1 + zoom")
    flip: Fraction = Field(description="probability of a left-right flip")


class TrainParams(Section):
    """One training run."""

    width: Annotated[float, Field(gt=0, le=4)] = Field(description="share of the paper's channels")
    masks: Literal["original", "dilated"] = Field(description="what the network learns to draw")
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        description="of Adam; the peak where the schedule is one-cycle"
    )
    schedule: Literal["one-cycle", "plateau"]
    plateau: Plateau
    early_stopping: Annotated[int, Field(ge=0)] = Field(description="epochs without a better validation loss; 0: never")
    batchnorm_momentum: Annotated[float, Field(gt=0, le=1)] = Field(description="PyTorch's: the share of the new batch")
    augmentation: Augmentation
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(description="epochs between full-state checkpoints")
