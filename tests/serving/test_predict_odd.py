"""Odd and hostile files: each is one row or one line, and never the end of the others."""

from __future__ import annotations

import csv
import io
import os
import stat
import struct
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence

from core.images import ImageError, encode, read_image
from serving.xray import header
from serving.xray.codestream import MOST_SCANS
from serving.xray.decoding import Decoders
from serving.xray.reading import Xray, read_xray
from tests.serving.dicoms import dataset, dicom, saved
from tests.serving.serving import chest, png
from tests.serving.test_predict import SHENZHEN, Caller, call  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PICTURE = chest()


def with_element(tag: int, vr: str, value: object) -> bytes:
    """Return a DICOM in which an element has a VR that it may not have."""
    made = dataset(PICTURE)
    made[tag] = DataElement(tag, vr, value)
    return saved(made)


def nested(depth: int) -> bytes:
    made = dataset(PICTURE)
    inner = Dataset()
    inner.PatientID = "x"
    for _ in range(depth):
        outer = Dataset()
        outer.RequestAttributesSequence = Sequence([inner])
        inner = outer
    made.RequestAttributesSequence = Sequence([inner])
    return saved(made)


ODD = {
    "names.dcm": (dicom(PICTURE, OperatorsName="A^B\\C^D"), "ok"),
    "nested.dcm": (nested(150), "ok"),
    "orientation.dcm": (with_element(0x00200020, "US", 7), "ok"),
    "far.dcm": (dicom(PICTURE, PixelSpacing=["1e200", "1e200"]), "ok"),
    "kilometre.dcm": (dicom(PICTURE, PixelSpacing=["1000000", "1000000"]), "ok"),
    "uid.dcm": (with_element(0x0020000D, "US", 7), "ok"),
    "spacing.dcm": (with_element(0x00280030, "OB", b"\1\2"), "ok"),
    "pixels.dcm": (with_element(0x7FE00010, "SV", 1), "failed"),
}


def test_odd_dicoms_are_rows(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    ward = tmp_path / "odd"
    ward.mkdir()
    for name, (data, _) in ODD.items():
        (ward / name).write_bytes(data)
    (ward / "plain.png").write_bytes(png(PICTURE))
    _, errors = call(ward, code=1)
    rows = call.rows()
    assert {name: rows[name]["status"] for name in ODD} == {name: status for name, (_, status) in ODD.items()}
    assert rows["plain.png"]["status"] == "ok"
    assert "Traceback" not in errors
    for name in ("far.dcm", "kilometre.dcm"):
        assert rows[name]["spacing"] is None
        assert rows[name]["lungs"]["cm2"] is None
        assert "spacing" in [flag["name"] for flag in rows[name]["flags"]]
    assert "no DICOM SEG can refer to it" in rows["uid.dcm"]["note"]
    assert "seg" in rows["names.dcm"]
    seg = pydicom.dcmread(call.out / rows["names.dcm"]["seg"])
    assert seg.StudyInstanceUID == pydicom.dcmread(ward / "names.dcm").StudyInstanceUID


def test_what_passes_between_the_processes_is_plain() -> None:
    made = dataset(PICTURE, OperatorsName="A^B\\C^D", PixelSpacing=[0.4, 0.5], PatientOrientation=["L", "F"])
    made.RequestAttributesSequence = Sequence([Dataset()])
    made.add_new(0x00091001, "LO", "private")
    made.PatientComments = "x" * 2000
    found = header.from_bytes(header.to_bytes(made, None))
    assert found.OperatorsName == made.OperatorsName
    assert (list(found.PatientOrientation), list(found.PixelSpacing)) == (["L", "F"], [0.4, 0.5])
    assert found.StudyInstanceUID == made.StudyInstanceUID
    for keyword in ("RequestAttributesSequence", "PatientComments", "PixelData"):
        assert keyword not in found
    assert 0x00091001 not in found
    assert list(header.from_bytes(header.to_bytes(made, ["PatientOrientation"])).keys()) == [0x00200020]


def test_an_error_that_nobody_foresaw_is_a_row_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins\n"
        "real = builtins.__import__\n"
        "def fake(name, *rest, **more):\n"
        "    module = real(name, *rest, **more)\n"
        "    if name == 'serving.xray.reading':\n"
        "        def read_xray(*_):\n"
        "            raise KeyError('Doe^Jane')\n"
        "        module.read_xray = read_xray\n"
        "    return module\n"
        "builtins.__import__ = fake\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        decoders = Decoders(1, 1.0)
        try:
            with pytest.raises(ImageError, match=r"^x\.png: damaged: its decoder fails on it \(KeyError\)"):
                decoders.read(png(PICTURE), "x.png", time.monotonic() + 60)
        finally:
            decoders.close()


# JPEG


def jpeg(progressive: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", quality=92, progressive=progressive)
    return file.getvalue()


def read(data: bytes, name: str = "x.jpg") -> Xray:
    return read_xray(data, name, 60.0)


def test_a_jpeg_with_bytes_that_do_not_belong_there_is_flagged() -> None:
    data = jpeg()
    assert read(data).doubts == ()
    assert [name for name, _ in read(data[:-2] + b"\x12\x34\x56" + data[-2:]).doubts] == ["damaged"]


def test_a_jpeg_that_ends_early_is_refused() -> None:
    data = jpeg()
    for cut in (data[: len(data) // 2], data[: len(data) // 2] + data[-2:]):
        with pytest.raises(ImageError, match=r"x\.jpg: damaged or cut short"):
            read(cut)


def test_flipped_bits_of_a_jpeg_are_refused_or_flagged_wherever_libjpeg_notices() -> None:
    data, chance = jpeg(), np.random.default_rng(0)
    changed = noticed = 0
    for _ in range(150):
        flipped = bytearray(data)
        flipped[int(chance.integers(len(data) // 8, len(data)))] ^= 1 << int(chance.integers(8))
        try:
            xray = read(bytes(flipped))
        except ImageError:
            changed += 1
            noticed += 1
            continue
        far = xray.pixels.shape == PICTURE.shape and np.abs(xray.pixels.astype(int) - PICTURE).mean() > 8
        changed += far
        noticed += far and bool(xray.doubts)
    assert changed > 20
    assert noticed > changed / 2  # the others are valid JPEGs of another picture, for the flags of the picture


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    data = jpeg(progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert read(data).pixels.shape == PICTURE.shape
    began = time.monotonic()
    with pytest.raises(ImageError, match=rf"more than {MOST_SCANS} scans"):
        read(data[:-2] + 3000 * scan + data[-2:])
    assert time.monotonic() - began < 5


# Pixels as they are stored


def tiff(pixels: np.ndarray, sample_format: int) -> bytes:
    """Return an uncompressed TIFF of one strip."""
    rows, columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    tags = {256: columns, 257: rows, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: rows, 279: pixels.nbytes}
    tags[339] = sample_format
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4) + pixels.tobytes()


@pytest.mark.parametrize(("kind", "sample"), [(np.int8, 2), (np.uint32, 1), (np.int32, 2), (np.uint8, 1)])
def test_tiffs_of_every_type_keep_their_order(kind: type, sample: int) -> None:
    info = np.iinfo(kind)
    ramp = np.linspace(float(info.min), float(info.max), 64 * 64).reshape(64, 64)
    stored = np.clip(ramp, info.min, float(info.max) * (1 - 1e-9)).astype(kind)
    found = read(tiff(stored, sample), "x.tif").pixels
    assert np.all(np.diff(found.astype(float).ravel()) >= 0)
    assert found.astype(float).max() > found.astype(float).min()


def test_pixels_in_the_upper_bits_are_moved_down() -> None:
    pixels = (np.arange(64 * 64, dtype=np.uint16) % 4096).reshape(64, 64)
    upper = dicom(pixels << 4, BitsStored=12, HighBit=15)
    lower = dicom(pixels, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(upper, "x.dcm").pixels, read(lower, "x.dcm").pixels)


def test_exif_turns_every_format_alike() -> None:
    tall = np.arange(40 * 20, dtype=np.uint8).reshape(40, 20)
    exif = Image.Exif()
    exif[274] = 6
    found = []
    for kind in ("PNG", "JPEG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(tall).save(file, kind, exif=exif)
        found.append(read(file.getvalue(), "x").pixels)
    assert [each.shape for each in found] == [(20, 40)] * 3
    np.testing.assert_array_equal(found[0], found[2])


# Paths


def test_a_pattern_ends_where_links_lead_back(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    ward = tmp_path / "loops"
    (ward / "a/b").mkdir(parents=True)
    (ward / "a/b/x.png").write_bytes(png(PICTURE))
    for name in ("up", "again"):
        (ward / "a/b" / name).symlink_to(ward)
    told, _ = call(f"{ward}/**/*.png")
    assert "1 X-ray: 1 done" in told
    assert len(call.rows()) == 1


def test_devices_and_files_of_the_kernel_are_refused(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "x.png").write_bytes(png(PICTURE))
    _, errors = call(tmp_path / "x.png", "/proc/self/status", "/dev/zero", "n" * 300, code=1)
    assert errors.count("not a file on a disk") == 2
    assert "File name too long" in errors
    assert "Traceback" not in errors
    assert [row["status"] for row in call.rows().values()].count("ok") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any folder")
def test_a_folder_that_may_not_be_read_is_named(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "ward/closed").mkdir(parents=True)
    (tmp_path / "ward/x.png").write_bytes(png(PICTURE))
    (tmp_path / "ward/closed").chmod(0)
    _, errors = call(tmp_path / "ward")
    assert f"warning: {tmp_path / 'ward/closed'}: cannot be read (Permission denied)" in errors


def test_a_cell_that_begins_like_a_formula_is_text(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    ward = tmp_path / "ward"
    ward.mkdir()
    for name in ("=1+1.png", "@x.png", "-2.png", "+3.png"):
        (ward / name).write_bytes(png(PICTURE))
    call(ward)
    with (call.out / "results.csv").open() as file:
        cells = [row["file"] for row in csv.DictReader(file)]
    assert sorted(cells) == sorted(["'=1+1.png", "'@x.png", "'-2.png", "'+3.png"])


def test_results_are_for_their_owner_alone(call: Caller, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "x.dcm").write_bytes(dicom(read_image(SHENZHEN / "CHNCXR_0001_0.png")))
    before = os.umask(0o022)
    try:
        call(tmp_path / "x.dcm")
    finally:
        assert os.umask(before) == 0o022
    for path in (call.out, *call.out.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_picture_that_encodes_is_read_again() -> None:
    np.testing.assert_array_equal(read(encode(PICTURE), "x.png").pixels, PICTURE)
