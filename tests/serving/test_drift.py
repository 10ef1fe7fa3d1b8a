"""Drift: a stream of predictions against the training images, from the tables of predict and the record of serve."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from components.register.statistics import describe_training
from core.files import sha256
from defunet.__main__ import app
from model.inference.package import CONTRACT, PERCENTILES, Contract, Training
from model.inference.quality import Quality
from model.lungs import halves
from model.preprocessing import standardise
from model.weights import WEIGHTS
from serving.drift import EXPECTED_DICE, FIGURES, TRAINING, Drift, Group, Observed, psi, references, watch
from serving.drift.command import DRIFT
from serving.drift.outputs import DOCUMENT, PAGE, TITLES, lines
from serving.xray.device import device, taken
from tests.conftest import Trained, refused
from tests.serving.dicoms import dataset, dicom
from tests.serving.serving import chest, launch, png, ready
from tools.sample import draw_xray

SIDE, DRAWN, SEEDS = 64, 120, 20
WITHIN = 50  # pictures after a change
Figures = dict[str, float]


def drawn(site: str) -> tuple[list[Figures], Training]:
    """Figures of the artificial X-rays of a site, and what training on them would put into the contract."""
    pictures, masks = [], []
    for number in range(1, DRAWN + 1):
        xray = draw_xray(site, number, scale=0.125)
        grey = xray.picture if xray.picture.ndim == 2 else xray.picture[..., 0]
        pictures.append(standardise(grey, SIDE, "area", (0.5, 99.5)))
        both = ((xray.left + xray.right) > 0).astype(np.uint8)
        masks.append(cv2.resize(both, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST))
    soft = np.stack([cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1) for mask in masks])
    size = pd.DataFrame({"height": [512.0] * DRAWN, "width": [512.0] * DRAWN})
    training = describe_training(size, np.stack(pictures), np.stack(masks), soft)
    return [figures(*each) for each in zip(pictures, masks, soft, strict=True)], training


def figures(picture: np.ndarray, mask: np.ndarray, soft: np.ndarray) -> Figures:
    on_left, on_right = (half.mean() for half in halves(mask))
    return {
        "grey_mean": picture.mean(),
        "grey_deviation": picture.std(),
        "lung_area": mask.mean(),
        "right_area": on_left,
        "left_area": on_right,
        "symmetry": min(on_left, on_right) / max(on_left, on_right),
        "uncertain": ((soft >= 0.25) & (soft <= 0.75)).mean(),
        "height": 512.0,
        "width": 512.0,
        "expected_dice": float(soft.mean()),
    }


def stream(chance: np.random.Generator, count: int, of: list[Figures], machine: str = "A") -> list[Observed]:
    rows = chance.integers(0, len(of), count)
    return [Observed(f"2026-01-{1 + n // 50:02}", machine, False, of[row]) for n, row in enumerate(rows)]


@pytest.fixture(scope="module")
def sites() -> tuple[list[Figures], list[Figures], Training]:
    montgomery, training = drawn("montgomery")
    return montgomery, drawn("shenzhen")[0], training


@pytest.mark.full
@pytest.mark.slow
def test_a_change_of_site_gives_an_alarm_soon_and_no_change_gives_none(
    sites: tuple[list[Figures], list[Figures], Training],
) -> None:
    montgomery, shenzhen, training = sites
    for seed in range(SEEDS):
        chance = np.random.default_rng(seed)
        assert watch(stream(chance, 1000, montgomery), references(training)).alarms == []
        before = int(chance.integers(200, 300))
        changing = stream(chance, before, montgomery) + stream(chance, 200, shenzhen)
        (alarm,) = watch(changing, references(training)).alarms
        assert 0 < alarm.picture - before <= WITHIN


def test_each_device_is_a_stream_of_its_own(sites: tuple[list[Figures], list[Figures], Training]) -> None:
    montgomery, shenzhen, training = sites
    chance = np.random.default_rng(0)
    both = [*stream(chance, 100, montgomery, "A"), *stream(chance, 100, shenzhen, "B")]
    found = watch([both[n] for n in chance.permutation(len(both))], references(training))
    assert [alarm.device for alarm in found.alarms] == ["B"]
    assert sum(group.pictures for group in found.groups) == len(both)
    calm, changed = (max(found.psi[name].values()) for name in "AB")
    assert calm < 0.25 < changed


def test_figures_without_a_spread_or_a_value_are_not_tested(
    sites: tuple[list[Figures], list[Figures], Training],
) -> None:
    montgomery, _, training = sites
    chance = np.random.default_rng(0)
    other = [values | {"height": 9.0, "symmetry": np.nan} for values in montgomery]
    assert watch(stream(chance, 100, other), references(training)).alarms == []  # the training images had one size
    old = replace(training, validated=0)  # a package of an earlier release
    unsure = [values | {"uncertain": 1.0} for values in montgomery]
    assert watch(stream(chance, 100, unsure), references(old)).alarms == []
    assert watch(stream(chance, 100, unsure), references(training)).alarms[0].figure == "uncertain"
    assert watch([], references(training)).alarms == []


def test_masks_that_are_expected_to_be_worse_give_an_alarm(
    sites: tuple[list[Figures], list[Figures], Training],
) -> None:
    montgomery, _, training = sites
    chance = np.random.default_rng(0)
    expected = np.sort(chance.uniform(0.94, 0.98, 76))
    quality = Quality(1.0, 2.0, 76, np.percentile(expected, PERCENTILES).tolist())
    calm = [values | {EXPECTED_DICE: float(chance.choice(expected))} for values in montgomery]
    worse = [values | {EXPECTED_DICE: values[EXPECTED_DICE] - 0.03} for values in calm]
    reference = references(training, quality)
    assert watch(stream(chance, 500, calm), reference).alarms == []
    (alarm,) = watch(stream(chance, 100, worse), reference).alarms
    assert (alarm.figure, alarm.picture) == (EXPECTED_DICE, 25)
    # Packages of earlier releases do not have the percentiles, and some pictures no expected Dice.
    assert EXPECTED_DICE not in references(training, Quality(1.0, 2.0, 76))
    unknown = [values | {EXPECTED_DICE: np.nan} for values in montgomery]
    assert watch(stream(chance, 100, unknown), reference).alarms == []


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=200))
def test_the_stability_index_is_at_least_zero(values: list[float]) -> None:
    percentiles = [float(each) for each in np.linspace(-5, 5, len(PERCENTILES))]
    assert psi(np.array(values), percentiles) >= 0


def test_the_stability_index_of_the_same_distribution_is_zero_and_of_another_large() -> None:
    sample = np.random.default_rng(0).normal(size=20_000)
    percentiles = np.percentile(sample, PERCENTILES).tolist()
    assert psi(sample, percentiles) < 1e-4
    assert psi(sample + 1, percentiles) > 0.25


# The command


def defunet(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["drift", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def table(folder: Path, package: Path, shift: float, count: int = 60) -> Path:
    """Write predictions as of one machine, whose pictures are brighter than the training's by ``shift``."""
    contract = Contract.read(package)
    training, quality = contract.training, contract.quality
    assert quality is not None
    shares = (np.arange(count) + 0.5) / count * 100
    shares = np.random.default_rng(0).permutation(shares)
    fields = {name: np.interp(shares, PERCENTILES, getattr(training, field)) for name, field in TRAINING.items()}
    fields[EXPECTED_DICE] = np.interp(shares, PERCENTILES, quality.expected)
    rows: list[dict[str, Any]] = [{"file": "failed.png", "status": "failed", "error": "x", "sha256": ""}]
    for number in range(count):
        values = {name: float(column[number]) for name, column in fields.items()}
        areas = {
            name.partition("_")[0]: {"share": values.pop(name)} for name in ("lung_area", "left_area", "right_area")
        }
        areas["lungs"] = areas.pop("lung")
        rows.append(
            values
            | areas
            | {"grey_mean": values["grey_mean"] + shift, "flags": [{"name": "shape"}] if number == 0 else []}
            | {
                "file": f"{number:03}.dcm",
                "status": "ok",
                "day": f"2026-02-{1 + number // 20:02}",
                "device": "Röntgen $1",
            }
        )
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"results": rows}))
    return folder


def test_it_prints_a_page_gauges_and_an_exit_code(package: Path, tmp_path: Path) -> None:
    calm = table(tmp_path / "calm", package, 0)
    told = defunet(calm, "--model", package)
    assert told.splitlines()[-1] == "60 predictions, tested in windows of 25: no alarm"
    assert "Röntgen $1, 2026-02-01: 20 X-rays, 5% with flags" in told
    assert "Röntgen $1, last 100 X-rays: PSI at most" in told

    changed = table(tmp_path / "changed", package, 60)
    out, gauges = tmp_path / "page", tmp_path / "drift.prom"
    told = defunet(changed / "results.json", "--model", package, "-o", out, "--prometheus", gauges, code=DRIFT)
    assert "alarm: Röntgen $1: mean grey value is" in told
    page = (out / PAGE).read_text()
    contract = Contract.read(package)
    reference = references(contract.training, contract.quality)
    assert EXPECTED_DICE in reference
    assert page.count("<svg") == len(reference)
    assert TITLES[EXPECTED_DICE] in page
    assert 'role="alert"' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    document = json.loads((out / DOCUMENT).read_text())
    assert document["alarms"][0]["figure"] == "grey_mean"
    families = {each.name: each for each in text_string_to_metric_families(gauges.read_text())}
    (alarm,) = families["defunet_drift_alarm"].samples
    assert (alarm.labels, alarm.value) == ({"device": "Röntgen $1"}, 1)
    assert families["defunet_drift_pictures"].samples[0].value == 60
    assert {each.labels["figure"] for each in families["defunet_drift_psi"].samples} <= set(FIGURES)
    first = page, document
    defunet(changed, "--model", package, "-o", out, code=DRIFT)
    assert first == ((out / PAGE).read_text(), json.loads((out / DOCUMENT).read_text()))


def test_predictions_of_another_model_are_refused(package: Path, tmp_path: Path) -> None:
    made = table(tmp_path / "made", package, 0) / "results.json"
    other = {"name": "cxr-lungs", "version": "7", "weights_sha256": "0" * 64}
    made.write_text(json.dumps(json.loads(made.read_text()) | {"model": other}))
    told = defunet(made, "--model", package, code=1)
    assert "predictions of cxr-lungs version 7, which is another model; name it with --model" in told
    right = other | {"weights_sha256": sha256(package / WEIGHTS)}
    made.write_text(json.dumps(json.loads(made.read_text()) | {"model": right}))
    assert "no alarm" in defunet(made, "--model", package)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nowhere.json", None, "cannot be read (No such file"),
        ("results.json", "{}", "no results.json of predict and no record of serve"),
        ("record.jsonl", "{", "no results.json of predict and no record of serve"),
        ("results.json", '{"results": [{"file": "a", "status": "ok"}]}', "made by an earlier release; predict again"),
    ],
)
def test_what_are_no_predictions_is_told(
    package: Path, tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    told = defunet(tmp_path / name, "--model", package, code=1)
    assert words in told
    assert len(told.strip().splitlines()) == 1


# Device, day, and the record of a service


def test_device_and_day_are_the_headers() -> None:
    header = dataset(chest(), Manufacturer="ACME ", ManufacturerModelName="X 1", StudyDate="20260131")
    assert (device(header), taken(header)) == ("ACME X 1", "2026-01-31")
    header.AcquisitionDate = "2026.02.01"
    assert taken(header) == "2026-02-01"
    header.AcquisitionDate, header.StudyDate = "soon", ""
    assert taken(header) == ""
    header.add_new("Manufacturer", "LO", ["ACME", "B"])
    header.add_new("ManufacturerModelName", "US", 7)
    header.add_new("StudyDate", "US", 7)
    assert (device(header), taken(header)) == ("", "")
    assert (device(None), taken(None)) == ("", "")


def test_a_device_with_fewer_pictures_than_a_window_is_named() -> None:
    groups = [Group(device, day, 20, 0.0, {}) for device, day in (("A", "1"), ("A", "2"), ("B", "1"))]
    told = list(lines(Drift([], groups, {}), 60, 25))
    assert told[-2:] == [
        "not tested: B, 20 of the 25 X-rays of a window",
        "60 predictions, tested in windows of 25: no alarm",
    ]
    assert not [line for line in told if line.startswith("not tested: A")]


@pytest.mark.slow
def test_a_service_records_what_drift_reads(trained: Trained, package: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    service = ready(launch(trained.project, package, "--record", record))
    scan = dicom(chest(), Manufacturer="ACME", ManufacturerModelName="X 1", StudyDate="20260131")
    for data in (png(chest()), scan):
        assert service.predict(data).status_code == 200
    assert service.predict(b"no picture").status_code == 422
    service.stop()
    first, second = map(json.loads, record.read_text().splitlines())
    assert (first["device"], second["device"]) == ("", "ACME X 1")
    assert first["version"]
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert "SECRET" not in record.read_text()
    assert "Jane" not in record.read_text()
    told = defunet(record, "--model", package)
    assert f"ACME X 1, {second['day']}: 1 X-ray, " in told


@pytest.mark.parametrize(("file", "words"), [("r.txt", "must end in .jsonl"), ("no/r.jsonl", "cannot be written")])
def test_a_record_that_cannot_be_kept_is_refused_at_the_start(
    trained: Trained, package: Path, file: str, words: str
) -> None:
    line = trained.project.line("serve", "--model", package, "--port", 0, "--record", file)
    assert words in refused(trained.project.call(line))


def test_the_contract_counts_its_validation_images(package: Path) -> None:
    assert json.loads((package / CONTRACT).read_text())["training"]["validated"] > 0
