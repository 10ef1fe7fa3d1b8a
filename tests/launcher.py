"""Commands in processes of their own, forked from one that has imported the slow libraries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The folders of code that a project needs to run.
ROOMS = ("model", "core", "tracking", "registry", "components", "serving", "pipelines", "tools", "defunet")
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "GX_ANALYTICS_ENABLED": "false"}

# `python -m module arguments` in a process of its own, forked from one that has imported the slow libraries: 10 s of
# imports once, not for every command of every test.
LAUNCHER = """
import ctypes, gc, importlib, json, os, pathlib, resource, runpy, select, signal, sys
PR_SET_PDEATHSIG = 1
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.collect()
gc.freeze()  # else each command that ends visits all that was imported: 2 s of processor time
running = {}
while True:
    if select.select([sys.stdin], [], [], 0.005)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            if sys.platform == "linux":  # a command does not outlive tests that were killed
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            os.chdir(job["cwd"])
            os.environ.clear()
            os.environ.update(job["env"])
            for number, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            if job["largest_file"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
            sys.path[0], sys.argv = job["cwd"], [job["module"], *job["arguments"]]
            runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
            sys.exit()
        running[pid] = job
        print(pid, flush=True)
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            done = pathlib.Path(running.pop(pid)["done"])
            done.with_suffix(".partial").write_text(str(os.waitstatus_to_exitcode(status)))
            done.with_suffix(".partial").rename(done)
"""
PRELOADED = (
    *(
        "torch._dynamo",
        "git",
        "mlflow.pyfunc",
        "mlflow.data.pandas_dataset",
        "mlflow.store.tracking.sqlalchemy_store",
    ),
    *("torchmetrics.functional.classification", "sklearn.metrics", "scipy.stats", "monai.metrics.hausdorff_distance"),
    *("monai.metrics.surface_distance", "rich.progress", "pandas", "boto3", "cv2", "core.cli", "core.params"),
)


@dataclass(frozen=True)
class Job:
    """A command that runs by itself."""

    pid: int
    files: Path

    @property
    def output(self) -> str:
        return (self.files / "out").read_text()

    @property
    def errors(self) -> str:
        return (self.files / "err").read_text()

    @property
    def ended(self) -> bool:
        return (self.files / "done").exists()

    def until(self, moment: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait for the moment; tell whether it came before the command's end."""
        limit = time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            if moment():
                return True
            if self.ended:
                return False
            now = time.monotonic()
            assert now < limit, f"it never came: {self.output}"
            # What is costly to ask is asked less often, to leave the processors to the command.
            time.sleep(min(0.1, max(0.002, 4 * (now - asked))))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, line: list[str]) -> subprocess.CompletedProcess[str]:
        limit = time.monotonic() + 100
        while not self.ended:
            assert time.monotonic() < limit, f"it does not end: {self.output}"
            time.sleep(0.01)
        code = int((self.files / "done").read_text())
        return subprocess.CompletedProcess(line, code, self.output, self.errors)


class Launcher:
    """Starts commands; see :data:`LAUNCHER`."""

    def __init__(self, files: Path, code: Path = ROOT) -> None:
        self.files, self.started = files, 0
        environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"} | QUIET
        # Code that a test edits is imported by each command anew.
        modules = [name for name in PRELOADED if code == ROOT or name.partition(".")[0] not in ROOMS]
        line = [sys.executable, "-c", LAUNCHER, *modules]
        self.process = subprocess.Popen(line, stdin=-1, stdout=-1, text=True, env=environment, cwd=code)

    def start(self, line: list[str], cwd: Path, env: dict[str, str], largest_file: int = 0) -> Job:
        assert line[:2] == [sys.executable, "-m"]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.started += 1
        files = self.files / str(self.started)
        files.mkdir()
        for name in ("out", "err"):
            (files / name).touch()
        job = {"module": line[2], "arguments": line[3:], "cwd": str(cwd), "env": env, "largest_file": largest_file}
        print(
            json.dumps(job | {name: str(files / name) for name in ("out", "err", "done")}),
            file=self.process.stdin,
            flush=True,
        )
        return Job(int(self.process.stdout.readline()), files)
