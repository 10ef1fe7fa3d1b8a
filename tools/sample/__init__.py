"""The sample cohort: synthetic chest X-rays of two "manufacturers" with lung masks, in the publishers' layouts.

It replaces a real cohort in examples and tests. It has no patient data: a seeded random generator draws shapes,
textures, readings, ages and sexes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import read_json, write_folder, write_json
from core.parallel import cores
from core.terminal import progress
from tools.sample.anatomy import draw_chest
from tools.sample.machines import MACHINES
from tools.sample.radiograph import draw_lesions, expose

COHORT = "cohort.json"
ENTRIES = frozenset({"MontgomerySet", "ChinaSet_AllFiles", "mask", COHORT, "README.md"})
UNPAIRED_EVERY = 11  # every 11th Shenzhen X-ray has no mask
COLOUR_EVERY, COLOUR_FIRST = 40, 5  # every 40th, from the 5th, is grey stored as RGB
MOST = 999_999  # maximum number of X-rays per site
PARALLEL = 100  # minimum number of patients for several processes
PATIENTS_A_JOB = 8
# Adaptive filters per row, for small files: the sample cohort is committed.
PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 9),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS),
)

README = """\
# Synthetic chest X-rays

Every picture here was computed; none shows a person, and ages, sexes and findings are made up. The folder is for
trying the pipeline and for its tests, not for judging a network or a patient.

{montgomery} X-rays in the layout of the Montgomery set (16-bit PNG holding 12 bits, upright and across, left and right
masks) and {shenzhen} in that of the Shenzhen set (8-bit PNG of varying size, one mask each, {unpaired} without a mask,
{colour} stored as RGB). The number before `.png` is 0 for normal and 1 for abnormal.

A seeded generator draws lungs, heart, ribs, clavicles, shoulder blades, spine, vessels, the organs below and, in the
abnormal ones, lesions; adds up what each takes from the X-rays; and develops the sum as two different machines would,
with their own contrast, sharpness, noise, borders and burnt-in labels. The mask is the outline the lung was drawn from.

Made again, to the same pixels, by

    python -m tools.sample {name} --montgomery {montgomery} --shenzhen {shenzhen} --seed {seed} --scale {scale:g}{more}

Licence: Apache-2.0, like the project that made it.
"""


def _write_png(path: Path, picture: NDArray[Any]) -> None:
    done, data = cv2.imencode(".png", picture, PNG)
    if not done:
        raise RuntimeError(f"{path}: OpenCV did not encode a picture of {picture.shape} {picture.dtype}")
    path.write_bytes(data.tobytes())


@dataclass(frozen=True)
class Xray:
    """One X-ray of the sample.

    Attributes:
        name: the publisher's file name without extension, such as MCUCXR_0001_0.
        picture: uint16 (height, width), 0 to 4095, or uint8 (height, width), or grey as uint8 (height, width, 3).
        left: mask of the patient's left lung, uint8 (height, width), 0 or 255, on the image's right.
        right: mask of the patient's right lung, in the same format.
        reading: text of the clinical reading: sex, age, finding.
    """

    name: str
    picture: NDArray[Any]
    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    reading: str


def draw_xray(site: str, number: int, seed: int = 0, scale: float = 1.0) -> Xray:
    """Return X-ray ``number`` (from 1) of ``montgomery`` or ``shenzhen``; equal arguments give equal pixels.

    Odd numbers are normal, even ones abnormal.
    """
    return next(draw_patient(site, number, [number], seed, scale))


def draw_patient(site: str, patient: int, numbers: range | list[int], seed: int, scale: float) -> Iterator[Xray]:
    """Yield the X-rays ``numbers`` of one patient: the same chest with different contrast, labels and grain.

    A small X-ray takes most of its time to draw the chest, so large cohorts have several X-rays per patient.

    Args:
        site: ``montgomery`` or ``shenzhen``.
        patient: number of the patient; odd ones are normal, even ones abnormal.
        numbers: numbers of the X-rays; the one equal to ``patient`` is the X-ray of :func:`draw_xray`.
        seed: seed of all random draws.
        scale: scale of the images' sides.
    """
    machine = MACHINES[site]
    place = list(MACHINES).index(site)
    # Separate generators for shapes and noise, so that the chest does not depend on the scale.
    shapes = np.random.default_rng([seed, place, patient, 0])
    chest = draw_chest(shapes)
    frame = machine.frame(shapes, scale)
    age = int(shapes.integers(15, 85))
    lesions = draw_lesions(shapes) if patient % 2 == 0 else []
    radiograph = expose(shapes, chest, frame, lesions)
    finding = "; ".join(lesion.finding for lesion in lesions) or "normal"
    for number in numbers:
        picture = machine.develop(np.random.default_rng([seed, place, number, 1]), radiograph, frame)
        if site == "montgomery":
            name = f"MCUCXR_{number:04d}_{int(bool(lesions))}"
            reading = f"Patient's Sex: {'F' if chest.female else 'M'}\nPatient's Age: {age:03d}Y\n{finding}\n"
        else:
            name = f"CHNCXR_{number:04d}_{int(bool(lesions))}"
            reading = f"{'female' if chest.female else 'male'} {age}yrs\n{finding}\n"
            if number % COLOUR_EVERY == COLOUR_FIRST:
                picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
        yield Xray(name, picture, radiograph.left, radiograph.right, reading)


def _write_montgomery(root: Path, xrays: Iterator[Xray]) -> None:
    site = root / "MontgomerySet"
    for xray in xrays:
        _write_png(site / f"CXR_png/{xray.name}.png", xray.picture)
        _write_png(site / f"ManualMask/leftMask/{xray.name}.png", xray.left)
        _write_png(site / f"ManualMask/rightMask/{xray.name}.png", xray.right)
        (site / f"ClinicalReadings/{xray.name}.txt").write_text(xray.reading)


def _write_shenzhen(root: Path, xrays: Iterator[Xray]) -> None:
    for xray in xrays:
        _write_png(root / f"ChinaSet_AllFiles/CXR_png/{xray.name}.png", xray.picture)
        if int(xray.name.split("_")[1]) % UNPAIRED_EVERY:
            _write_png(root / f"mask/{xray.name}_mask.png", xray.left | xray.right)
        (root / f"ChinaSet_AllFiles/ClinicalReadings/{xray.name}.txt").write_text(xray.reading)


FOLDERS = {
    "montgomery": [
        f"MontgomerySet/{part}"
        for part in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask", "ClinicalReadings")
    ],
    "shenzhen": ["ChinaSet_AllFiles/CXR_png", "ChinaSet_AllFiles/ClinicalReadings", "mask"],
}
WRITERS = {"montgomery": _write_montgomery, "shenzhen": _write_shenzhen}


def _write_site(root: Path, site: str, count: int, patients: int, seed: int, scale: float) -> None:
    """Write the X-rays of a site, with one process per core; the number of cores does not change the bytes."""
    if not count:
        return
    for folder in FOLDERS[site]:
        (root / folder).mkdir(parents=True)
    every = range(1, min(count, patients) + 1)
    write = partial(_write_patient, root, site, count, patients, seed, scale)
    with progress(f"sample: {site}", len(every), False) as advance:
        if len(every) < PARALLEL or cores() == 1:
            for patient in every:
                write(patient)
                advance(1)
            return
        # Spawn, not fork, because the caller may have threads.
        with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
            for _ in pool.map(write, every, chunksize=PATIENTS_A_JOB):
                advance(1)


def _write_patient(root: Path, site: str, count: int, patients: int, seed: int, scale: float, patient: int) -> None:
    WRITERS[site](root, draw_patient(site, patient, range(patient, count + 1, patients), seed, scale))


def _is_sample(folder: Path) -> bool:
    if not (folder / COHORT).is_file() or {entry.name for entry in folder.iterdir()} - ENTRIES:
        return False
    cohort = read_json(folder / COHORT)
    return isinstance(cohort, dict) and cohort.get("synthetic") is True


def _check(out: Path, montgomery: int, shenzhen: int, patients: int | None, seed: int, scale: float) -> None:
    problems = [
        f"--{name} is {n}: must be 0 to {MOST}"
        for name, n in (("montgomery", montgomery), ("shenzhen", shenzhen))
        if not 0 <= n <= MOST
    ]
    if patients is not None and (patients < 2 or patients % 2):
        problems.append(f"--patients is {patients}: must be an even number, since every second patient is normal")
    if montgomery == shenzhen == 0:
        problems.append("--montgomery and --shenzhen are both 0: at least one X-ray is needed")
    if seed < 0:
        problems.append(f"--seed is {seed}: must be 0 or more")
    if not 0.1 <= scale <= 12.5:
        problems.append(f"--scale is {scale:g}: must be 0.1 to 12.5, the publishers' full size")
    if problems:
        raise UserError(f"the sample cohort cannot be made: {len(problems)} value(s) to correct", problems)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a new folder")
    # The folder is replaced, so it must be an earlier sample.
    if out.exists() and any(out.iterdir()) and not _is_sample(out):
        raise UserError(f"{out}: holds files that are not a sample cohort; name an empty or a new folder")


def make_sample(
    out: Path,
    montgomery: int = 44,
    shenzhen: int = 66,
    seed: int = 0,
    scale: float = 1.0,
    patients: int | None = None,
) -> None:
    """Write a synthetic cohort in the publishers' layouts; an earlier sample at ``out`` is replaced.

    Odd numbers are normal, even ones abnormal. The same seed and scale give the same pixels, and X-ray ``k`` of a
    site does not depend on the number of X-rays.

    Args:
        out: output folder for ``MontgomerySet/``, ``ChinaSet_AllFiles/``, ``mask/``, ``cohort.json``, ``README.md``.
        montgomery: number of X-rays in the Montgomery layout, uint16, 0 to 4095, each with a left and a right mask.
        shenzhen: number of X-rays in the Shenzhen layout, uint8; every eleventh has no mask.
        seed: seed of all random draws.
        scale: scale of the images' sides; 1 is about 320 x 390 pixels, 12.5 the publishers' 4020 x 4892.
        patients: number of patients per site, even; X-ray ``k`` is of patient ``k`` modulo this number. None: one
            patient per X-ray.

    Raises:
        UserError: a value is out of range, ``out`` has other files, or the disk is full.
    """
    out = Path(out)
    _check(out, montgomery, shenzhen, patients, seed, scale)
    with write_folder(out) as folder:
        for site, count in (("montgomery", montgomery), ("shenzhen", shenzhen)):
            _write_site(folder, site, count, patients or count, seed, scale)
        repeated = f", {patients} patients of each" if patients else ""
        write_json(
            folder / COHORT,
            {
                "name": "synthetic-sample",
                "synthetic": True,
                "description": f"{montgomery + shenzhen} computed chest X-rays ({montgomery} in the Montgomery layout, "
                f"{shenzhen} in the Shenzhen layout{repeated}, seed {seed}); none shows a person",
            },
        )
        text = README.format(
            montgomery=montgomery,
            shenzhen=shenzhen,
            unpaired=shenzhen // UNPAIRED_EVERY,
            colour=sum(number % COLOUR_EVERY == COLOUR_FIRST for number in range(1, shenzhen + 1)),
            name=out.name,
            seed=seed,
            scale=scale,
            more=f" --patients {patients}" if patients else "",
        )
        (folder / "README.md").write_text(text)
