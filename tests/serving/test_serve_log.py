"""The service's log: text for a person at a terminal, JSON for everything else."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from serving.http.logs import Text
from tests.conftest import Project, Trained
from tests.serving.serving import CHAMPION, launch, ready


@pytest.mark.slow
def test_a_terminal_gets_an_address_and_the_model_in_words(trained: Trained, package: Path) -> None:
    project = trained.project
    ours, theirs = os.openpty()
    line = project.line("serve", "--model", package, "--port", 0, "--engine", "onnxruntime", "--threads", 1)
    process = subprocess.Popen(line, cwd=project.root, env=project.environment, stdout=theirs)
    os.close(theirs)
    shown = ""
    try:
        while "model loaded" not in shown:
            shown += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGTERM)
        while True:
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:  # Linux's way to say that the other end is closed
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    lines = shown.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  listening  address http://127\.0\.0\.1:\d+, host 127\.0\.0\.1, port \d+, model \S+", lines[0]
    )
    (loaded,) = [each for each in lines if "  model loaded  " in each]
    assert re.search(r"cohort synthetic-sample, synthetic True, test_dice 0\.\d+", loaded)
    assert "gate" not in loaded, "a folder was never at the gate"
    assert "{" not in shown


@pytest.mark.full
@pytest.mark.slow
def test_the_log_says_what_the_gate_said(registry: Project) -> None:
    service = ready(launch(registry, CHAMPION))
    assert service.job.until(lambda: bool(service.log("model loaded")))
    (loaded,) = service.log("model loaded")
    assert (loaded["cohort"], loaded["synthetic"], loaded["gate"]) == ("synthetic-sample", True, "never asked")
    assert service.log("listening")[0]["address"] == service.url
    assert service.stop().returncode == 0
    registry.client().set_model_version_tag("lung-segmentation", "1", "promotion.verdict", "passed\x1b[31m")
    again = ready(launch(registry, CHAMPION))
    assert again.job.until(lambda: bool(again.log("model loaded")))
    assert again.log("model loaded")[0]["gate"] == "passed\\x1b[31m"
    assert again.stop().returncode == 0


def test_text_has_one_line_and_no_control_characters() -> None:
    record = logging.LogRecord("defunet.serve", logging.WARNING, "", 0, "an event", None, None)
    record.fields = {"reason": "red \x1b[31m\nnext", "empty": None, "flags": [], "zero": 0}
    line = Text().format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  warning: an event  reason red \\x1b\[31m\\nnext, zero 0", line)
