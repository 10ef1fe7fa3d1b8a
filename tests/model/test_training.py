"""Training learns, repeats to the bit, is the same in parts or computed twice, and says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.params import read_yaml
from model import inputs, networks
from model.inputs import to_input
from model.metrics import confusion, overlap_metrics
from model.training.batches import Sampler, Subset
from model.training.checkpoint import STATE
from model.training.distributed import DistributedContext
from model.training.loop import Result, Trainer, TrainingError
from model.training.recipe import Augmentation, TrainParams
from tests.conftest import ROOT
from tests.daily import daily

SIDE = 32
TIMES = ("seconds", "images_per_second")
ALONE = DistributedContext(0, 1, torch.device("cpu"))
STILL = dict.fromkeys(Augmentation.model_fields, 0.0)
SHIPPED = read_yaml(ROOT / "params.yaml")["train"]


def recipe(**changes: Any) -> TrainParams:
    """The shipped recipe, smaller."""
    return TrainParams.model_validate(SHIPPED | {"width": 0.0625, "epochs": 4, "batch_size": 4} | changes)


def xrays(count: int, seed: int = 0) -> Subset:
    """Grey pictures with two dark ellipses, and where those are."""
    random = np.random.default_rng(seed)
    images, masks = np.empty((2, count, SIDE, SIDE), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        mask[:] = 0
        for x in (0.3, 0.7):
            centre = np.rint((np.array([x, 0.5]) + random.uniform(-0.06, 0.06, 2)) * SIDE).astype(int).tolist()
            axes = np.rint(np.array([0.13, 0.3]) * SIDE * random.uniform(0.8, 1.2, 2)).astype(int).tolist()
            cv2.ellipse(mask, centre, axes, float(random.uniform(-10, 10)), 0, 360, 1, cv2.FILLED)
        image[:] = np.clip(random.normal(170, 20, (SIDE, SIDE)) - 90.0 * mask, 0, 255)
    return Subset(images, masks, [f"xray-{n:02d}" for n in range(count)])


TRAIN, VALIDATION = xrays(10), xrays(3, seed=1)  # three batches of 4 an epoch


class CutError(Exception):
    """What ends a training from outside."""


class Recorder:
    """A monitor that records its calls and runs a function at one of them."""

    def __init__(self, at: tuple[int, int | None] | None = None, act: Callable[[], None] | None = None) -> None:
        self.at, self.act = at, act
        self.told: list[tuple[Any, ...]] = []

    def start(self, epochs: int, steps: int, first_epoch: int, stage: str) -> None:
        self.told.append(("start", epochs, steps, first_epoch, *([stage] if stage else [])))

    def step(self, epoch: int, step: int, images: int, loss: Callable[[], float]) -> None:
        self.told.append(("step", epoch, step, images, loss()))
        self._act(epoch, step)

    def epoch(self, row: dict[str, float]) -> None:
        self.told.append(("epoch", row["epoch"]))
        self._act(int(row["epoch"]) - 1, None)

    def stop(self) -> None:
        self.told.append(("stop",))

    def _act(self, epoch: int, step: int | None) -> None:
        if self.at == (epoch, step):
            if self.act is None:
                raise CutError
            self.act()


def trainer(
    folder: Path,
    params: TrainParams,
    monitor: Recorder | None = None,
    *,
    seed: int = 0,
    fingerprint: str = "one",
    train: Subset = TRAIN,
    network: nn.Module | str = "res_unet",
) -> Trainer:
    torch.manual_seed(seed)
    built = networks.build(network, params.width, norm=params.norm) if isinstance(network, str) else network
    return Trainer(built, train, VALIDATION, params, seed, ALONE, folder, fingerprint, monitor or Recorder())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with inputs.one_thread():
        yield


def history(result: Result) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in result.history]


def assert_same(one: Result, other: Result) -> None:
    assert history(one) == history(other)
    assert one.best_epoch == other.best_epoch
    assert list(one.weights) == list(other.weights)
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name


@pytest.mark.slow
@pytest.mark.full
def test_a_batch_of_four_is_learnt_by_heart(tmp_path: Path) -> None:
    params = recipe(epochs=40, learning_rate=0.02, augmentation=STILL, checkpoint_every=40)
    four = xrays(4)
    torch.manual_seed(0)
    result = Trainer(
        networks.build("defu_net", params.width), four, four, params, 0, ALONE, tmp_path, "", Recorder()
    ).run()
    best = result.history[result.best_epoch]
    assert best["train_dice"] > 0.97
    assert best["validation_dice"] > 0.97


@pytest.mark.parametrize("ema", daily([0.0, 0.9], 1))
def test_weights_are_those_of_the_best_epoch_and_its_figures_are_true(tmp_path: Path, ema: float) -> None:
    weights = {"dice": 1.0, "cross_entropy": 0.5}
    params = recipe(ema=ema, loss=weights, batch_size=2, images_per_epoch=4, precision="float32", learning_rate=0.03)
    result = trainer(tmp_path, params).run()
    losses = [row["validation_loss"] for row in result.history]
    assert result.best_epoch == losses.index(min(losses))
    network = networks.build("res_unet", params.width)
    network.load_state_dict(result.weights)
    with torch.no_grad():
        logits = network.eval()(to_input(torch.from_numpy(VALIDATION.images)))[:, 0].numpy()
    counts = confusion(logits > 0, VALIDATION.masks)
    pooled = overlap_metrics({name: values.sum() for name, values in counts.items()})
    assert result.history[result.best_epoch]["validation_dice"] == pytest.approx(float(pooled["dice"]), abs=1e-3)
    # The mean over images of the losses of a batch of two and one of one.
    expected = 2 * written_out(logits[:2], VALIDATION.masks[:2]) + written_out(logits[2:], VALIDATION.masks[2:])
    assert min(losses) == pytest.approx(expected / 3, abs=1e-4)


def written_out(logits: np.ndarray, g: np.ndarray) -> float:
    """The paper's Eq. 2 and half the cross-entropy."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    dice = -(2 * (p * g).sum() + 1) / ((p * p).sum() + g.sum() + 1)
    return float(dice - 0.5 * np.log(np.where(g, p, 1 - p)).mean())


def test_monitor_is_told_everything(tmp_path: Path) -> None:
    monitor = Recorder()
    result = trainer(tmp_path, recipe(epochs=2), monitor).run()
    expected: list[tuple[Any, ...]] = [("start", 2, 3, 0)]
    for epoch in range(2):
        expected += [("step", epoch, step, 4) for step in range(3)] + [("epoch", epoch + 1)]
    assert [told[:4] if told[0] == "step" else told for told in monitor.told] == [*expected, ("stop",)]
    first = [told[4] for told in monitor.told if told[0] == "step" and told[1] == 0]
    assert first[-1] == pytest.approx(result.history[0]["train_loss"])  # the mean so far ends as the epoch's


@pytest.mark.parametrize(("images", "steps"), [(0, 3), (3, 1), (4, 1), (5, 2), (40, 10)])
def test_an_epoch_has_as_many_images_as_asked_in_full_batches(tmp_path: Path, images: int, steps: int) -> None:
    monitor, still = Recorder(), recipe(epochs=2, images_per_epoch=images, augmentation=STILL)
    network = Watched()
    result = trainer(tmp_path, still, monitor, network=network).run()
    assert monitor.told[0] == ("start", 2, steps, 0)
    assert [len(batch) for batch in network.seen] == [4] * 2 * steps
    # What it saw is the stream of the seeded order, which an epoch's end does not interrupt.
    order = Sampler(len(TRAIN), 0)
    expected = np.concatenate([TRAIN.images[order.rows(4 * step, 4).numpy()] for step in range(2 * steps)])
    seen = (torch.cat(network.seen)[:, 0] * 255).round().to(torch.uint8).numpy()
    assert np.abs(seen.astype(int) - expected).max() <= 1
    row = result.history[0]
    assert row["images_per_second"] == pytest.approx(4 * steps / row["seconds"])


class Watched(nn.Module):
    """A network that keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        logits: Tensor = self.conv(x)
        return logits


def test_a_seed_repeats_and_another_does_not(tmp_path: Path) -> None:
    params = recipe(epochs=2)
    one, same, other = (
        trainer(tmp_path / name, params, seed=seed).run() for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert_same(one, same)
    assert history(one) != history(other)


@pytest.mark.parametrize("network", daily(["defu_net", "bcdu_net"], 1))
def test_activation_checkpointing_changes_no_bit(tmp_path: Path, network: str) -> None:
    one, other = (
        trainer(tmp_path / str(on), recipe(epochs=2, activation_checkpointing=on), network=network).run()
        for on in (False, True)
    )
    assert_same(one, other)


def test_a_batch_in_parts_is_the_batch(tmp_path: Path) -> None:
    """Where nothing is of a batch as a whole (no BatchNorm, no Dice), the mean of the parts' gradients is its own."""
    given = {"epochs": 2, "loss": {"dice": 0.0, "cross_entropy": 1.0}, "precision": "float32", "ema": 0.0}
    whole, *others = (
        trainer(tmp_path / str(parts), recipe(accumulation=parts, **given), network="unet").run() for parts in (1, 2, 4)
    )
    for result in others:
        for row, expected in zip(result.history, whole.history, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-5)
            assert row["train_dice"] == pytest.approx(expected["train_dice"], abs=1e-3)
        for name, tensor in whole.weights.items():
            torch.testing.assert_close(result.weights[name], tensor, rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize(("processes", "accumulation"), [(3, 1), (2, 4), (8, 1)])
def test_a_batch_that_cannot_be_divided_is_told(tmp_path: Path, processes: int, accumulation: int) -> None:
    given = (
        recipe(accumulation=accumulation),
        0,
        DistributedContext(0, processes, ALONE.device),
        tmp_path,
        "",
        Recorder(),
    )
    with pytest.raises(
        TrainingError,
        match=rf"^train.batch_size 4 is not a multiple of {processes} processes times train.accumulation "
        rf"{accumulation}; ",
    ):
        Trainer(Watched(), TRAIN, VALIDATION, *given)


@pytest.mark.parametrize(("images", "batch", "epochs"), [(1, 1, 1), (5, 4, 1), (3, 8, 2)])
def test_any_number_of_images_and_steps(tmp_path: Path, images: int, batch: int, epochs: int) -> None:
    result = trainer(tmp_path, recipe(epochs=epochs, batch_size=batch), train=xrays(images)).run()
    assert len(result.history) == epochs
    assert all(np.isfinite(list(row.values())).all() for row in result.history)


@pytest.mark.parametrize("precision", daily(["auto", "bfloat16", "float16"], 1))
def test_precision_learns_about_the_same(tmp_path: Path, precision: str) -> None:
    rough, exact = Recorder(), Recorder()
    result = trainer(tmp_path, recipe(precision=precision), rough).run()
    trainer(tmp_path / "exact", recipe(precision="float32"), exact).run()
    assert all(tensor.dtype != torch.float16 for tensor in result.weights.values())
    first, other = (next(told[4] for told in monitor.told if told[0] == "step") for monitor in (rough, exact))
    assert first == pytest.approx(other, abs=0.02)
    # Float16 begins with steps that are skipped until the loss has found its scale.
    assert result.history[-1]["train_loss"] < first - 0.05


class Brittle(nn.Module):
    """A network whose logits are not numbers for a picture that is bright somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (0.9 - x.amax((1, 2, 3), keepdim=True)).sqrt()


def test_a_loss_that_is_no_number_names_epoch_batch_and_image(tmp_path: Path) -> None:
    dim = np.minimum(TRAIN.images, 150)
    dim[7, 3, 3] = 255
    params = recipe(batch_size=1, augmentation=STILL)
    subset = Subset(dim, TRAIN.masks, TRAIN.ids)
    with pytest.raises(TrainingError) as told:
        trainer(tmp_path, params, train=subset, network=Brittle()).run()
    found = re.match(r"epoch 1, batch (\d+) of 10: the loss is not a number \(images xray-07\); ", str(told.value))
    assert found, str(told.value)
    assert "train.learning_rate (now 0.002)" in str(told.value)
    assert not (tmp_path / STATE).exists()
    # The batch it names is where the image stands in the seeded order.
    assert Sampler(10, 0).rows(int(found[1]) - 1, 1).tolist() == [7]


def test_a_gpu_without_memory_left_is_told(tmp_path: Path) -> None:
    class Large(Brittle):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainingError, match=r"^epoch 1: the GPU's memory is full; lower train\.batch_size, raise "):
        trainer(tmp_path, recipe(precision="float32"), network=Large()).run()


def test_a_rate_beyond_all_bounds_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^epoch 1, batch [23] of 3: the loss is not a number \(images xray-\d\d, "
    ):
        trainer(tmp_path, recipe(learning_rate=1e38)).run()


def test_validation_that_is_no_number_is_told(tmp_path: Path) -> None:
    dim = Subset(np.minimum(TRAIN.images, 150), TRAIN.masks, TRAIN.ids)  # validation is bright
    bright = Subset(np.full_like(VALIDATION.images, 255), VALIDATION.masks, VALIDATION.ids)
    given = (recipe(augmentation=STILL), 0, ALONE, tmp_path, "one", Recorder())
    with pytest.raises(TrainingError, match=r"^epoch 1: the validation loss is not a number"):
        Trainer(Brittle(), dim, bright, *given).run()
    assert not (tmp_path / STATE).exists()
