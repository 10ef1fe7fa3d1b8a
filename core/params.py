"""Typed and validated parameters of ``params.yaml``, one section per step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core import cli
from core.errors import UserError
from model.networks import NETWORKS
from model.training.recipe import Fraction, Section, TrainParams

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class IngestParams(Section):
    """Parameters of the ingest step."""

    max_megapixels: Annotated[float, Field(gt=0)] = Field(description="larger images are refused before decoding")


class ExpectedCount(Section):
    """Required numbers of images and masks of a site."""

    images: Annotated[int, Field(ge=0)]
    masks: Annotated[int, Field(ge=0)]


class ValidateParams(Section):
    """Parameters of the Great Expectations suite."""

    sites: Annotated[list[Name], Field(min_length=1)]
    labels: Annotated[list[Name], Field(min_length=1)]
    bit_depths: Annotated[list[int], Field(min_length=1)] = Field(description="bits of the stored image")
    lung_fraction: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        description="least and largest share of the image that a mask may cover"
    )
    components: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] = Field(
        description="least and largest number of large connected components of a mask"
    )
    large_component: Fraction = Field(description="share of the image from which a component counts as large")
    expected: dict[Name, ExpectedCount] = Field(description="images and masks per site; {} expects no count")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> ValidateParams:
        for name in ("lung_fraction", "components"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first value must not be above the second")
        return self


class PreprocessParams(Section):
    """Parameters of the preprocess step: size and intensities of the arrays, and the splits."""

    size: Annotated[int, Field(ge=32, le=2048, multiple_of=16)] = Field(description="side of the square, pixels")
    interpolation: Literal["area", "linear", "cubic", "lanczos"] = Field(description="of the images; masks take area")
    intensity_percentiles: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2)] = (
        Field(description="grey values stretched to 0 and 255")
    )
    dilation: Annotated[int, Field(ge=0)] = Field(
        description="side of the square kernel in pixels of a 512-pixel image; 0 dilates nothing"
    )
    splits: dict[Literal["train", "validation", "test"], Fraction] = Field(description="shares; they add up to 1")
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessParams:
        if self.intensity_percentiles[0] >= self.intensity_percentiles[1]:
            raise ValueError("intensity_percentiles: the first value must be below the second")
        if set(self.splits) != {"train", "validation", "test"}:
            raise ValueError("splits: needs train, validation and test")
        if abs(sum(self.splits.values()) - 1) > 1e-6 or min(self.splits.values()) <= 0:
            raise ValueError("splits: the three shares must be above 0 and add up to 1")
        return self


class Fold(Section):
    """One fold of a cross-validation: the test set; the other folds are for training and validation."""

    number: Annotated[int, Field(ge=1)] = Field(description="which part, from 1")
    of: Annotated[int, Field(ge=2, le=20)] = Field(description="how many parts there are")

    @model_validator(mode="after")
    def _exists(self) -> Fold:
        if self.number > self.of:
            raise ValueError(f"number {self.number} is above {self.of}, the number of folds")
        return self


class Scenario(Section):
    """Sites for training and for testing; if both name the same sites, the frozen split of these sites is used."""

    train: Annotated[list[Name], Field(min_length=1)]
    test: Annotated[list[Name], Field(min_length=1)]
    fold: Fold | None = Field(default=None, description="test on this fold, not on the frozen test split")

    @model_validator(mode="after")
    def _all_or_none(self) -> Scenario:
        if set(self.train) != set(self.test) and set(self.train) & set(self.test):
            raise ValueError("train and test must have the same sites, or no site in common")
        if self.fold and set(self.train) != set(self.test):
            raise ValueError("fold: a cross-validation trains and tests on the same sites")
        return self


class Matrix(Section):
    """The cells to train and evaluate: every network in every scenario with every seed."""

    networks: Annotated[list[str], Field(min_length=1)]
    scenarios: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> Matrix:
        unknown = sorted(set(self.networks) - set(NETWORKS))
        if unknown:
            raise ValueError(f"networks: unknown {', '.join(unknown)}; known are {', '.join(sorted(NETWORKS))}")
        return self


class EvaluateParams(Section):
    """Parameters of post-processing, scoring and overlays."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(description="probability from which a pixel is lung")
    flip: bool = Field(description="mean with the mirrored prediction of the mirrored image")
    largest_components: Annotated[int, Field(ge=0)] = Field(description="maximum components of a mask; 0: no limit")
    least_component: Annotated[float, Field(ge=0, le=1)] = Field(
        description="components below this share of the largest one are dropped; 0: none"
    )
    fill_holes: bool = Field(description="whether holes of a mask are filled")
    splits: list[Literal["train", "validation", "test"]] = Field(description="splits to score; must include test")
    batch_size: Annotated[int, Field(ge=1)]
    bootstrap: Annotated[int, Field(ge=100)] = Field(description="bootstrap resamples of the images for each interval")
    seed: Annotated[int, Field(ge=0)] = Field(description="seed of the bootstrap")
    worst: Annotated[int, Field(ge=0)] = Field(description="overlays of worst and of best test images, each")
    figure_images: Annotated[int, Field(ge=0)] = Field(description="overlays per site for Figures 5 and 6")

    @model_validator(mode="after")
    def _tested(self) -> EvaluateParams:
        if "test" not in self.splits:
            raise ValueError("splits: must include test")
        if len(set(self.splits)) < len(self.splits):
            raise ValueError("splits: has a duplicate")
        return self

    def to_masks(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Post-process probabilities, float32 (N, H, W), to masks, uint8 (N, H, W), with these parameters."""
        from model.inference.postprocessing import to_masks

        rule = (self.threshold, self.largest_components, self.least_component, self.fill_holes)
        return to_masks(probabilities, *rule)


class RegisterParams(Section):
    """MLflow experiment and registered model, and the choice of the cell to register."""

    experiment: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(min_length=1)]
    scenario: Name = Field(description="the cell of this scenario with the best validation Dice is registered")
    challenger: Literal["better", "always"] = Field(
        description="whether a new version becomes challenger if its validation Dice is better, or always"
    )


class ShadowParams(Section):
    """What ``defunet serve --shadow`` must have measured for a challenger."""

    agreement: Fraction = Field(description="least mean Dice between the masks of challenger and champion")
    at_least: Annotated[int, Field(ge=1)] = Field(description="least number of pictures that both have answered")


class PromotionParams(Section):
    """Rules of the promotion gate for a challenger; Dice is the mean over test images, original masks."""

    floor: Fraction = Field(description="Dice that every champion must reach")
    gain: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="lower end of the difference in Dice (paired 95 % interval) must be above this"
    )
    margin: Fraction = Field(description="largest loss of Dice (lower end of the interval) on any site and label")
    bootstrap: Annotated[int, Field(ge=100)] = Field(description="bootstrap resamples of the images for each interval")
    seed: Annotated[int, Field(ge=0)] = Field(description="seed of the bootstrap")
    lock: Annotated[float, Field(ge=1)] = Field(
        description="seconds after which the promotion lock of a dead process expires"
    )
    shadow: ShadowParams | None = Field(
        default=None, description="agreement with the champion in production, {agreement: 0.97, at_least: 200}"
    )


class SignatureParams(Section):
    """Whether model packages must be signed (docs/registry.md)."""

    signatures: Literal["auto", "require", "warn", "off"] = Field(
        description="require a signature, warn without one, or off; auto: require where a verifying key is set",
    )


class RegistryParams(Section):
    """The sections for the registry, read alone so that a mistake in another section cannot block a rollback."""

    model_config = ConfigDict(extra="ignore")

    register_: RegisterParams = Field(alias="register")
    promotion: PromotionParams
    registry: SignatureParams = SignatureParams(signatures="auto")


class Params(RegistryParams):
    """All sections of ``params.yaml``."""

    model_config = ConfigDict(extra="forbid")

    ingest: IngestParams
    validate_: ValidateParams = Field(alias="validate")
    preprocess: PreprocessParams
    scenarios: dict[Name, Scenario]
    matrix: Matrix
    train: TrainParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _stages_are_smaller(self) -> Params:
        self.train.plan(self.preprocess.size)
        return self

    @model_validator(mode="after")
    def _scenarios_exist(self) -> Params:
        for where, names in (
            ("matrix.scenarios", self.matrix.scenarios),
            ("register.scenario", [self.register_.scenario]),
        ):
            unknown = sorted(set(names) - set(self.scenarios))
            if unknown:
                raise ValueError(f"{where}: not defined under scenarios: {', '.join(unknown)}")
        return self


def check(values: Any, origin: str) -> Params:
    """Return ``values`` as typed parameters; raises a UserError that lists every wrong key."""
    return check_section(Params, values, origin)


Sections = TypeVar("Sections", bound=Section)
Processes = Annotated[
    int, typer.Option(min=1, envvar="TRAIN_PROCESSES", help="Processes that share every batch, one per GPU (torchrun).")
]


def check_section(section: type[Sections], values: Any, origin: str) -> Sections:
    """Return the values of one section as typed parameters; raises a UserError that lists every wrong key."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"]) or "the file"
            got = "" if item["type"] in ("missing", "extra_forbidden", "value_error") else f" (got {item['input']!r})"
            problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{got}")
        raise UserError(f"{origin}: {len(problems)} value(s) to correct", problems) from None


def read_yaml(path: Path) -> Any:
    """Return the plain values of a YAML 1.2 file, as DVC reads it; raises UserError if it is missing or invalid."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the project's folder or pass --params FILE") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass --params FILE") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def read_params(path: Path) -> Params:
    """Read and validate all sections of a parameter file; raises a UserError that lists every wrong key."""
    return check(read_yaml(path), str(path))


def read_registry_params(path: Path) -> RegistryParams:
    """Read and validate only the sections for the registry."""
    return check_section(RegistryParams, read_yaml(path), str(path))


def require_shares(params: Params, processes: int) -> None:
    """Raise UserError if a batch of some stage cannot be divided evenly among the training processes."""
    train = params.train
    for stage in train.plan(params.preprocess.size):
        if stage.batch_size % (processes * train.accumulation):
            raise UserError(
                f"--processes {processes}: train.batch_size {stage.batch_size} is not a multiple of {processes} "
                f"processes times train.accumulation {train.accumulation}; change one of them"
            )


def main(params: cli.ParamsFile = Path("params.yaml"), processes: Processes = 1) -> None:
    """Validate a whole parameter file; print nothing if it is valid."""
    require_shares(read_params(params), processes)


def params_hash(params: BaseModel) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of the values, independent of the file's layout."""
    text = json.dumps(params.model_dump(mode="json", by_alias=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    cli.run(main)
