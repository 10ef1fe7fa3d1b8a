"""One clear line and exit code 1 for a user's error, 2 for a wrong call, a traceback for a bug, 130 for Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = """
import sys, time
from core.cli import run
from core.errors import UserError
def main(what: str, number: int = 0) -> None:
    '''A step.'''
    if what == "refuse":
        raise UserError("a.png: not an image; replace it")
    if what == "refuse all":
        raise UserError("2 file(s) cannot be used", ["a.png: empty", "b.png: cut short"])
    if what == "refuse late":
        print("so far so good")
        raise UserError("a.png: not an image; replace it")
    if what == "bug":
        raise ZeroDivisionError("a bug")
    if what == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    print(what, number)
run(main)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", STEP, *arguments]
    return subprocess.Popen(line, stdout=-1, stderr=-1, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["done", "--number", "3"], 0, "done 3\n", ""),
        (["refuse"], 1, "", "error: a.png: not an image; replace it\n"),
        (["refuse all"], 1, "", "error: 2 file(s) cannot be used\n  a.png: empty\n  b.png: cut short\n"),
    ],
)
def test_what_a_user_sees(arguments: list[str], code: int, out: str, err: str) -> None:
    process = start(*arguments)
    assert process.communicate(timeout=60) == (out, err)
    assert process.returncode == code


def test_in_one_file_the_error_comes_last(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with (tmp_path / "log").open("w") as log:
        line = [sys.executable, "-c", STEP, "refuse late"]
        subprocess.run(line, stdout=log, stderr=log, cwd=ROOT, env=environment, check=False, timeout=60)
    assert (tmp_path / "log").read_text() == "so far so good\nerror: a.png: not an image; replace it\n"


@pytest.mark.parametrize("arguments", [[], ["done", "--nonsense"], ["done", "--number", "three"]])
def test_a_wrong_call(arguments: list[str]) -> None:
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith(" --help` shows the usage\n")
    assert err.count("\n") == 1


def test_a_bug_has_a_traceback() -> None:
    process = start("bug")
    assert "Traceback" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_interrupted_from_the_keyboard() -> None:
    process = start("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "interrupted: no partial output was written; run again to resume\n"
    assert process.returncode == 130
