"""What a decoder's process cannot do, even if a file makes it run somebody else's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.xray import sandbox

CONFINED = "import os; from serving.xray.sandbox import confine; here = confine(); "
ROOT = Path(__file__).parents[2]


def run(code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", CONFINED + code]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.fixture(scope="module", autouse=True)
def filters() -> None:
    done = run("print(here)")
    if done.stdout.strip() != "True":
        pytest.skip("this kernel has no seccomp filters")


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socketpair()",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['/bin/true'])",
        "os.kill(os.getppid(), 0)",
        "open('/tmp/defunet-sandbox-test', 'w')",
        "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
        "os.mkdir('/tmp/defunet-sandbox-test')",
        "os.unlink('/tmp/defunet-sandbox-test')",
        "os.rename('/tmp/a', '/tmp/b')",
        "os.chmod('/tmp', 0o777)",
        "os.symlink('/etc/passwd', '/tmp/defunet-sandbox-test')",
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    ],
)
def test_what_leaves_the_process_is_refused(code: str) -> None:
    done = run(code)
    assert done.returncode == 1, done.stdout
    refusals = ("PermissionError", "Operation not permitted", "ValueError: not allowed to raise maximum limit")  # EPERM
    assert any(each in done.stderr for each in refusals), done.stderr
    assert not Path("/tmp/defunet-sandbox-test").exists()  # noqa: S108


def test_where_there_are_no_filters_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.available()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not sandbox.available()
    assert not sandbox.confine()


def test_threads_and_reading_go_on() -> None:
    work = "threading.Thread(target=print, args=(open('/proc/self/comm').read(),))"
    done = run(f"import threading; work = {work}; work.start(); work.join()")
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout
