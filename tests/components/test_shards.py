"""Ingest and preprocess in shards: the merge gives the bytes of one run, also after a shard was killed."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingest import ingest
from components.ingest import merge as merging
from components.ingest.merge import merge as merge_cohort
from components.ingest.ranges import Ranges
from components.ingest.sources import open_source
from components.preprocess import preprocess_shard
from core.cohort import COLUMNS, read_manifest
from core.errors import UserError
from core.s3 import make_client
from core.shard import Shard
from tests.components.sharded import PARAMS, arrays_of, merged_arrays, shards
from tests.components.test_ingest_zip import zipped
from tests.components.tiny_cohort import PREPROCESS, preprocess_params, publish
from tests.conftest import Project, files, refused
from tests.daily import daily
from tests.services import Bucket

NUMBERS = (1, 2, 3, 7)
MORE = 40  # shards than X-rays


# The same bytes


@pytest.mark.parametrize("of", daily([*NUMBERS, MORE], 1))
def test_merged_shards_are_the_cohort_of_one_run(of: int, place: Path, tmp_path: Path) -> None:
    raws = shards(place / "data", tmp_path, of)
    result = merge_cohort(raws, tmp_path / "raw")
    assert files(tmp_path / "raw") == files(place / "raw")
    assert (result.name, result.synthetic) == ("synthetic-sample", True)
    assert sum(count.images for count in result.sites.values()) == 18

    # Half of them from the shard's own X-rays, half from the whole cohort.
    own = [tmp_path / f"raw-{shard.number}" if shard.number % 2 else place / "raw" for shard in Shard.every(of)]
    merged_arrays(arrays_of(own, tmp_path, of), place, tmp_path)
    for name in ("arrays", "splits"):
        assert files(tmp_path / name) == files(place / name)


def test_a_merge_of_arrays_needs_no_picture(place: Path, tmp_path: Path) -> None:
    parts = arrays_of([place / "raw"] * 2, tmp_path, 2)
    (tmp_path / "small/raw").mkdir(parents=True)
    for name in ("manifest.csv", "cohort.json"):
        shutil.copy(place / "raw" / name, tmp_path / "small/raw")
    shutil.copytree(place / "validation", tmp_path / "small/validation")
    merged_arrays(parts, tmp_path / "small", tmp_path)
    assert files(tmp_path / "arrays") == files(place / "arrays")


def test_pictures_are_linked_and_copied_where_they_cannot_be(
    parts: list[Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_cohort(parts, tmp_path / "linked")
    names = read_manifest(place / "raw")["image"]
    assert all((tmp_path / "linked" / name).stat().st_nlink == 2 for name in names)

    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(merging.os, "link", other_disk)
    merge_cohort(parts, tmp_path / "copied")
    assert all((tmp_path / "copied" / name).stat().st_nlink == 1 for name in names)
    assert files(tmp_path / "copied") == files(tmp_path / "linked") == files(place / "raw")


def test_an_empty_shard_has_a_manifest_of_the_right_types(place: Path, tmp_path: Path) -> None:
    manifest = read_manifest(place / "raw")
    empty = next(shard for shard in Shard.every(MORE) if not any(map(shard.has, manifest["site"], manifest["id"])))
    ingest(str(place / "data"), PARAMS, tmp_path / "raw", shard=empty)
    assert sorted(files(tmp_path / "raw")) == ["cohort.json", "manifest.csv"]
    frame = read_manifest(tmp_path / "raw")
    assert (len(frame), {name: str(kind) for name, kind in frame.dtypes.items()}) == (0, COLUMNS)
    assert preprocess_shard(tmp_path / "raw", preprocess_params(), empty, tmp_path / "arrays") == 0
    assert np.load(tmp_path / "arrays/images.npy").shape == (0, 32, 32)


def test_memory_does_not_grow_with_the_arrays(place: Path, tmp_path: Path) -> None:
    peaks = []
    for size in (32, 512):
        parts = arrays_of([place / "raw"] * 2, tmp_path / str(size), 2, size=size)
        tracemalloc.start()
        merged_arrays(parts, place, tmp_path / str(size), preprocess_params(size=size))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3 * 512 * 512  # a row or two, and not the 17


# Only its own files


def test_a_shard_fetches_its_own_objects_alone(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    bucket.upload(place / "data", "cxr/")
    url, shard = f"s3://{bucket.name}/cxr", Shard.parse("2/3")
    foreign = [
        name
        for name in bucket.names("cxr/")
        if (case := Path(name).stem.removesuffix("_mask")).startswith(("MCU", "CHN"))
        and not shard.has("montgomery" if case.startswith("MCU") else "shenzhen", case)
    ]
    assert 10 < len(foreign) < len(bucket.names("cxr/"))
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
    deny["Resource"] = [f"arn:aws:s3:::{bucket.name}/{name}" for name in foreign]
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))

    ingest(url, PARAMS, tmp_path / "two", shard=shard)

    with pytest.raises(UserError, match="cannot be used"):  # the others are indeed denied
        ingest(url, PARAMS, tmp_path / "one", shard=Shard.parse("1/3"))
    bucket.client.delete_bucket_policy(Bucket=bucket.name)
    for number in (1, 3):
        ingest(url, PARAMS, tmp_path / str(number), shard=Shard(3, number))
    merge_cohort([tmp_path / "two", tmp_path / "1", tmp_path / "3"], tmp_path / "raw")
    ingest(url, PARAMS, tmp_path / "whole")
    assert files(tmp_path / "raw") == files(tmp_path / "whole")


def test_a_shard_reads_its_own_members_of_a_zip_alone(place: Path, tmp_path: Path) -> None:
    archive = zipped(place / "data", tmp_path / "data.zip")
    name = "MontgomerySet/CXR_png/MCUCXR_0001_0.png"
    with zipfile.ZipFile(archive) as whole:
        start = whole.getinfo(name).header_offset
    content = bytearray(archive.read_bytes())
    content[start + 200] ^= 1
    archive.write_bytes(content)
    failed = []
    for shard in Shard.every(3):
        try:
            ingest(str(archive), PARAMS, tmp_path / f"raw-{shard.number}", shard=shard)
        except UserError as error:
            failed.append(shard)
            (problem,) = error.problems
            assert problem.startswith(f"{archive}/{name}: damaged inside the ZIP")
    assert [shard.has("montgomery", "MCUCXR_0001_0") for shard in failed] == [True]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The key and the range of every object that ingest asks for."""
    seen: list[tuple[str, str]] = []

    def watched(connections: int) -> Any:
        client = make_client(connections)

        def note(params: dict[str, Any], **_: Any) -> None:
            seen.append((params["Key"], params.get("Range", "")))

        client.meta.events.register("provide-client-params.s3.GetObject", note)
        return client

    monkeypatch.setattr("components.ingest.s3.make_client", watched)
    return seen


def test_a_shard_fetches_its_own_members_of_zips_in_s3_alone(
    bucket: Bucket, place: Path, tmp_path: Path, requests: list[tuple[str, str]]
) -> None:
    sizes = {}
    for site in ("MontgomerySet", "ChinaSet_AllFiles"):
        archive = zipped(place / "data" / site, tmp_path / "one.zip", f"{site}/")
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as whole:
            whole.writestr("other/video.bin", os.urandom(1 << 20))  # between the pictures and the directory
        sizes[f"zips/{site}.zip"] = archive.stat().st_size
        bucket.client.upload_file(str(archive), bucket.name, f"zips/{site}.zip")
    bucket.client.upload_file(str(place / "data/cohort.json"), bucket.name, "zips/cohort.json")
    url = f"s3://{bucket.name}/zips"
    raws = shards(url, tmp_path, 3)
    asked = dict.fromkeys(sizes, 0)
    for key, span in requests:
        if key in sizes:
            first, last = span.removeprefix("bytes=").split("-")
            asked[key] += int(last) + 1 - int(first)
    # Three times the ends of the ZIPs with the directories, and every picture once; never the other file as a whole.
    assert all(asked[key] < sizes[key] for key in sizes)
    assert list(tmp_path.glob(".download-*")) == []
    merge_cohort(raws, tmp_path / "raw")
    ingest(url, PARAMS, tmp_path / "whole")
    assert files(tmp_path / "raw") == files(tmp_path / "whole")


def test_a_zip_in_s3_that_changes_or_is_damaged_is_told(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    archive, url = zipped(place / "data", tmp_path / "data.zip"), f"s3://{bucket.name}/data.zip"
    bucket.client.upload_file(str(archive), bucket.name, "data.zip")
    with open_source(url, tmp_path / "raw", part=True) as source:
        bucket.client.put_object(Bucket=bucket.name, Key="data.zip", Body=archive.read_bytes() + b" ")
        with pytest.raises(UserError, match=r"data\.zip: changed during the download; run again"):
            source.fetch(source.files)
    bucket.client.put_object(Bucket=bucket.name, Key="data.zip", Body=archive.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"data\.zip: not a ZIP file, or a truncated one"):
        ingest(url, PARAMS, tmp_path / "raw", shard=Shard(2, 1))


@given(st.binary(max_size=300), st.data())
def test_ranges_read_as_the_whole_does(content: bytes, data: st.DataObject) -> None:
    places = st.integers(0, len(content))
    spans = [tuple(sorted(span)) for span in data.draw(st.lists(st.tuples(places, places), max_size=4))]
    asked = []

    def get(start: int, end: int) -> bytes:
        asked.append((start, end))
        return content[start:end]

    with tempfile.TemporaryDirectory() as folder, Ranges(get, len(content), Path(folder)) as reader:
        reader.fetch(spans)
        asked.clear()
        for start, end in data.draw(st.permutations(spans)):
            reader.seek(start)
            assert reader.read(end - start) == content[start:end]
        assert asked == []
        start = data.draw(places)
        reader.seek(start)
        assert io.BufferedReader(reader, 16).read() == content[start:]


def test_a_problem_is_told_by_the_shard_of_its_case_or_by_all(tmp_path: Path) -> None:
    source = publish(tmp_path / "data", montgomery=3, shenzhen=3, unpaired=0)
    (source / "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_1.png").unlink()  # of a case, seen in its names
    (source / "ChinaSet_AllFiles/CXR_png/CHNCXR_0002_0.png").write_bytes(b"text")  # of a case, seen in its content
    (source / "ChinaSet_AllFiles/CXR_png/nameless.png").write_bytes(b"")  # of none
    told: dict[str, list[Shard]] = {}
    for shard in Shard.every(5):
        with pytest.raises(UserError) as caught:
            ingest(str(source), PARAMS, tmp_path / "raw", shard=shard)
        for problem in caught.value.problems:
            told.setdefault(Path(problem.partition(":")[0]).name, []).append(shard)
    assert told.pop("nameless.png") == Shard.every(5)
    assert set(told) == set(CASES)
    for name, (shard,) in told.items():
        assert shard.has(*CASES[name])


CASES = {
    "MCUCXR_0001_1.png": ("montgomery", "MCUCXR_0001_1"),
    "CHNCXR_0002_0.png": ("shenzhen", "CHNCXR_0002_0"),
}


# The commands


@pytest.fixture
def project(launcher: Any, tmp_path: Path) -> Project:
    """A folder in which nothing has been run."""
    project = Project(tmp_path, launcher)
    project.write_params(preprocess=PREPROCESS)
    return project


def test_the_commands_give_what_one_run_gives(project: Project, place: Path) -> None:
    for number in (1, 2):
        shard = ("--shard", f"{number}/2")
        said = project.do(project.line("ingest", place / "data", "--out", f"raw-{number}", *shard))
        assert said.splitlines()[-1] == f"raw-{number}: synthetic-sample (synthetic), shard {number}/2"
        said = project.do(project.line("preprocess", f"raw-{number}", "--out", f"arrays-{number}", *shard))
        assert said.endswith(f"images of 32 x 32 pixels in arrays-{number}, shard {number}/2\n")
    said = project.do(project.line("ingest.merge", "raw-1", "raw-2", "--out", "raw"))
    assert said == "raw: synthetic-sample, 18 X-rays from 2 shards\n"
    line = ("--cohort", "raw", "--validation", place / "validation", "--out", "arrays", "--splits", "splits")
    said = project.do(project.line("preprocess.merge", "arrays-1", "arrays-2", *line))
    assert said.splitlines()[0] == "17 images of 32 x 32 pixels in arrays"
    for name in ("raw", "arrays", "splits"):
        assert files(project.root / name) == files(place / name)


def test_a_wrong_command_is_told_in_one_line(project: Project) -> None:
    for text in ("0/4", "5/4", "a/b"):
        for line in (
            project.line("ingest", "data", "--out", "raw"),
            project.line("preprocess", "data", "--out", "arrays"),
        ):
            assert refused(project.call([*line, "--shard", text])).startswith(f"error: --shard {text}: not a shard; ")
    for line, whole in (("ingest", "artifacts/raw"), ("preprocess", "artifacts/arrays")):
        assert refused(project.call(project.line(line, "data", "--shard", "1/2"))) == (
            f"error: --shard 1/2: {whole} is for the whole; name a folder for the part with --out"
        )
    assert "named twice" in refused(project.call(project.line("ingest.merge", "data", "data", "--out", "raw")))
    assert "nothing/arrays.json: not found" in refused(
        project.call(project.line("preprocess.merge", "nothing", "--out", "arrays"))
    )
    assert not (project.root / "raw").exists()


def wait(job: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not until():
        assert job.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_killed_shard_is_run_again_alone(project: Project, place: Path) -> None:
    root = project.root
    shutil.copytree(place / "data", root / "data")
    for number in (1, 3):
        project.do(project.line("ingest", "data", "--out", f"raw-{number}", "--shard", f"{number}/3"))
    before = {number: files(root / f"raw-{number}") for number in (1, 3)}
    times = {path: path.stat().st_mtime_ns for number in (1, 3) for path in (root / f"raw-{number}").rglob("*")}
    # Its last file is a pipe, from which it waits for bytes until it is killed.
    held = max(
        path for path in (root / "data/ChinaSet_AllFiles/CXR_png").iterdir() if Shard(3, 2).has("shenzhen", path.stem)
    )
    content = held.read_bytes()
    held.unlink()
    os.mkfifo(held)
    line = project.line("ingest", "data", "--out", "raw-2", "--shard", "2/3")
    with subprocess.Popen(line, cwd=root, env=project.environment, stderr=subprocess.DEVNULL) as job:
        wait(job, lambda: any(root.glob(".raw-2.partial-*/images/*/*.png")))
        job.kill()
    assert not (root / "raw-2").exists()
    held.unlink()
    held.write_bytes(content)

    project.do(line)
    project.do(project.line("ingest.merge", "raw-1", "raw-2", "raw-3", "--out", "merged"))

    assert list(root.glob(".raw-2.partial-*")) == []
    assert {number: files(root / f"raw-{number}") for number in (1, 3)} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    project.do(project.line("ingest", "data", "--out", "raw"))
    assert files(root / "merged") == files(root / "raw")
