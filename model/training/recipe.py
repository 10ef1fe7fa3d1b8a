"""Typed and validated parameters of a training run, without importing torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of parameter sections: immutable; rejects unknown keys, wrong types and infinite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DEFUNetParams(Section):
    """DEFU-Net's ablations; the paper's network has inception and recurrent, not shared, bottom 512."""

    inception: bool = Field(description="the inception path")
    recurrent: bool = Field(description="the densely connected recurrent path")
    shared: bool = Field(description="one set of weights for the three convolutions of a recurrent unit")
    bottom: Literal[512, 1024] = Field(description="channels of the bottom block at width 1")


class LossParams(Section):
    """Weights of the terms of the loss."""

    dice: Annotated[float, Field(ge=0)] = Field(description="the paper's Eq. 2")
    cross_entropy: Annotated[float, Field(ge=0)] = Field(description="binary, mean over pixels")

    @model_validator(mode="after")
    def _something(self) -> LossParams:
        if self.dice + self.cross_entropy <= 0:
            raise ValueError("at least one of dice and cross_entropy must be above 0")
        return self


class Plateau(Section):
    """Lower the learning rate on a plateau of the validation loss (the paper, section III-B)."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=1)] = Field(description="epochs without a validation loss better by 1e-4")


class Augmentation(Section):
    """Random augmentation of every image of every batch; 0 disables a part.

    The paper (section III-A) has rotation, shift, shear, zoom and flip. The others imitate differences between
    manufacturers: tone curves, exposure, noise, sharpness, collimation and burnt-in labels.
    """

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees either way")
    shift: Fraction = Field(description="share of the side, either way, in both directions")
    shear: Annotated[float, Field(ge=0, lt=90)] = Field(description="degrees either way")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(description="scale is drawn from 1 - zoom to 1 + zoom")
    aspect: Annotated[float, Field(ge=0, lt=1)] = Field(description="height over width changes by up to this share")
    flip: Fraction = Field(description="probability of a left-right flip")
    gamma: Annotated[float, Field(ge=0, le=4)] = Field(
        description="grey values to a power from 1 / (1 + gamma) to 1 + gamma"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(description="share by which contrast grows or shrinks")
    brightness: Fraction = Field(description="share of the grey range added or taken away")
    histogram: Fraction = Field(description="share of a random rising curve mixed into the grey values")
    shade: Fraction = Field(description="share by which brightness drifts over the picture")
    noise: Fraction = Field(description="largest standard deviation of the noise, share of the grey range")
    blur: Annotated[float, Field(ge=0, le=0.02)] = Field(
        description="largest standard deviation of the blur, share of the side"
    )
    opacity: Fraction = Field(description="probability of bright spots, as local opacities make them")
    veil: Fraction = Field(description="probability of a bright lower part, and likewise of a black strip below")
    arm: Fraction = Field(description="probability of an arm with air between it and the chest")
    border: Fraction = Field(description="probability of a dark or bright frame around the lungs")
    label: Fraction = Field(description="probability of burnt-in letters")


class Stage(Section):
    """A stage of a training run at one image size."""

    size: Annotated[int, Field(ge=16, multiple_of=16)] = Field(description="side of the square, pixels")
    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="maximum of the stage's schedule")
    batch_size: Annotated[int, Field(ge=1)] = Field(description="total over all processes")


class TrainParams(Section):
    """Parameters of a training run."""

    width: Annotated[float, Field(gt=0, le=4)] = Field(description="share of the paper's channels")
    norm: Literal["batch", "instance", "group"] = Field(
        description="normalisation of feature maps; the paper has batch"
    )
    defu_net: DEFUNetParams
    start_from: Annotated[str, Field(min_length=1)] = Field(
        description="random weights, or those of a model: pretrained, pretrained/NAME, models:/NAME/VERSION or a folder"
    )
    masks: Literal["original", "dilated"] = Field(description="masks to train on")
    stages: list[Stage] = Field(
        description="earlier stages at smaller sizes, before the epochs at the size of the arrays"
    )
    epochs: Annotated[int, Field(ge=1)]
    images_per_epoch: Annotated[int, Field(ge=0)] = Field(
        description="images per epoch; 0: the size of the training split"
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(description="total over all processes")
    accumulation: Annotated[int, Field(ge=1)] = Field(
        description="parts of a batch that are computed one after another"
    )
    optimizer: Literal["adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="maximum of the schedule")
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["cosine", "plateau"]
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the steps with a linear warm-up, for cosine"
    )
    plateau: Plateau
    early_stopping: Annotated[int, Field(ge=0)] = Field(description="epochs without a better validation loss; 0: never")
    loss: LossParams
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(description="decay of the average of the weights; 0: no average")
    batchnorm_momentum: Annotated[float, Field(gt=0, le=1)] = Field(
        description="PyTorch's momentum: the weight of the new batch"
    )
    recalibrate: bool = Field(description="recompute BatchNorm's statistics for the best weights")
    augmentation: Augmentation
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: bool = Field(description="torch.compile the network")
    activation_checkpointing: bool = Field(description="recompute activations in the backward pass to save memory")
    resident: Literal["auto", "always", "never"] = Field(
        description="images in memory, or read from the arrays' files batch by batch; the weights are the same"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(description="epochs between full-state checkpoints")

    @model_validator(mode="after")
    def _parts_are_whole(self) -> TrainParams:
        for batch_size in (self.batch_size, *(stage.batch_size for stage in self.stages)):
            if batch_size % self.accumulation:
                raise ValueError(f"batch_size {batch_size} cannot be computed in {self.accumulation} equal parts")
        sizes = [stage.size for stage in self.stages]
        if any(small >= large for small, large in pairwise(sizes)):
            raise ValueError(f"stages: sizes must rise from stage to stage, not {', '.join(map(str, sizes))}")
        return self

    def plan(self, size: int) -> list[Stage]:
        """Return all stages in order; the last has ``size``, the arrays' side in pixels.

        Raises:
            ValueError: a stage is not smaller than the arrays, or its size does not divide theirs.
        """
        if self.stages and self.stages[-1].size >= size:
            raise ValueError(
                f"train.stages: a stage of {self.stages[-1].size} pixels is not below preprocess.size {size}; "
                "the epochs at that size are train.epochs"
            )
        if uneven := [stage.size for stage in self.stages if size % stage.size]:
            raise ValueError(f"train.stages: {uneven[0]} pixels do not divide preprocess.size {size}")
        last = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size")}
        return [*self.stages, Stage.model_construct(size=size, **last)]

    def within(self, stage: Stage) -> TrainParams:
        """Return the parameters of one stage: these with the stage's epochs, learning rate and batch size."""
        return self.model_copy(update=stage.model_dump(exclude={"size"}) | {"stages": []})
