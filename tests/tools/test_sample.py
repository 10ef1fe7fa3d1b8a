"""The sample cohort: what the generator makes, and that the committed folder is what it makes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from tools.sample import draw_xray, make_sample

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "samples"
MONTGOMERY = "MontgomerySet/CXR_png/*.png"
SHENZHEN = "ChinaSet_AllFiles/CXR_png/*.png"


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    return pixels


def grey(pixels: np.ndarray) -> np.ndarray:
    """As float, 0 to 1 of the format's range."""
    plain = pixels[..., 0] if pixels.ndim == 3 else pixels
    return plain / (4095 if pixels.dtype == np.uint16 else 255)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.sample", *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "small"
    make_sample(out, montgomery=4, shenzhen=11, seed=3, scale=0.25)
    return out


def pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every X-ray that has a mask, with the union of its masks."""
    found = []
    for path in sorted(folder.glob(MONTGOMERY)):
        left, right = (read(folder / "MontgomerySet/ManualMask" / s / path.name) for s in ("leftMask", "rightMask"))
        found.append((read(path), left | right))
    for path in sorted(folder.glob(SHENZHEN)):
        mask = folder / "mask" / f"{path.stem}_mask.png"
        if mask.exists():
            found.append((read(path), read(mask)))
    return found


# Layout


def test_files_lie_in_the_publishers_layouts(small: Path) -> None:
    montgomery = [f"MCUCXR_{n:04d}_{1 - n % 2}" for n in range(1, 5)]
    shenzhen = [f"CHNCXR_{n:04d}_{1 - n % 2}" for n in range(1, 12)]
    expected = {"cohort.json", "README.md"}
    expected |= {f"MontgomerySet/CXR_png/{name}.png" for name in montgomery}
    expected |= {f"MontgomerySet/ManualMask/{side}Mask/{name}.png" for name in montgomery for side in ("left", "right")}
    expected |= {f"MontgomerySet/ClinicalReadings/{name}.txt" for name in montgomery}
    expected |= {f"ChinaSet_AllFiles/CXR_png/{name}.png" for name in shenzhen}
    expected |= {f"ChinaSet_AllFiles/ClinicalReadings/{name}.txt" for name in shenzhen}
    expected |= {f"mask/{name}_mask.png" for name in shenzhen[:-1]}  # the eleventh has none
    assert set(files(small)) == expected


def test_readings_are_written_as_the_publishers_write_them(small: Path) -> None:
    for path in small.glob("*/ClinicalReadings/*.txt"):
        text = path.read_text()
        pattern = (
            r"Patient's Sex: [FM]\nPatient's Age: 0\d\dY\n(.+)\n"
            if path.name.startswith("MCU")
            else r"(?:fe)?male \d\dyrs\n(.+)\n"
        )
        match = re.fullmatch(pattern, text)
        assert match, (path.name, text)
        assert (match[1] == "normal") == path.stem.endswith("_0")


def test_the_cohort_says_that_it_is_synthetic(small: Path) -> None:
    cohort = json.loads((small / "cohort.json").read_text())
    assert cohort["synthetic"] is True
    assert cohort["name"]
    assert "4 in the Montgomery layout, 11 in the Shenzhen layout" in cohort["description"]
    assert "Synthetic" in (small / "README.md").read_text()
    assert "Apache-2.0" in (small / "README.md").read_text()


def test_formats_differ_as_the_machines_do(small: Path) -> None:
    film = [read(path) for path in sorted(small.glob(MONTGOMERY))]
    digital = [read(path) for path in sorted(small.glob(SHENZHEN))]
    assert {picture.dtype for picture in film} == {np.dtype(np.uint16)}
    assert max(picture.max() for picture in film) == 4095
    assert {picture.dtype for picture in digital} == {np.dtype(np.uint8)}
    assert len({picture.shape[:2] for picture in digital}) > 5
    colour = [picture for picture in digital if picture.ndim == 3]
    assert len(colour) == 1
    assert (colour[0] == colour[0][..., :1]).all()


# Masks


@settings(max_examples=40, deadline=None)
@given(
    site=st.sampled_from(["montgomery", "shenzhen"]),
    number=st.integers(1, 9999),
    seed=st.integers(0, 2**40),
    scale=st.sampled_from([0.1, 0.17, 0.25, 0.5]),
)
def test_masks_are_two_lungs(site: str, number: int, seed: int, scale: float) -> None:
    xray = draw_xray(site, number, seed, scale)
    for lung in (xray.left, xray.right):
        assert lung.shape == xray.picture.shape[:2]
        assert lung.dtype == np.uint8
        assert set(np.unique(lung)) == {0, 255}
        assert cv2.connectedComponents(lung)[0] == 2  # the background and one lung
        framed = lung.copy()
        framed[1:-1, 1:-1] = 0
        assert not framed.any(), "a lung is cut off by the picture's edge"
    assert not (xray.left & xray.right).any()
    assert 0.12 <= ((xray.left | xray.right) > 0).mean() <= 0.45
    # The patient faces the machine: the left lung is on the right of the picture.
    assert np.nonzero(xray.left)[1].mean() > np.nonzero(xray.right)[1].mean()


@settings(max_examples=10, deadline=None)
@given(number=st.integers(1, 500), site=st.sampled_from(["montgomery", "shenzhen"]))
def test_scale_changes_the_pixels_not_the_chest(number: int, site: str) -> None:
    one, half = draw_xray(site, number, 0, 0.8), draw_xray(site, number, 0, 0.4)
    assert one.reading == half.reading
    for large, little in ((one.left, half.left), (one.right, half.right)):
        shrunk = cv2.resize(large, little.shape[::-1], interpolation=cv2.INTER_AREA) > 127
        overlap = 2 * (shrunk & (little > 127)).sum() / (shrunk.sum() + (little > 127).sum())
        assert overlap > 0.96


def test_at_the_largest_scale_a_montgomery_xray_has_the_publishers_size() -> None:
    from tools.sample.machines import MACHINES

    frames = [MACHINES["montgomery"].frame(np.random.default_rng(n), 12.5) for n in range(20)]
    assert {frame.shape for frame in frames} == {(4020, 4892), (4892, 4020)}


# Repetition


def test_the_same_seed_gives_the_same_files_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "again" / "small", montgomery=4, shenzhen=11, seed=3, scale=0.25)
    assert files(tmp_path / "again" / "small") == files(small)
    make_sample(tmp_path / "other", montgomery=4, shenzhen=11, seed=4, scale=0.25)
    other = files(tmp_path / "other")
    for name, data in files(small).items():
        if name.endswith(".png"):
            assert other[name] != data, name


def test_an_xray_does_not_depend_on_how_many_are_made(small: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "fewer", montgomery=2, shenzhen=5, seed=3, scale=0.25)
    fewer, more = files(tmp_path / "fewer"), files(small)
    pictures = [name for name in fewer if name not in ("cohort.json", "README.md")]
    assert len(pictures) == 2 * 4 + 5 * 3
    for name in pictures:
        assert fewer[name] == more[name], name


def test_no_two_xrays_are_alike(small: Path) -> None:
    pictures = [data for name, data in files(small).items() if name.endswith(".png")]
    assert len(set(pictures)) == len(pictures)


# The task


def best_band(picture: np.ndarray, mask: np.ndarray) -> float:
    """The Dice that the best pair of grey values, chosen with the mask in sight, reaches."""
    values, lung = grey(picture), mask > 0
    edges = np.linspace(0, 1, 41)
    inside = np.histogram(values[lung], edges)[0]
    everywhere = np.histogram(values, edges)[0]
    hits = np.concatenate([[0], np.cumsum(inside)])
    marked = np.concatenate([[0], np.cumsum(everywhere)])
    lower, upper = np.triu_indices(len(edges), 1)
    dice = 2 * (hits[upper] - hits[lower]) / (marked[upper] - marked[lower] + lung.sum())
    return float(dice.max())


def test_no_threshold_finds_the_lungs_though_they_are_darker_than_what_surrounds_them() -> None:
    for site in ("montgomery", "shenzhen"):
        found = []
        for number in range(1, 9):
            xray = draw_xray(site, number, 0, 0.5)
            lung = (xray.left | xray.right) > 0
            ring = cv2.dilate(lung.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~lung
            values = grey(xray.picture)
            assert values[lung].mean() < values[ring].mean()
            found.append(best_band(xray.picture, lung))
        assert 0.5 < np.mean(found) < 0.88


def test_the_two_machines_show_lungs_and_surround_differently(small: Path) -> None:
    film, digital = [], []
    for picture, mask in pairs(small):
        lung = float(np.median(grey(picture)[mask > 0]))
        black = float((grey(picture) < 0.01).mean())
        (film if picture.dtype == np.uint16 else digital).append((lung, black))
    assert np.mean(film, axis=0)[0] + 0.1 < np.mean(digital, axis=0)[0]  # film: darker lungs
    assert np.mean(film, axis=0)[1] > 0.03 + np.mean(digital, axis=0)[1]  # and a black surround


def test_lesions_show_inside_the_lungs_and_nowhere_else() -> None:
    from tools.sample.anatomy import RIGHT, draw_chest
    from tools.sample.machines import MACHINES
    from tools.sample.radiograph import KINDS, Lesion, expose

    for kind in KINDS:
        rng = np.random.default_rng(5)
        chest = draw_chest(rng)
        frame = MACHINES["shenzhen"].frame(rng, 0.5)
        plain = expose(np.random.default_rng(1), chest, frame, [])
        ill = expose(np.random.default_rng(1), chest, frame, [Lesion(kind, RIGHT, "middle", 7)])
        added = ill.attenuation - plain.attenuation
        assert (ill.right == plain.right).all()
        assert added[plain.right > 0].max() > 0.08, kind
        outside = cv2.dilate(plain.right, np.ones((9, 9), np.uint8)) == 0
        assert np.abs(added[outside]).max() < 0.01, kind


# The committed folder


def test_the_committed_sample_is_whole() -> None:
    montgomery, shenzhen = sorted(SAMPLES.glob(MONTGOMERY)), sorted(SAMPLES.glob(SHENZHEN))
    assert (len(montgomery), len(shenzhen)) == (44, 66)
    found = pairs(SAMPLES)
    assert len(found) == 44 + 60
    assert sum(len(data) for data in files(SAMPLES).values()) < 9_000_000
    for names in (montgomery, shenzhen):
        assert sum(path.stem.endswith("_1") for path in names) == len(names) // 2
    for picture, mask in found:
        assert picture.shape[:2] == mask.shape
        assert set(np.unique(mask)) == {0, 255}
        assert cv2.connectedComponents(mask)[0] == 3
        assert 0.12 <= (mask > 0).mean() <= 0.45
    film = [picture for picture, _ in found if picture.dtype == np.uint16]
    assert {picture.shape[0] < picture.shape[1] for picture in film} == {True, False}  # both orientations
    assert sum(picture.ndim == 3 for picture, _ in found) == 2
    assert json.loads((SAMPLES / "cohort.json").read_text())["synthetic"] is True


@pytest.mark.parametrize(
    ("site", "number"),
    [("montgomery", 1), ("montgomery", 22), ("montgomery", 44), *(("shenzhen", n) for n in (5, 38, 66))],
)
def test_the_committed_sample_is_what_the_generator_makes(site: str, number: int) -> None:
    xray = draw_xray(site, number)
    if site == "montgomery":
        images = SAMPLES / "MontgomerySet"
        masks = {images / "ManualMask/leftMask": xray.left, images / "ManualMask/rightMask": xray.right}
        masks = {folder / f"{xray.name}.png": mask for folder, mask in masks.items()}
        step = 15  # one step of the quantised grey, and the last step to full white
    else:
        images = SAMPLES / "ChinaSet_AllFiles"
        masks = {SAMPLES / "mask" / f"{xray.name}_mask.png": xray.left | xray.right} if number % 11 else {}
        step = 1
    assert (images / "ClinicalReadings" / f"{xray.name}.txt").read_text() == xray.reading
    # Another processor may round the last bit of a sine differently; nothing more may differ.
    for path, mask in masks.items():
        assert (read(path) != mask).mean() < 1e-4
    stored = read(images / "CXR_png" / f"{xray.name}.png")
    assert stored.dtype == xray.picture.dtype
    assert stored.shape == xray.picture.shape
    difference = np.abs(stored.astype(int) - xray.picture)
    assert (difference > 0).mean() < 1e-3
    assert difference.max() <= step


# The command, and calls that are wrong


def test_the_command_makes_a_cohort_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    first = command(out, "--montgomery", 2, "--shenzhen", 1, "--scale", 0.2)
    assert first.returncode == 0, first.stderr
    assert "2 + 1 synthetic" in first.stdout
    second = command(out, "--montgomery", 0, "--shenzhen", 2, "--scale", 0.2, "--seed", 9)
    assert second.returncode == 0, second.stderr
    assert not (out / "MontgomerySet").exists()
    assert len(list(out.glob(SHENZHEN))) == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"cohort", ".cohort.lock"}


def test_a_large_cohort_has_few_patients_and_no_picture_twice(tmp_path: Path) -> None:
    made = command(tmp_path / "many", "--count", 25, "--patients", 4, "--scale", 0.1)
    assert made.returncode == 0, made.stderr
    assert "10 + 15 synthetic" in made.stdout
    pictures = [*(tmp_path / "many").glob(MONTGOMERY), *(tmp_path / "many").glob(SHENZHEN)]
    assert len(pictures) == 25
    assert len({read(path).tobytes() for path in pictures}) == 25
    # X-ray 5 is of patient 1 again: the same chest, with the first X-ray's own pixels unchanged.
    masks = tmp_path / "many/MontgomerySet/ManualMask/leftMask"
    assert (masks / "MCUCXR_0005_0.png").read_bytes() == (masks / "MCUCXR_0001_0.png").read_bytes()
    assert (masks / "MCUCXR_0006_1.png").read_bytes() != (masks / "MCUCXR_0001_0.png").read_bytes()
    assert np.array_equal(
        read(tmp_path / "many/MontgomerySet/CXR_png/MCUCXR_0001_0.png"), draw_xray("montgomery", 1, scale=0.1).picture
    )


@pytest.mark.full
def test_processes_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sample(tmp_path / "one", montgomery=3, shenzhen=9, scale=0.1, patients=6)
    monkeypatch.setattr("tools.sample.PARALLEL", 2)
    monkeypatch.setattr("tools.sample.cores", lambda: 2)
    monkeypatch.setattr("tools.sample.PATIENTS_A_JOB", 1)
    make_sample(tmp_path / "other", montgomery=3, shenzhen=9, scale=0.1, patients=6)
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert one.pop("README.md") != other.pop("README.md")  # it names its folder
    assert one == other


def test_the_command_lists_every_wrong_value_and_makes_nothing(tmp_path: Path) -> None:
    done = command(
        tmp_path / "out", "--montgomery", -1, "--shenzhen", 10**6, "--seed", -2, "--scale", 0.01, "--patients", 3
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in ("--montgomery is -1", "--shenzhen is 1000000", "--seed is -2", "--scale is 0.01", "--patients is 3"):
        assert part in done.stderr
    assert not any(tmp_path.iterdir())


def test_no_xrays_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one X-ray"):
        make_sample(tmp_path / "out", montgomery=0, shenzhen=0)


@pytest.mark.parametrize("foreign", ["thesis.txt", "cohort.json", "both"])
def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, foreign: str) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    if foreign in ("cohort.json", "both"):
        (out / "cohort.json").write_text('{"synthetic": true}' if foreign == "both" else '{"synthetic": false}')
    if foreign in ("thesis.txt", "both"):
        (out / "thesis.txt").write_text("years of work")
    before = files(out)
    with pytest.raises(UserError, match="not a sample cohort"):
        make_sample(out, montgomery=1, shenzhen=1, scale=0.1)
    assert files(out) == before


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="is a file"):
        make_sample(tmp_path / "out", montgomery=1, shenzhen=1, scale=0.1)
    assert (tmp_path / "out").read_text() == "a file"
