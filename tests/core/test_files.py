"""Nothing half-written is ever found under its final name, whatever happens in the middle."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.files import exclusive, explain_full_disk, read_json, sha256, write_file, write_folder, write_json

ROOT = Path(__file__).parents[2]

REWRITE_FOREVER = """
import sys
from pathlib import Path
from core.files import write_folder
target = Path(sys.argv[1])
for generation in range(10**9):
    with write_folder(target) as folder:
        for number in range(40):
            (folder / f"{number}.txt").write_text(str(generation))
    print(generation, flush=True)
"""
STOP_IN_THE_MIDDLE = """
import sys, time
from pathlib import Path
from core.files import write_file, write_folder
writer, target = {"file": write_file, "folder": write_folder}[sys.argv[1]], Path(sys.argv[2])
with writer(target) as partial:
    (partial / "half" if sys.argv[1] == "folder" else partial).write_text("half of i")
    print("in the middle", flush=True)
    time.sleep(60)
"""
DIE_AT_THE_FIRST_DELETION = """
import os, signal, sys
from pathlib import Path
from core.files import write_folder
unlink = os.unlink
def deadly(*arguments, **options):
    unlink(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
for name in ("old", "new"):
    with write_folder(Path(sys.argv[1])) as folder:
        (folder / name).touch()
        (folder / "both").touch()
        if name == "new":
            os.unlink = deadly
"""
FILL_THE_DISK = """
import sys
from pathlib import Path
from core.errors import UserError
from core.files import write_folder
target = Path(sys.argv[1])
with write_folder(target) as folder:
    (folder / "small").write_text("whole")
try:
    with write_folder(target) as folder:
        for number in range(64):
            (folder / str(number)).write_bytes(bytes(1 << 16))
except UserError as error:
    print(error)
print(sorted(str(path.relative_to(target.parent)) for path in target.parent.rglob("*") if path.suffix != ".lock"))
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file.txt"
    with write_file(target) as partial:
        partial.write_text("one")
        assert not target.exists()
    with write_file(target) as partial:
        partial.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("problem", [RuntimeError("a bug"), KeyboardInterrupt(), UserError("bad input")])
def test_a_failed_block_leaves_what_was_there(tmp_path: Path, problem: BaseException) -> None:
    with write_file(tmp_path / "file") as partial:
        partial.write_text("old")
    with write_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("old")

    def fail_to_write_the_file() -> None:
        with write_file(tmp_path / "file") as partial:
            partial.write_text("new")
            raise problem

    def fail_to_write_the_folder() -> None:
        with write_folder(tmp_path / "folder") as folder:
            (folder / "x").write_text("new")
            raise problem

    for write in (fail_to_write_the_file, fail_to_write_the_folder):
        with pytest.raises(type(problem)):
            write()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "x").read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_is_replaced_not_merged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with write_folder(tmp_path / "folder") as folder:
            (folder / name).write_text(name)
    assert names(tmp_path / "folder") == ["two"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_in_the_middle_leaves_nothing_under_the_name_and_the_next_run_succeeds(
    tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    process = start(STOP_IN_THE_MIDDLE, kind, target)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    kill(process)
    assert not target.exists()
    if kind == "file":
        with write_file(target) as partial:
            partial.write_text("whole")
        assert target.read_text() == "whole"
    else:
        with write_folder(target) as folder:
            (folder / "whole").touch()
        assert names(target) == ["whole"]
        assert names(tmp_path) == ["target"]  # the killed run's remains are gone


def test_killed_at_any_moment_a_folder_is_of_one_generation(tmp_path: Path) -> None:
    target = tmp_path / "target"
    moments = random.Random(0)
    for _ in range(8):
        process = start(REWRITE_FOREVER, target)
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        time.sleep(moments.uniform(0, 0.05))
        kill(process)
        if target.exists():
            assert len(names(target)) == 40
            assert len({path.read_text() for path in target.iterdir()}) == 1
    with write_folder(target) as folder:
        (folder / "last").touch()
    assert names(tmp_path) == ["target"]


def test_killed_while_the_old_folder_is_deleted_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    process = start(DIE_AT_THE_FIRST_DELETION, target)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert names(target) == ["both", "new"]
    with write_folder(target) as folder:
        (folder / "last").touch()
    assert names(tmp_path) == ["target"]


def test_a_second_run_at_once_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "target"
    process = start(STOP_IN_THE_MIDDLE, "folder", target)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(UserError, match="target: another run is writing here"), write_folder(target):
        pass
    assert len(list(tmp_path.glob(".target.partial-*/half"))) == 1
    kill(process)
    with exclusive(target):
        pass


def test_the_right_to_write_is_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "target"):
        raise RuntimeError
    with exclusive(tmp_path / "target"), exclusive(tmp_path / "another"):
        pass


def test_a_full_device_is_told_in_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with write_file(tmp_path / "file") as partial, Path("/dev/full").open("wb", buffering=0) as device:
            partial.write_text("new")
            device.write(b"x")

    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match=r"file: the disk is full \(No space left on device\)") as failure:
        write()
    assert "\n" not in str(failure.value)
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_only_a_lack_of_space_is_a_lack_of_space(tmp_path: Path, number: int) -> None:
    expected = OSError if number == errno.EACCES else UserError
    with pytest.raises(expected), explain_full_disk(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_disk_that_fills_up_keeps_the_old_folder(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed, so no small disk can be made")
    script = f'mount -t tmpfs -o size=1m tmpfs "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}/target"'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, sys.executable, FILL_THE_DISK], capture_output=True, text=True, cwd=ROOT
    )
    if "unshare failed" in ran.stderr or "mount" in ran.stderr:
        pytest.skip(f"no small disk can be mounted here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    told, left = ran.stdout.splitlines()
    assert "target: the disk is full (No space left on device); nothing was changed" in told
    assert left == "['target', 'target/small']"


def test_json_comes_back_and_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"a": [1, 0.1 + 0.2, None], "b": {"c": "ü"}}
    write_json(path, value)
    assert read_json(path) == value
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == value
    assert names(tmp_path) == ["value.json"]


def test_json_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json: not found; run the step"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"broken\.json: not valid JSON"):
        read_json(tmp_path / "broken.json")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 5000)
    assert sha256(tmp_path / "file") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()


def test_a_user_error_lists_every_problem() -> None:
    assert str(UserError("two", ["a", "b"])) == "two\n  a\n  b"


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be tried by root alone")
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_place_that_cannot_be_written_is_told_in_one_line(write: Callable[[Path], Any]) -> None:
    with tempfile.TemporaryDirectory() as volume:
        Path(volume).chmod(0o755)
        os.seteuid(10001)
        try:
            with pytest.raises(UserError) as told, write(Path(volume) / "out/model"):
                pass
        finally:
            os.seteuid(0)
        message = f"{volume}/out/model: cannot be written (Permission denied: {volume}/out) by user "
    assert str(told.value).startswith(message)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_file_where_a_folder_should_be_is_told_in_one_line(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"out: cannot be written .* or name another place"),
        write(tmp_path / "file/out"),
    ):
        pass
