from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.ingest import ingest
from components.ingest.sources import open_source
from tests.cohorts import write_cohort
from tests.components.test_ingest import PARAMS, refusal, tree


def zipped(folder: Path, path: Path, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, below + file.relative_to(folder).as_posix())
    return path


def same_cohort(one: Path, other: Path) -> bool:
    """Whether two outputs differ in nothing but the source they name."""
    first, second = tree(one), tree(other)
    cards = [json.loads((folder / "cohort.json").read_text()) for folder in (one, other)]
    first.pop("cohort.json"), second.pop("cohort.json")
    return first == second and cards[0]["sites"] == cards[1]["sites"]


def test_a_zip_gives_what_its_folder_gives(cohort: Path, tmp_path: Path) -> None:
    (cohort / "cohort.json").write_text('{"name": "tiny", "synthetic": true, "description": ""}')
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    packed = ingest(str(zipped(cohort, tmp_path / "tiny.zip", "data/cxr/")), PARAMS, tmp_path / "packed")
    assert same_cohort(plain, packed.folder)
    assert (packed.name, packed.synthetic) == ("tiny", True)


def test_a_zip_needs_no_ending_to_its_name(cohort: Path, tmp_path: Path) -> None:
    path = zipped(cohort, tmp_path / "data")
    assert sum(count.images for count in ingest(str(path), PARAMS, tmp_path / "raw").sites.values()) == 5


def test_a_folder_of_the_publishers_zips_gives_what_the_folder_gives(cohort: Path, tmp_path: Path) -> None:
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    (tmp_path / "zips").mkdir()
    zipped(cohort / "MontgomerySet", tmp_path / "zips/NLM-MontgomeryCXRSet.zip", "MontgomerySet/")
    zipped(cohort / "ChinaSet_AllFiles", tmp_path / "zips/ChinaSet_AllFiles.zip")
    assert same_cohort(plain, ingest(str(tmp_path / "zips"), PARAMS, tmp_path / "raw").folder)


def test_nothing_is_left_beside_the_output(cohort: Path, tmp_path: Path) -> None:
    path = zipped(cohort, tmp_path / "tiny.zip")
    (tmp_path / "place").mkdir()
    ingest(str(path), PARAMS, tmp_path / "place/raw")
    assert sorted(file.name for file in (tmp_path / "place").iterdir() if not file.name.endswith(".lock")) == ["raw"]


def member(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3  # Unix: the mode stands in the upper half of external_attr
    info.external_attr = mode << 16
    return info


def test_every_hostile_member_is_listed_and_nothing_is_written_anywhere(cohort: Path, tmp_path: Path) -> None:
    path = zipped(cohort, tmp_path / "bad.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member("../CXR_png/MCUCXR_0007_0.png"), b"x")
        archive.writestr(member("a/../../CXR_png/MCUCXR_0008_0.png"), b"x")
        archive.writestr(member("..\\CXR_png\\MCUCXR_0008_0.png"), b"x")
        archive.writestr(member("/tmp/CXR_png/MCUCXR_0009_0.png"), b"x")  # noqa: S108
        archive.writestr(member("C:/CXR_png/MCUCXR_0009_0.png"), b"x")
        archive.writestr(member("CXR_png/MCUCXR_0010_0.png", stat.S_IFLNK | 0o777), b"/etc/passwd")
    everything = set(tmp_path.rglob("*"))
    error = refusal(path, tmp_path / "raw")
    assert error.problems == [
        f"{path}/../CXR_png/MCUCXR_0007_0.png: its path is outside of the ZIP",
        f"{path}/a/../../CXR_png/MCUCXR_0008_0.png: its path is outside of the ZIP",
        f"{path}/..\\CXR_png\\MCUCXR_0008_0.png: its path is outside of the ZIP",
        f"{path}//tmp/CXR_png/MCUCXR_0009_0.png: an absolute name",
        f"{path}/C:/CXR_png/MCUCXR_0009_0.png: an absolute name",
        f"{path}/CXR_png/MCUCXR_0010_0.png: a symbolic link",
    ]
    assert set(tmp_path.rglob("*")) - everything == {tmp_path / ".raw.lock"}


def set_flag(data: bytes) -> bytes:
    """Mark the first member as encrypted, in its own header and in the directory."""
    local, central = data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8
    changed = bytearray(data)
    changed[local] |= 1
    changed[central] |= 1
    return bytes(changed)


def spoil(data: bytes) -> bytes:
    """Change one byte of the first PNG's content."""
    place = data.index(b"IHDR") + 6
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[:-100], "not a ZIP file, or a truncated one"),
        (lambda data: data[: len(data) // 2], "not a ZIP file, or a truncated one"),
        (lambda data: b"", "not a ZIP file, or a truncated one"),
        (lambda data: b"plain text", "not a ZIP file, or a truncated one"),
        (set_flag, "encrypted"),
        (spoil, "damaged inside the ZIP (Bad CRC-32"),
    ],
    ids=["cut", "halved", "empty", "text", "encrypted", "damaged"],
)
def test_a_zip_that_cannot_be_read_is_refused(
    cohort: Path, tmp_path: Path, change: Callable[[bytes], bytes], what: str
) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(cohort.rglob("*.png")):
            archive.write(file, file.relative_to(cohort))
    path.write_bytes(change(path.read_bytes()))
    error = refusal(path, tmp_path / "raw")
    assert str(error).startswith(str(path))
    assert what in str(error)


def test_one_name_twice_is_refused(cohort: Path, tmp_path: Path) -> None:
    path = zipped(cohort, tmp_path / "twice.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("MontgomerySet/CXR_png/MCUCXR_0001_1.png", b"another")
    assert refusal(path, tmp_path / "raw").problems == [
        f"{path}/MontgomerySet/CXR_png/MCUCXR_0001_1.png: duplicate name"
    ]


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"CXR_png/MCUCXR_{number:04}_0.png", bytes(50_000_000))
    assert path.stat().st_size < 1_000_000
    error = refusal(path, tmp_path / "raw")
    assert "refused, as it would unpack to 200 MB, more than 100 times its size: a ZIP bomb" in str(error)


def test_a_member_never_gives_more_than_it_declares(cohort: Path, tmp_path: Path) -> None:
    path = zipped(write_cohort(tmp_path / "one", montgomery=0, shenzhen=1), tmp_path / "lie.zip")
    name = "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_1.png"
    data = bytearray(path.read_bytes())
    place = data.rindex(name.encode()) - 46  # the member's entry in the directory (APPNOTE 4.3.12)
    assert data[place : place + 4] == b"PK\x01\x02"
    data[place + 24 : place + 28] = struct.pack("<I", 100)
    path.write_bytes(data)
    with open_source(str(path), tmp_path / "raw") as source:
        assert source.files[name].size == 100
    assert "damaged inside the ZIP" in str(refusal(path, tmp_path / "raw"))


def test_a_mac_zips_forks_are_ignored(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort / "MontgomerySet/CXR_png", cohort / "__MACOSX/MontgomerySet/CXR_png")
    (cohort / "MontgomerySet/CXR_png/._MCUCXR_0001_1.png").write_bytes(b"fork")
    result = ingest(str(zipped(cohort, tmp_path / "mac.zip")), PARAMS, tmp_path / "raw")
    assert result.sites["montgomery"].images == 2
