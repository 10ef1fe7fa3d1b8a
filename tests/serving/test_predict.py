"""``predict`` as its users call it: files and folders in, masks, SEG and tables out, whatever lies among them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from core import cli
from core.images import encode, read_image
from serving.predict.command import predict
from serving.predict.inputs import find
from tests.conftest import ROOT, Project, Trained, refused
from tests.core.test_images import black
from tests.daily import daily
from tests.serving.dicoms import dicom

SAMPLES = ROOT / "samples"
SHENZHEN = SAMPLES / "ChinaSet_AllFiles/CXR_png"
MONTGOMERY = SAMPLES / "MontgomerySet/CXR_png"


class Caller:
    """Calls the command in a folder of the test's own, and reads what it left.

    In this process, which has the slow libraries; ``line`` is for one of its own.
    """

    def __init__(self, project: Project, package: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.project, self.package, self.capture = project, package, capture
        self.out = project.root / "out"

    def line(self, *arguments: object) -> list[str]:
        return self.project.line(
            "predict", *arguments, "--model", self.package, "--engine", "onnxruntime", "-o", self.out
        )

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        self.capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", self.line(*arguments)[2:])
            patch.chdir(self.project.root)
            with pytest.raises(SystemExit) as ended:
                cli.run(predict)
        told = self.capture.readouterr()
        assert ended.value.code == code, told.out + told.err
        if code == 2 or "--help" in arguments:  # ended before it loads anything
            return told.out, told.err
        loading = f"loading {self.package} ...\n"
        assert told.err.count(loading) == (code == 0) or code == 1, told.err
        return told.out, told.err.replace(loading, "")

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["file"]: row for row in json.loads((self.out / "results.json").read_text())["results"]}

    def mask(self, name: str) -> np.ndarray:
        return read_image(self.out / "masks" / name)

    def files(self) -> list[str]:
        return sorted(path.relative_to(self.out).as_posix() for path in self.out.rglob("*") if path.is_file())


@pytest.fixture
def call(tmp_path: Path, trained: Trained, package: Path, capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller(Project(tmp_path, trained.project.launcher), package, capsys)


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder as users have them: two patients' files of the same names, 8 and 16 bits, DICOM, and other things."""
    folder = tmp_path / "ward"
    for patient, source in (("a", SHENZHEN / "CHNCXR_0001_0.png"), ("b", MONTGOMERY / "MCUCXR_0007_0.png")):
        (folder / patient).mkdir(parents=True)
        (folder / patient / "x.png").write_bytes(source.read_bytes())
    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    (folder / "a" / "x.dcm").write_bytes(dicom(pixels, JPEGLSLossless, PixelSpacing=[0.5, 0.4]))
    (folder / "b" / "IM0001").write_bytes(dicom(pixels, JPEG2000Lossless))
    (folder / "b" / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_a_folder_becomes_masks_segments_overlays_and_a_table(call: Caller, ward: Path) -> None:
    told, noted = call(ward, "--overlays")
    assert "4 X-rays: 4 done, 0 failed" in told
    assert f"note: {ward}: left out 1 file(s) that are no PNG, JPEG, TIFF or DICOM" in noted
    rows = call.rows()
    assert list(rows) == ["a/x.dcm", "a/x.png", "b/IM0001", "b/x.png"]
    for name, row in rows.items():
        assert row["status"] == "ok"
        mask = read_image(call.out / row["mask"])
        assert mask.shape == (row["height"], row["width"])
        assert set(np.unique(mask)) <= {0, 255}
        assert row["lungs"]["pixels"] == (mask > 0).sum() == row["left"]["pixels"] + row["right"]["pixels"]
        assert cv2.imread(str(call.out / row["overlay"])) is not None
        assert ("seg" in row) == (name in ("a/x.dcm", "b/IM0001"))
    assert read_image(SHENZHEN / "CHNCXR_0001_0.png").shape == call.mask("a/x.png").shape
    assert rows["a/x.dcm"]["lungs"]["cm2"] == pytest.approx(rows["a/x.dcm"]["lungs"]["pixels"] * 0.002)
    # The same picture in two transfer syntaxes.
    np.testing.assert_array_equal(call.mask("a/x.dcm.png"), call.mask("b/IM0001.png"))
    with (call.out / "results.csv").open() as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    assert list(table) == list(rows)
    assert int(table["b/x.png"]["lungs_pixels"]) == rows["b/x.png"]["lungs"]["pixels"]
    assert float(table["a/x.dcm"]["spacing_columns_mm"]) == 0.4


def test_what_does_not_exist_leaves_nothing_behind(call: Caller, ward: Path) -> None:
    _, told = call("nothere", "nor-this.png", code=1)
    assert told.endswith("error: nothere, nor-this.png: not found; name a file or a folder with X-rays\n")
    assert not call.out.exists()


def test_tables_hold_no_patient_and_the_segment_holds_its_own(call: Caller, ward: Path) -> None:
    call(ward)
    for path in (call.out / "results.csv", call.out / "results.json"):
        text = path.read_text()
        assert not any(secret in text for secret in ("Doe", "Jane", "SECRET", "1970"))
    source = pydicom.dcmread(ward / "a/x.dcm")
    seg = highdicom.seg.segread(call.out / "seg/a/x.dcm")
    assert (seg.PatientID, seg.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert (seg.Rows, seg.Columns) == (source.Rows, source.Columns)
    assert seg.Modality == "SEG"
    reference = seg.ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == source.SeriesInstanceUID
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    codes = [seg.get_segment_description(n).segmented_property_type for n in seg.segment_numbers]
    assert [(code.value, code.scheme_designator) for code in codes] == [("44029006", "SCT"), ("3341006", "SCT")]
    planes = seg.get_pixels_by_source_instance([source.SOPInstanceUID])[0]
    mask = call.mask("a/x.dcm.png") > 0
    np.testing.assert_array_equal(planes.any(axis=-1), mask)
    rows = call.rows()["a/x.dcm"]
    assert [int(plane.sum()) for plane in np.moveaxis(planes, -1, 0)] == [
        rows["left"]["pixels"],
        rows["right"]["pixels"],
    ]
    np.testing.assert_array_equal(pydicom.dcmread(call.out / "seg/a/x.dcm").pixel_array, np.moveaxis(planes, -1, 0))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_why_there_is_no_segment_is_told_without_what_the_header_says(call: Caller, tmp_path: Path) -> None:
    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    (tmp_path / "one").mkdir()
    for name, says in (("sex", {"PatientSex": "SECRET"}), ("birth", {"PatientBirthDate": "SECRET"})):
        (tmp_path / "one" / f"{name}.dcm").write_bytes(dicom(pixels, **says))
    (tmp_path / "one/study.dcm").write_bytes(dicom(pixels, StudyInstanceUID=None))
    _, errors = call(tmp_path / "one")
    assert {row["note"].partition("refer to it ")[2] for row in call.rows().values()} == {
        "(ValueError); its mask is written as PNG",
        "(AttributeError: StudyInstanceUID); its mask is written as PNG",
    }
    assert errors.count("note: ") == 3
    for text in (errors, (call.out / "results.csv").read_text(), (call.out / "results.json").read_text()):
        assert "SECRET" not in text


def test_a_dicom_that_leaves_out_what_may_be_empty_has_a_segment(call: Caller, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom(read_image(SHENZHEN / "CHNCXR_0010_1.png"))))
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.save_as(tmp_path / "export.dcm")
    call(tmp_path / "export.dcm")
    assert "note" not in call.rows()["export.dcm"]
    assert highdicom.seg.segread(call.out / "seg/export.dcm").PatientBirthDate == ""


def test_a_view_from_the_side_has_one_lung_segment_and_a_flag(call: Caller, tmp_path: Path) -> None:
    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    (tmp_path / "side.dcm").write_bytes(dicom(pixels, ViewPosition="LL"))
    call(tmp_path / "side.dcm")
    seg = highdicom.seg.segread(call.out / "seg/side.dcm")
    assert [seg.get_segment_description(n).segmented_property_type.value for n in seg.segment_numbers] == ["39607008"]
    assert "view" in [flag["name"] for flag in call.rows()["side.dcm"]["flags"]]


def test_every_way_to_store_one_xray_gives_the_same_mask(call: Caller, tmp_path: Path) -> None:
    pixels = read_image(MONTGOMERY / "MCUCXR_0016_1.png")
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "plain.png").write_bytes(encode(pixels))
    (folder / "mono2.dcm").write_bytes(dicom(pixels))
    (folder / "mono1.dcm").write_bytes(dicom(4095 - pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=12))
    (folder / "rescaled.dcm").write_bytes(dicom(pixels, RescaleSlope=2, RescaleIntercept=-1000))
    (folder / "turned.dcm").write_bytes(dicom(4095 - pixels, PresentationLUTShape="INVERSE"))
    call(folder)
    plain = call.mask("plain.png")
    assert 0 < (plain > 0).mean() < 1
    for name in ("mono2", "mono1", "rescaled", "turned"):
        np.testing.assert_array_equal(call.mask(f"{name}.dcm.png"), plain)


def test_one_bad_file_never_stops_the_rest(call: Caller, ward: Path) -> None:
    (ward / "a/bomb.png").write_bytes(black(30_000, 30_000))
    (ward / "a/empty.png").write_bytes(b"")
    (ward / "b/letter.dcm").write_bytes(b"%PDF-1.7")
    (ward / "b/loop.png").symlink_to("loop.png")
    long = "l" * 240 + ".png"  # no room for the ending of a file that is being written
    (ward / long).write_bytes((ward / "a/x.png").read_bytes())
    (ward / "c").mkdir()
    (ward / "c/x.png").write_bytes((ward / "a/x.png").read_bytes())
    (call.out / "masks").mkdir(parents=True)
    (call.out / "masks/c").write_text("a file where a folder belongs")
    told, errors = call(ward, ward / "gone.png", "--overwrite", code=1)
    assert "11 X-rays: 4 done, 7 failed" in told
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    said = {"a/bomb.png": "megapixels", "a/empty.png": "empty", "b/letter.dcm": "PDF", "b/loop.png": "cannot be read"}
    said |= {"gone.png": "cannot be read (No such file", long: "(File name too long)", "c/x.png": "cannot be written"}
    assert len(lines) == len(said)
    rows = call.rows()
    for name, what in said.items():
        assert rows[name]["status"] == "failed"
        assert what in rows[name]["error"]
        assert any(line == f"error: {rows[name]['error']}" for line in lines)
        assert name in (long, "c/x.png") or not (call.out / f"masks/{name}").exists()
    assert [path.name for path in (call.out / "masks").iterdir() if path.is_file()] == ["c"]
    assert sum(row["status"] == "ok" for row in rows.values()) == 4


def test_a_file_that_may_not_be_read_is_told(call: Caller, ward: Path, tmp_path: Path) -> None:
    os.mkfifo(ward / "a/pipe.png")  # root may read any file: a pipe that nobody writes to would hold it for ever
    os.mkfifo(ward / "a/pipe")  # that nobody named
    told, errors = call(ward / "a", code=1)
    assert "3 X-rays: 2 done, 1 failed" in told
    assert "error: pipe.png: not a file" in errors


def test_a_name_that_is_no_text_has_its_mask_and_its_row(call: Caller, tmp_path: Path) -> None:
    name = os.fsdecode(b"M\xfcller.png")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_bytes((SHENZHEN / "CHNCXR_0001_0.png").read_bytes())
    call(tmp_path / "one")
    assert list(call.rows()) == [name]
    assert b"\nM\xfcller.png,ok," in (call.out / "results.csv").read_bytes().replace(b"\r", b"")
    assert (call.out / "masks" / name).is_file()
    assert "1 finished before" in call(tmp_path / "one", "--resume")[0]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("nothing",), "no PNG, JPEG, TIFF or DICOM file there"),
        (("nothing/*.png",), "the pattern matches no file"),
        (("none.png",), "none.png: not found"),
    ],
)
def test_where_nothing_is_found_one_line_says_so(
    call: Caller, tmp_path: Path, arguments: tuple[str, ...], what: str
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing/readme.txt").write_text("hello")
    _, errors = call(*arguments, code=1)
    assert what in errors
    assert errors.count("error: ") == 1


def test_a_wrong_call_and_a_wrong_model_are_told(call: Caller, ward: Path, tmp_path: Path) -> None:
    call(ward, "--resume", "--overwrite", code=2)
    call(ward, "--max-megapixels", "many", code=2)
    _, errors = call(ward, f"{ward}/none/*.dcm", code=1)
    assert "none/*.dcm: the pattern matches no file" in errors
    assert not call.out.exists()
    call.package = tmp_path / "no-model"
    (ward / "b/notes.txt").unlink()
    _, errors = call(ward, code=1)
    assert "no model package" in errors
    assert errors.count("\n") == 1
    assert not call.out.exists()


def test_an_unknown_engine_is_told_before_anything_is_fetched(trained: Trained, tmp_path: Path) -> None:
    done = trained.project.call(trained.project.line("predict", "x.png", "-o", tmp_path / "out", "--engine", "steam"))
    assert done.returncode == 2
    assert "no engine 'steam'; there are auto, torch" in " ".join(done.stderr.split())


def test_patterns_and_files_of_one_name_from_several_folders(call: Caller, ward: Path) -> None:
    call(f"{ward}/*/x.png")
    assert list(call.rows()) == ["a/x.png", "b/x.png"]
    call(ward / "a/x.png", ward / "b/x.png", ward / "a/x.png", "--overwrite")
    assert [name for name in call.files() if name.startswith("masks/")] == ["masks/a/x.png", "masks/b/x.png"]


def test_two_inputs_that_would_have_one_mask_are_told_apart(call: Caller, ward: Path) -> None:
    (ward / "a/x.dcm.png").write_bytes((ward / "a/x.png").read_bytes())
    _, errors = call(ward / "a", code=1)
    assert "error: x.dcm.png: its mask would replace that of x.dcm; rename one" in errors
    assert call.rows()["x.dcm"]["status"] == "ok"


def test_nothing_is_written_outside_of_the_folder(call: Caller, ward: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (call.out / "masks").mkdir(parents=True)
    (call.out / "masks/a").symlink_to(elsewhere)
    _, errors = call(ward, "--overwrite", code=1)
    assert errors.count("would be outside of") == 2
    assert not list(elsewhere.iterdir())
    # A path with .. is as good as any other, and its results lie below the folder all the same.
    call(f"{ward}/a/../b/x.png", "--overwrite")
    assert [name for name in call.files() if name.startswith("masks/")] == ["masks/x.png"]


def test_results_are_neither_replaced_nor_predicted_on_by_accident(call: Caller, ward: Path) -> None:
    call(ward / "a")
    before = {name: (call.out / name).stat().st_mtime_ns for name in call.files()}
    assert "has results already" in call(ward / "a", code=1)[1]
    assert {name: (call.out / name).stat().st_mtime_ns for name in call.files()} == before
    call.out.rename(ward / "results")
    call.out = ward / "results"
    call(ward, "--overwrite")
    assert list(call.rows()) == ["a/x.dcm", "a/x.png", "b/IM0001", "b/x.png"]


def test_a_later_run_goes_on_where_the_first_one_stopped(call: Caller, ward: Path) -> None:
    (ward / "b/late.png").write_bytes(b"")
    call(ward, code=1)
    first = {name: (call.out / name).stat().st_mtime_ns for name in call.files() if "masks/" in name}
    (ward / "b/late.png").write_bytes((ward / "b/x.png").read_bytes())
    (ward / "a/x.png").write_bytes((SHENZHEN / "CHNCXR_0019_0.png").read_bytes())
    told, _ = call(ward, "--resume")
    assert "5 X-rays: 2 done, 3 finished before, 0 failed" in told
    second = {name: (call.out / name).stat().st_mtime_ns for name in call.files() if "masks/" in name}
    assert {name for name in first if first[name] == second[name]} == set(first) - {"masks/a/x.png"}
    assert "masks/b/late.png" in second
    told, _ = call(ward, "--resume", "--overlays")
    assert "5 done, 0 failed" in told


def test_results_of_another_model_are_not_mixed(call: Caller, ward: Path) -> None:
    call(ward / "a")
    document = json.loads((call.out / "results.json").read_text())
    document["model"]["weights_sha256"] = "0" * 64
    (call.out / "results.json").write_text(json.dumps(document))
    assert "are from another model" in call(ward / "a", "--resume", code=1)[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from serving.predict.outputs import opened

with opened(Path(sys.argv[1]), {"weights_sha256": "0" * 64}, overwrite=True, resume=False) as results:
    results.add({"file": "x.png", "status": "ok", "error": "", "sha256": "1" * 64, "kind": "png"})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_results_of_another_model_that_was_killed_are_not_mixed(call: Caller, ward: Path) -> None:
    call(ward / "a")
    done = subprocess.run([sys.executable, "-c", KILLED, call.out], cwd=ROOT, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
    assert call.files() == [".results.jsonl"]
    assert "are from another model" in call(ward / "a", "--resume", code=1)[1]
    assert "2 done" in call(ward / "a", "--overwrite")[0]


def test_a_result_that_cannot_be_removed_fails_its_file_alone(call: Caller, ward: Path) -> None:
    call(ward / "a")
    (call.out / "masks/x.png").unlink()
    (call.out / "masks/x.png").mkdir()
    for option in ("--overwrite", "--resume"):
        _, errors = call(ward / "a", option, code=1)
        assert errors.count("error: x.png: its mask cannot be written") == errors.count("error: ") == 1
        assert {name: row["status"] for name, row in call.rows().items()} == {"x.dcm": "ok", "x.png": "failed"}


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
@pytest.mark.parametrize("there", ['{"pass": true}', "[]", '{"model": {"weights_sha256": ""}, "results": [1]}', "no"])
def test_results_of_another_program_are_left_alone(call: Caller, ward: Path, there: str, option: str) -> None:
    call.out.mkdir()
    (call.out / "results.json").write_text(there)
    _, errors = call(ward / "a", option, code=1)
    assert errors == f"error: {call.out / 'results.json'}: not results of this command; choose another --out\n"
    assert (call.out / "results.json").read_text() == there


@pytest.mark.parametrize("out", ["ward/a/x.png/out", "/proc/nope/out", "n" * 300])
def test_a_folder_that_cannot_be_is_told(call: Caller, ward: Path, tmp_path: Path, out: str) -> None:
    call.out = tmp_path / out
    _, errors = call(ward / "a", code=1)
    assert errors.startswith(f"error: {call.out}: the folder cannot be made (")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("paths", "out", "names"),
    [
        (["y"], "y", ["a.png", "more/masks/b.png"]),
        (["y"], "y/out", ["a.png", "masks/c.png", "more/masks/b.png", "seg/d.dcm"]),
        (["y/*"], "y/out", ["a.png", "masks/c.png", "more/masks/b.png", "seg/d.dcm"]),
        (["y/**/*.png"], "y/out", ["a.png", "masks/c.png", "more/masks/b.png"]),
        (["y/*", "y/masks/c.png"], "y", ["a.png", "more/masks/b.png", "out/masks/a.png", "out/overlays/a.png"]),
    ],
)
def test_results_are_never_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], out: str, names: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    every = ("a.png", "more/masks/b.png", "masks/c.png", "seg/d.dcm")
    for name in every if out == "y/out" or len(paths) == 1 else (*every, "out/masks/a.png", "out/overlays/a.png"):
        Path("y", name).parent.mkdir(parents=True, exist_ok=True)
        Path("y", name).touch()
    if out == "y/out":
        for folder in ("masks", "overlays"):
            Path(out, folder).mkdir(parents=True)
            Path(out, folder, "a.png").touch()
    assert [each.name for each in find(paths, Path(out))] == names


def test_help_names_every_engine(call: Caller) -> None:
    from model.inference.engines import ENGINES

    told = "".join(call("--help")[0].replace("│", "").split())
    assert ",".join(ENGINES) in told


@pytest.mark.parametrize("number", daily([signal.SIGINT, signal.SIGKILL], 1))
def test_a_run_that_is_stopped_leaves_what_is_finished_whole(
    call: Caller, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(40):
        source = (SHENZHEN if copy % 2 else MONTGOMERY).glob("*.png")
        (folder / f"{copy:02}.png").write_bytes(sorted(source)[copy % 10].read_bytes())
    job = call.project.start(call.line(folder, "--batch-size", 1))
    assert job.until(lambda: len(list(call.out.glob("masks/*.png"))) >= 3), job.output
    job.kill(number)
    done = job.wait([])
    assert done.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    for path in call.out.glob("masks/[!.]*.png"):
        read_image(path)
    if number == signal.SIGINT:
        assert "interrupted" in done.stderr
        assert 3 <= len(call.rows()) < 40
    told, _ = call(folder, "--resume")
    assert "finished before" in told
    assert len(call.rows()) == len(list(call.out.glob("masks/[!.]*.png"))) == 40


def test_only_one_run_writes_a_folder(call: Caller, ward: Path) -> None:
    from filelock import FileLock

    with FileLock(call.out.parent / f".{call.out.name}.lock"):
        assert "another run is writing here" in call(ward, code=1)[1]


def test_a_full_disk_is_told_and_leaves_no_half_of_a_mask(call: Caller, ward: Path) -> None:
    (ward / "b/notes.txt").unlink()
    done = call.project.call(call.line(ward), largest_file=300)
    assert "the disk is full" in refused(done)
    assert not list(call.out.glob("masks/**/*.png"))


@pytest.mark.slow
@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA names no real cohort")
def test_real_xrays_are_read(call: Caller) -> None:
    pictures = sorted(Path(os.environ["CXR_DATA"]).rglob("CXR_png/*.png"))[:20]
    told, _ = call(*pictures)
    assert "20 X-rays: 20 done, 0 failed" in told
    for row in call.rows().values():
        assert row["lungs"]["share"] > 0


def test_a_baseline_jpeg_gives_nearly_the_same_mask(call: Caller, tmp_path: Path) -> None:
    from PIL import Image

    pixels = read_image(SHENZHEN / "CHNCXR_0010_1.png")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    (tmp_path / "x.jpg").write_bytes(file.getvalue())
    (tmp_path / "x.png").write_bytes(encode(pixels))
    call(tmp_path / "x.jpg", tmp_path / "x.png")
    a, b = call.mask("x.jpg.png") > 0, call.mask("x.png") > 0
    assert 2 * (a & b).sum() > 0.97 * (a.sum() + b.sum())
